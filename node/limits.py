"""Every bound on a quantity that a peer controls, with its unit and its reason. Layer 0.

Nothing received is allocated, stored, waited for or repeated beyond one of these.
"""

from __future__ import annotations

from typing import Final

# --- wire ---------------------------------------------------------------------------------------------

WIRE_DEPTH_MAX: Final = 8  # arrays within arrays: the deepest record needs 4
WIRE_ARRAY_ITEMS_MAX: Final = 4_096  # items: the longest list on the wire, a page of a roster, has 2,048
FRAME_BYTES_MAX: Final = (
    65_507 - 4
)  # bytes: one frame with its header is one Noise message (network.md, trap 2)
STREAM_READ_BYTES: Final = 65_536  # bytes: what py-libp2p reads best at once (network.md, trap 2)

# --- geometry (design.md, section 2) ------------------------------------------------------------------

BLOCK_BYTES: Final = 65_472  # bytes: 1023 x 64, no power of two, fits a frame
BLOCK_ALIGN_BYTES: Final = 64  # bytes: the smallest block, and the stride unit of the coding engines
SEGMENT_STRIPES: Final = 64  # stripes a segment: 42 MB of plaintext, 4.2 MB a shard at 10/30
TOTAL_SHARDS_MAX: Final = 255  # GF(2^8) has no more rows
SEGMENTS_MAX: Final = 120_000  # segments a file: 5 TB at 10/30
SEGMENT_MANIFEST_BYTES_MAX: Final = 16 * 1024  # bytes: 255 roots, 64 stripe hashes and the rest are 11 KiB
FILE_MANIFEST_BYTES_MAX: Final = 4 * 1024 * 1024  # bytes: 120,000 segment ids and a 64 KiB folder index
FOLDER_INDEX_BYTES_MAX: Final = 64 * 1024  # bytes: a larger folder index is a sealed file of its own

# --- dht (design.md, section 5) -----------------------------------------------------------------------

DHT_ANNOUNCE_INTERVAL_S: Final = 79_200  # seconds: two sweeps fit into the life of a provider record
DHT_BUCKET_CONTACTS: Final = 20  # contacts: a bucket, a reply, the holders of a record (specification's k)
DHT_LOOKUP_PARALLEL: Final = 10  # requests of one lookup in flight: slow ones don't hold it up
DHT_LOOKUP_PATHS: Final = 3  # disjoint paths: whoever owns one does not own the result
DHT_LOOKUP_WIDTH_MAX: Final = 64  # contacts: what a crowded radius may cost a lookup
DHT_LOOKUP_QUERIES_MAX: Final = 256  # contacts asked in one lookup: four times the width, liars included
DHT_LOOKUP_SLOW_S: Final = 1.0  # seconds: after that a lookup goes on without the answer
DHT_REPLY_CONTACTS_MAX: Final = 20  # contacts read of one reply: what the specification sends
DHT_REPLY_PROVIDERS_MAX: Final = 64  # providers read of one reply: what a node keeps of a key
DHT_CONTACT_ADDRESSES_MAX: Final = 8  # addresses kept of a peer: two families, a relay or two
DHT_ADDRESS_BYTES_MAX: Final = 256  # bytes of a binary multiaddr: a relayed address with two ids has 110
DHT_ADDRESS_CACHE_ITEMS: Final = 8_192  # addresses whose two forms are remembered: 4 MB
DHT_CONTACT_FAILURES_PASSED_ON: Final = 2  # requests: a contact that failed as many is not told to others
DHT_CONTACT_FAILURES_MAX: Final = 12  # requests: about a night of tries, then a contact is forgotten
DHT_SUBNET_BUCKET_MAX: Final = 2  # contacts of one /24 (IPv6: /48) in a bucket
DHT_SUBNET_TABLE_MAX: Final = 6  # contacts of one /24 (IPv6: /48) in the table
DHT_KEY_BYTES_MAX: Final = 128  # bytes of a record's key: a multihash has 34, a hint's key 60
DHT_PEER_ID_BYTES_MAX: Final = 42  # bytes of a binary peer id: the longest key that is its own hash
DHT_VALUE_BYTES_MAX: Final = 8_192  # bytes of a value record: a placement hint fills it
DHT_MESSAGE_BYTES_MAX: Final = 65_536  # bytes: 20 contacts, 64 providers and a value, all with 8 addresses
DHT_REPLY_PROVIDERS_BYTES_MAX: Final = 8_192  # bytes: half of what rust-libp2p reads of a message
DHT_PROVIDER_EXPIRY_S: Final = 48 * 3_600  # seconds: outlives one missed sweep
DHT_VALUE_EXPIRY_S: Final = 48 * 3_600  # seconds: whoever cares stores it again, like a provider record
DHT_PROVIDERS_PER_KEY_MAX: Final = 64  # provider records of a key: five holders announce a segment
DHT_PROVIDER_RECORDS_PER_PEER_MAX: Final = 50_000  # records: in a small network each node keeps all keys of all
DHT_PROVIDER_RECORDS_MAX: Final = 500_000  # records: 100 MB of the disk at 200 bytes
DHT_VALUE_RECORDS_PER_PEER_MAX: Final = 1_000  # records: as many files put through one peer in two days
DHT_VALUE_RECORDS_MAX: Final = 10_000  # records: 80 MB of the disk
DHT_CHANGES_PER_COMMIT_MAX: Final = 64  # changes: where LMDB's commits stop getting cheaper
DHT_REQUEST_S: Final = 5.0  # seconds: a dial and a reply over the slowest link worth asking
DHT_REQUESTS_IN_FLIGHT_MAX: Final = 64  # requests of all lookups together: as many dials at once
DHT_ANNOUNCE_BATCH_KEYS: Final = 32  # keys: announcements in flight on one stream, 16 KB
DHT_STREAMS_MAX: Final = 1_024  # incoming streams: idle ones end within DHT_IDLE_S
DHT_STREAMS_PER_PEER_MAX: Final = 32  # incoming streams of a peer: its lookups in a network of a dozen nodes
DHT_IDLE_S: Final = 10.0  # seconds without a whole request, then a stream is reset
DHT_SWEEP_STEP_S: Final = 300.0  # seconds between steps of the sweep
DHT_SWEEP_PAGE_KEYS: Final = 1_024  # keys of a region announced at once: 1 MB with their lists
DHT_REGION_LOOKUPS_MAX: Final = 8  # lookups to know a region: two are usual
DHT_PREIMAGE_TRIES_MAX: Final = 65_536  # hashes to hit a subtree of up to 12 bits: 50 ms, 3 on average
DHT_PREIMAGE_BITS: Final = 12  # bits of a subtree that trying hits with all but certainty
DHT_VERIFY_QUEUE_MAX: Final = 256  # peers heard of that wait to be tried: a full table's worth
DHT_VERIFY_PARALLEL: Final = 8  # peers tried at once: a flood of names makes no flood of dials
DHT_LEFT_ALONE_S: Final = 300.0  # seconds until a peer that did not answer is tried again unasked
DHT_LEFT_ALONE_PEERS_MAX: Final = 4_096  # peers remembered as not answering
DHT_MAINTENANCE_S: Final = 60.0  # seconds between looks at what is due
DHT_NEIGHBOURHOOD_FIRST_S: Final = 15.0  # seconds to the second lookup of the own key, doubling from there
DHT_NEIGHBOURHOOD_S: Final = 3_600.0  # seconds between lookups of the own key in the long run
DHT_BUCKET_REFRESH_S: Final = 14_400.0  # seconds without a lookup, then a bucket is refreshed
DHT_UNSEEN_S: Final = 7_200.0  # seconds of silence, then a contact is asked for a sign of life
DHT_VALUE_QUORUM: Final = 4  # holders of the same best value: enough to end a lookup
DHT_SAMPLE_BARREN_MAX: Final = 3  # random lookups in a row that show nobody new, then all are known
DHT_SIZE_SAMPLES: Final = 16  # lookups whose view of the network's size is remembered
DHT_EXPIRE_STEP_RECORDS: Final = 1_000  # records dropped in one commit: 30 ms
DHT_SNAPSHOT_S: Final = 900.0  # seconds between saves of the routing table
DHT_CORRECTIONS_MAX: Final = 16  # holders of outdated values corrected at once
DHT_HOLDERS_MAX: Final = 128  # nodes that get a record: 64 within the radius and as many behind a crowd
DHT_CONTACT_CACHE_ITEMS: Final = 2_048  # contacts whose decoded form is remembered: 8 MB at the longest
DHT_EXPIRE_PAUSE_S: Final = 300.0  # seconds between looks for expired records
# --- framing (node/framing.py) ------------------------------------------------------------------------

STREAM_WRITE_BYTES_MAX: Final = (
    65_507  # bytes a write: with 12 of Yamux header the most one Noise message takes
)
BLOCK_HEADER_BYTES_MAX: Final = 30  # bytes: what a full block leaves of a write, after two lengths (4 + 1)
PREAMBLE_BYTES_MAX: Final = 1_024  # bytes: network id, version and 16 short parameters
PREAMBLE_PARAMETERS_MAX: Final = 16  # parameters of a network: the specification names 4
PREAMBLE_DEADLINE_S: Final = 15  # seconds: it leaves with the opener's first message
NETWORK_ID_BYTES_MAX: Final = 64  # bytes: a short name, shown to people
ERROR_CODE_BYTES_MAX: Final = 32  # bytes: one word
ERROR_TEXT_CHARACTERS_MAX: Final = 256  # characters: one line for a person

# --- connections and streams (node/net) ---------------------------------------------------------------

CONNECTION_SILENCE_S: Final = 45  # seconds: three pings unanswered; a stopped process is noticed (trap 6)
DIAL_TIMEOUT_S: Final = 10  # seconds a dial with its handshake: a few round trips of the worst link
DIAL_ADDRESSES_MAX: Final = 8  # addresses tried of one peer: LAN, IPv4 and IPv6 of a home are 4
