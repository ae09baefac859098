// A js-libp2p node driven by lines of JSON: {"id", "op", ...} on stdin, {"id", "ok", "result" | "error"} on
// stdout. The first line on stdout says who it is. It shares no code with Cairn: that is its use.
import './polyfill.js'

import { answerCalls } from '../js_process.mjs'

import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { identify } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { peerIdFromString } from '@libp2p/peer-id'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { CID } from 'multiformats/cid'
import { decode as decodeMultihash } from 'multiformats/hashes/digest'

const RAW = 0x55
const DHT_PROTOCOL = '/cairn/kad/1.0.0'
const OPERATION_TIMEOUT_MS = 200_000

const acceptAny = { validator: async () => {}, selector: () => 0 }
const namespaces = (process.env.DHT_NAMESPACES ?? 'cairn-hint').split(',')
const perNamespace = (value) => Object.fromEntries(namespaces.map((name) => [name, value]))

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: {
    identify: identify(),
    ping: ping(),
    dht: kadDHT({
      protocol: DHT_PROTOCOL,
      clientMode: false,
      peerInfoMapper: passthroughMapper,
      allowQueryWithZeroPeers: true,
      validators: perNamespace(acceptAny.validator),
      selectors: perNamespace(acceptAny.selector)
    })
  }
})

const identified = new Map()
node.addEventListener('peer:identify', ({ detail }) => {
  identified.set(detail.peerId.toString(), {
    agent: detail.agentVersion,
    protocols: detail.protocols,
    addresses: detail.listenAddrs.map(String),
    observed: detail.observedAddr?.toString()
  })
})

// Serves an echo, so that Cairn's streams are tried in both directions.
await node.handle('/cairn/echo/1', async (stream) => {
  for await (const chunk of stream) {
    const bytes = chunk instanceof Uint8Array ? chunk : chunk.subarray()
    if (!stream.send(bytes)) await stream.onDrain()
  }
  await stream.close()
})

const bytesOf = (hex) => Uint8Array.from(Buffer.from(hex, 'hex'))
const cidOf = (multihashHex) => CID.createV1(RAW, decodeMultihash(bytesOf(multihashHex)))
const options = () => ({ signal: AbortSignal.timeout(OPERATION_TIMEOUT_MS) })

async function echo ({ peer, size }) {
  const stream = await node.dialProtocol(peerIdFromString(peer), '/cairn/echo/1', options())
  const sent = new Uint8Array(size).map((_, index) => index % 251)
  const received = []
  const reading = (async () => {
    for await (const chunk of stream) received.push(chunk instanceof Uint8Array ? chunk : chunk.subarray())
  })()
  for (let start = 0; start < size; start += 65_536) {
    if (!stream.send(sent.subarray(start, start + 65_536))) await stream.onDrain()
  }
  await stream.close()
  await reading
  return Buffer.compare(Buffer.concat(received), Buffer.from(sent)) === 0
}

async function findProviders ({ multihash, wanted }) {
  const found = []
  for await (const provider of node.contentRouting.findProviders(cidOf(multihash), options())) {
    found.push({ peer: provider.id.toString(), addresses: provider.multiaddrs.map(String) })
    if (found.length >= wanted) break
  }
  return found
}

const operations = {
  dial: async ({ address }) => (await node.dial(multiaddr(address), options())).remotePeer.toString(),
  ping: async ({ peer }) => node.services.ping.ping(peerIdFromString(peer), options()),
  identified: async ({ peer }) => identified.get(peer) ?? null,
  connected: async () => node.getPeers().map(String),
  echo,
  inRoutingTable: async ({ peer }) =>
    (await node.services.dht.routingTable.find(peerIdFromString(peer))) != null,
  provide: async ({ multihash }) => { await node.contentRouting.provide(cidOf(multihash), options()); return true },
  findProviders,
  put: async ({ key, value }) => { await node.contentRouting.put(bytesOf(key), bytesOf(value), options()); return true },
  get: async ({ key }) => Buffer.from(await node.contentRouting.get(bytesOf(key), options())).toString('hex'),
  findPeer: async ({ peer }) =>
    (await node.peerRouting.findPeer(peerIdFromString(peer), options())).multiaddrs.map(String)
}

await answerCalls(
  { peer: node.peerId.toString(), addresses: node.getMultiaddrs().map(String) },
  operations
)
await node.stop()
process.exit(0)
