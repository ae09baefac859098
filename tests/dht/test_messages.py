"""The wire format: frozen bytes, bounds, and what is left out."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import limits
from node.dht import kad_pb2
from node.dht.messages import (
    Message,
    MessageType,
    Record,
    decode,
    encode,
    fitting_providers,
    frame,
    id_text,
    received_text,
    take_frame,
)
from node.errors import ProtocolError
from node.units import Contact, Multiaddr, PeerId
from tests.dht.support import contact_of, multihash_of, peer_id_of

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "kad_messages.json").read_text())

contacts = st.builds(
    lambda seed, ports: Contact(
        peer_id_of(seed), tuple(Multiaddr(f"/ip4/8.8.4.4/tcp/{port}") for port in sorted(ports))
    ),
    st.integers(1, 100),
    st.sets(st.integers(1, 65_535), max_size=limits.DHT_CONTACT_ADDRESSES_MAX),
)
messages = st.builds(
    Message,
    type=st.sampled_from(MessageType),
    key=st.binary(max_size=limits.DHT_KEY_BYTES_MAX),
    record=st.none()
    | st.builds(Record, st.binary(max_size=50), st.binary(max_size=50), st.text(max_size=30)),
    closer=st.lists(contacts, max_size=limits.DHT_REPLY_CONTACTS_MAX).map(tuple),
    providers=st.lists(contacts, max_size=5).map(tuple),
)


def _contact(item: dict[str, Any]) -> Contact:
    return Contact(PeerId(bytes.fromhex(item["id"])), tuple(item["addresses"]))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["name"]))
def test_vectors(vector: dict[str, Any]) -> None:
    record = vector.get("record")
    message = Message(
        MessageType[vector["type"]],
        bytes.fromhex(vector["key"]),
        Record(bytes.fromhex(record["key"]), bytes.fromhex(record["value"]), record["received"])
        if record
        else None,
        tuple(map(_contact, vector.get("closer", ()))),
        tuple(map(_contact, vector.get("providers", ()))),
    )
    data = bytes.fromhex(vector["bytes"])
    assert encode(message) == data
    assert decode(data) == message


@given(messages)
def test_round_trip(message: Message) -> None:
    assert decode(encode(message)) == message


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_a_protocol_error(data: bytes) -> None:
    try:
        message = decode(data)
    except ProtocolError:
        return
    assert decode(encode(message)) == message


@given(st.lists(st.binary(max_size=400), max_size=5), st.integers(1, 50))
def test_frames_come_out_as_they_went_in_however_cut(parts: list[bytes], step: int) -> None:
    stream = b"".join(map(frame, parts))
    buffer = bytearray()
    found = []
    for start in range(0, len(stream), step):
        buffer += stream[start : start + step]
        while (data := take_frame(buffer)) is not None:
            found.append(data)
    assert found == parts
    assert not buffer


@pytest.mark.parametrize(
    "header", [b"\x80\x80\x04\x01", b"\xff\xff\xff\xff\xff", b"\x80\x00", b"\xff\xff\xff\x7f"]
)
def test_a_length_over_the_cap_or_not_minimal_is_refused_at_once(header: bytes) -> None:
    if header == b"\x80\x80\x04\x01":
        assert take_frame(bytearray(frame(bytes(limits.DHT_MESSAGE_BYTES_MAX)))) is not None
        header = frame(bytes(limits.DHT_MESSAGE_BYTES_MAX + 1))[:3]
    with pytest.raises(ProtocolError):
        take_frame(bytearray(header))


@given(st.binary(max_size=100))
def test_any_bytes_are_frames_or_a_protocol_error(data: bytes) -> None:
    buffer = bytearray(data)
    with suppress(ProtocolError):
        while take_frame(buffer) is not None:
            pass


@pytest.mark.parametrize(
    "wire",
    [
        kad_pb2.Message(type=6),
        kad_pb2.Message(type=-1),
        kad_pb2.Message(type=4, key=bytes(limits.DHT_KEY_BYTES_MAX + 1)),
        kad_pb2.Message(type=0, record=kad_pb2.Record(value=bytes(limits.DHT_VALUE_BYTES_MAX + 1))),
    ],
    ids=["unknown type", "negative type", "long key", "large value"],
)
def test_messages_beyond_the_rules_are_refused(wire: kad_pb2.Message) -> None:
    with pytest.raises(ProtocolError):
        decode(wire.SerializeToString())


def test_too_large_a_message_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(ProtocolError, match="bytes"):
        decode(bytes(limits.DHT_MESSAGE_BYTES_MAX + 1))


def test_what_a_peer_entry_should_not_hold_is_left_out() -> None:
    peer_id, other_id = peer_id_of(1), peer_id_of(2)
    good = "/ip4/8.8.4.4/tcp/4001"
    addresses = [
        bytes.fromhex("0408080404060fa1"),  # good
        b"\xff\xff\xff",
        bytes(limits.DHT_ADDRESS_BYTES_MAX + 1),
    ]
    own_suffix = encode(Message(MessageType.PING, closer=(Contact(peer_id, (_p2p(good, peer_id),)),)))
    other_suffix = encode(Message(MessageType.PING, closer=(Contact(peer_id, (_p2p(good, other_id),)),)))
    wire = kad_pb2.Message(type=5)
    wire.closerPeers.add(id=b"\x01\x02\x03", addrs=addresses)
    wire.closerPeers.add(id=peer_id, addrs=addresses)
    assert decode(wire.SerializeToString()).closer == (Contact(peer_id, (Multiaddr(good),)),)
    assert decode(own_suffix).closer == (Contact(peer_id, (Multiaddr(good),)),)
    assert decode(other_suffix).closer == (Contact(peer_id),)


def _p2p(address: str, peer_id: bytes) -> Multiaddr:
    return Multiaddr(f"{address}/p2p/{id_text(peer_id)}")


def test_a_relayed_address_stays_whole() -> None:
    relay = Multiaddr(f"{_p2p('/ip4/8.8.4.4/tcp/4001', peer_id_of(9))}/p2p-circuit")
    message = Message(MessageType.PING, closer=(Contact(peer_id_of(1), (relay,)),))
    assert decode(encode(message)) == message


def test_lists_and_addresses_are_bounded() -> None:
    wire = kad_pb2.Message(type=4)
    for seed in range(100):
        peer = wire.closerPeers.add(id=peer_id_of(seed))
        wire.providerPeers.add(id=peer_id_of(seed))
        peer.addrs.extend(bytes.fromhex("040808040406") + port.to_bytes(2, "big") for port in range(1, 50))
    message = decode(wire.SerializeToString())
    assert len(message.closer) == limits.DHT_REPLY_CONTACTS_MAX
    assert len(message.providers) == limits.DHT_REPLY_PROVIDERS_MAX
    assert {len(contact.addresses) for contact in message.closer} == {limits.DHT_CONTACT_ADDRESSES_MAX}


def test_the_fullest_reply_fits_what_other_implementations_read() -> None:
    many = tuple(Multiaddr(f"/ip6/2a00:1450:4001:82f::{port}/tcp/{port}") for port in range(1, 9))
    providers = fitting_providers([Contact(peer_id_of(seed), many) for seed in range(64)])
    assert len(providers) >= 20
    closer = tuple(contact_of(seed) for seed in range(20))
    fullest = Message(MessageType.GET_PROVIDERS, multihash_of(1), closer=closer, providers=providers)
    assert len(encode(fullest)) < 16 * 1024
    few = [Contact(peer_id_of(seed)) for seed in range(64)]
    assert fitting_providers(few) == tuple(few)


def test_the_time_of_a_record_has_the_fraction_that_js_libp2p_parses() -> None:
    assert received_text(1_800_000_000) == "2027-01-15T08:00:00.000000000Z"


def test_addresses_without_a_binary_form_are_left_out_when_sent() -> None:
    odd = Contact(peer_id_of(1), (Multiaddr("/nonsense/1"), Multiaddr("/ip4/8.8.4.4/tcp/1")))
    assert decode(encode(Message(MessageType.PING, closer=(odd,)))).closer[0].addresses == odd.addresses[1:]
