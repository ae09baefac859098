"""The messages of the libp2p kad-dht specification, decoded and bounded. Layer 2, pure.

On a stream every message is preceded by its length as an unsigned varint. What can't be understood within a
peer (an id or an address of an unknown kind) is left out, as the specification's other implementations do;
what breaks the format is refused. Invariant: decoding allocates no more than the message's own bounded size
implies. Source: github.com/libp2p/specs/blob/master/kad-dht/README.md, "RPC messages".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from functools import lru_cache
from itertools import islice

import base58
from google.protobuf.message import DecodeError
from multiaddr import Multiaddr as BinaryMultiaddr

from node import limits
from node.dht import kad_pb2
from node.dht.records import is_peer_id
from node.errors import ProtocolError
from node.units import Contact, Multiaddr, PeerId

PROTOCOL = "/cairn/kad/1.0.0"


class MessageType(IntEnum):
    """What a request asks, and what a reply answers."""

    PUT_VALUE = 0
    GET_VALUE = 1
    ADD_PROVIDER = 2
    GET_PROVIDERS = 3
    FIND_NODE = 4
    PING = 5


@dataclass(frozen=True, slots=True)
class Record:
    """A value under its key; `received` is RFC 3339 text, for information."""

    key: bytes
    value: bytes
    received: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """A request or its reply."""

    type: MessageType
    key: bytes = b""
    record: Record | None = None
    closer: tuple[Contact, ...] = ()
    providers: tuple[Contact, ...] = ()


def encode(message: Message) -> bytes:
    """The message as bytes, without the length before it; addresses that have no binary form are left out."""
    wire = kad_pb2.Message(type=int(message.type), key=message.key)
    if message.record is not None:
        wire.record.key = message.record.key
        wire.record.value = message.record.value
        wire.record.timeReceived = message.record.received
    _add_peers(wire.closerPeers, message.closer)
    _add_peers(wire.providerPeers, message.providers)
    data: bytes = wire.SerializeToString()
    return data


def decode(data: bytes) -> Message:
    """Raises `ProtocolError` for what is no message, or is larger than any should be."""
    if len(data) > limits.DHT_MESSAGE_BYTES_MAX:
        raise ProtocolError(f"a DHT message of {len(data)} bytes")
    wire = kad_pb2.Message()
    try:
        wire.ParseFromString(data)
    except DecodeError as error:
        raise ProtocolError("not a DHT message") from error
    try:
        kind = MessageType(wire.type)
    except ValueError as error:
        raise ProtocolError(f"DHT message of unknown type {wire.type}") from error
    if len(wire.key) > limits.DHT_KEY_BYTES_MAX:
        raise ProtocolError(f"a DHT key of {len(wire.key)} bytes")
    record = None
    if wire.HasField("record"):
        if len(wire.record.value) > limits.DHT_VALUE_BYTES_MAX:
            raise ProtocolError(f"a DHT value of {len(wire.record.value)} bytes")
        record = Record(wire.record.key, wire.record.value, wire.record.timeReceived)
    return Message(
        kind,
        wire.key,
        record,
        _contacts(wire.closerPeers, limits.DHT_REPLY_CONTACTS_MAX),
        _contacts(wire.providerPeers, limits.DHT_REPLY_PROVIDERS_MAX),
    )


def frame(data: bytes) -> bytes:
    """The bytes that go on a stream: the length as an unsigned varint, then the data."""
    size = len(data)
    header = bytearray()
    while size >= 0x80:
        header.append(size & 0x7F | 0x80)
        size >>= 7
    header.append(size)
    return bytes(header) + data


def take_frame(buffer: bytearray) -> bytes | None:
    """Remove the first complete frame from `buffer` and return its data; None until it is complete.

    Raises `ProtocolError` as soon as the length is over the cap or not minimal.
    """
    size = 0
    for position, byte in enumerate(buffer[:4]):
        size |= (byte & 0x7F) << 7 * position
        if size > limits.DHT_MESSAGE_BYTES_MAX:
            raise ProtocolError(f"a DHT message of at least {size} bytes")
        if byte < 0x80:
            if byte == 0 and position > 0:
                raise ProtocolError("a length that is not minimal")
            end = position + 1 + size
            if len(buffer) < end:
                return None
            data = bytes(buffer[position + 1 : end])
            del buffer[:end]
            return data
    if len(buffer) >= 4:
        raise ProtocolError("a length that does not end")
    return None


def received_text(now_s: int) -> str:
    """`timeReceived` of a record: RFC 3339 with a fraction, which js-libp2p insists on."""
    return datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.000000000Z")


def fitting_providers(providers: Iterable[Contact]) -> tuple[Contact, ...]:
    """As many providers as a reply should carry: rust-libp2p reads 16 KiB, of which closer contacts and a
    value have their share."""
    kept: list[Contact] = []
    budget = limits.DHT_REPLY_PROVIDERS_BYTES_MAX
    for provider in providers:
        budget -= 64 + sum(len(_address_bytes(address)) + 4 for address in provider.addresses)
        if budget < 0 or len(kept) == limits.DHT_REPLY_PROVIDERS_MAX:
            break
        kept.append(provider)
    return tuple(kept)


def _add_peers(target: object, contacts: Iterable[Contact]) -> None:
    for contact in contacts:
        peer = target.add()  # type: ignore[attr-defined]  # a repeated composite container
        peer.id = contact.peer_id
        for address in contact.addresses[: limits.DHT_CONTACT_ADDRESSES_MAX]:
            data = _address_bytes(address)
            if data:
                peer.addrs.append(data)


def _contacts(peers: Iterable[kad_pb2.Peer], count_max: int) -> tuple[Contact, ...]:
    contacts = (_contact(peer.id, tuple(peer.addrs[: limits.DHT_CONTACT_ADDRESSES_MAX])) for peer in peers)
    return tuple(islice((contact for contact in contacts if contact is not None), count_max))


@lru_cache(maxsize=limits.DHT_CONTACT_CACHE_ITEMS)
def _contact(peer_id: bytes, binary_addresses: tuple[bytes, ...]) -> Contact | None:
    """The contact that a peer entry means; None if its id can't be one."""
    if not is_peer_id(peer_id):
        return None
    suffix = "/p2p/" + id_text(peer_id)
    addresses: dict[Multiaddr, None] = {}
    for data in binary_addresses:
        address = _address_text(data) if len(data) <= limits.DHT_ADDRESS_BYTES_MAX else None
        if address is None:
            continue
        bare = address.removesuffix(suffix)
        if "/p2p/" in bare.rpartition("/p2p-circuit")[2]:
            continue  # the address of somebody else
        addresses[Multiaddr(bare)] = None
    return Contact(PeerId(peer_id), tuple(addresses))


@lru_cache(maxsize=limits.DHT_ADDRESS_CACHE_ITEMS)
def _address_bytes(address: Multiaddr) -> bytes:
    """The binary form; empty if it has none."""
    try:
        return bytes(BinaryMultiaddr(address).to_bytes())
    except Exception:  # noqa: BLE001  # the package raises whatever its codecs raise on text it can't encode
        return b""


@lru_cache(maxsize=limits.DHT_ADDRESS_CACHE_ITEMS)
def _address_text(data: bytes) -> Multiaddr | None:
    """The text form; None for bytes of no known kind."""
    try:
        return Multiaddr(str(BinaryMultiaddr(data)))
    except Exception:  # noqa: BLE001  # the package raises whatever its codecs raise on bytes it can't decode
        return None


@lru_cache(maxsize=limits.DHT_ADDRESS_CACHE_ITEMS)
def id_text(peer_id: bytes) -> str:
    """A peer id as people read it."""
    return str(base58.b58encode(peer_id), "ascii")
