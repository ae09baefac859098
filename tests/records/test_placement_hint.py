"""Hints: as many holders as fit, and no forged one gets past a node that never saw the file."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node import limits, wire
from node.crypto.hashing import blake3_256
from node.crypto.identity import peer_id_of
from node.crypto.signing import KeyPair
from node.errors import CryptoError, ProtocolError
from node.records.placement_hint import (
    FILE_MANIFEST_TAG,
    OWNER_KEY_OFFSET,
    HintValidator,
    PlacementHint,
    fit_holders,
    hint_key,
    owner_key_in,
    validate_hint,
)
from node.units import Contact, FileHash, Multiaddr, OwnerKey, PeerId

NETWORK = "cairn-test"
NOW_S = 1_800_000_000
OWNER = KeyPair.from_seed(b"o" * 32)
STRANGER = KeyPair.from_seed(b"x" * 32)


def manifest(length: int = 3000, owner: KeyPair = OWNER) -> bytes:
    """Bytes that begin like a file manifest of 12 fields."""
    head = wire.encode([FILE_MANIFEST_TAG, 1, owner.public, *[0] * 9])
    return head.ljust(length, b"m")


def peer(number: int) -> PeerId:
    return peer_id_of(number.to_bytes(32, "big"))


def holders(count: int, addresses: int = 2) -> list[Contact]:
    return [
        Contact(
            peer(number),
            tuple(Multiaddr(f"/ip4/192.0.2.{number % 256}/tcp/{4001 + rank}") for rank in range(addresses)),
        )
        for number in range(count)
    ]


def make(
    *, data: bytes | None = None, owner: KeyPair = OWNER, count: int = 3, sequence: int = 5, page: int = 0
) -> PlacementHint:
    return PlacementHint.make(
        network=NETWORK,
        manifest=manifest() if data is None else data,
        owner=owner,
        sequence=sequence,
        expires_s=NOW_S + 86_400,
        holders=holders(count),
        page=page,
    )


def check(hint: PlacementHint, key: bytes | None = None, now_s: int = NOW_S) -> PlacementHint:
    return validate_hint(key or hint.key(), hint.encode(), now_s=now_s, network=NETWORK)


@pytest.mark.parametrize("length", [60, 1023, 1024, 1025, 3000, 70_000, limits.FILE_MANIFEST_BYTES_MAX])
def test_a_hint_proves_its_owner_whatever_the_manifests_length(length: int) -> None:
    hint = make(data=manifest(length))
    assert hint.file_hash == blake3_256(manifest(length))
    assert len(hint.first_chunk) == min(length, 1024)
    assert check(hint) == hint
    assert [holder.peer_id for holder in hint.holders] == [peer(0), peer(1), peer(2)]


def test_the_owner_key_stands_at_its_offset() -> None:
    assert manifest()[OWNER_KEY_OFFSET : OWNER_KEY_OFFSET + 32] == OWNER.public
    assert owner_key_in(manifest()[:1024]) == OWNER.public


@pytest.mark.parametrize(
    "data",
    [b"", manifest()[:46], b"\xdc" + manifest()[1:], wire.encode(["cairn/file", 2, bytes(32)]),
     wire.encode(["cairn/segm", 1, bytes(32)]), wire.encode(["cairn/file", 1, bytes(33)])],
)  # fmt: skip
def test_other_beginnings_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="beginning of a file manifest"):
        owner_key_in(data)


def test_a_stranger_can_make_no_hint_for_a_file() -> None:
    with pytest.raises(CryptoError, match="owner key of the manifest"):
        make(owner=STRANGER)
    good = make()
    own = make(data=manifest(owner=STRANGER), owner=STRANGER)
    forgeries = [
        # The stranger's own manifest, under the victim's hash.
        replace(own, file_hash=good.file_hash),
        # The victim's proof, the stranger's key.
        replace(good, owner_key=OwnerKey(STRANGER.public)),
        # The stranger's key in the victim's first KiB.
        replace(own, file_hash=good.file_hash, path=good.path),
    ]
    for forgery in forgeries:
        signed = replace(forgery, signature=forgery.sign_body(STRANGER))
        with pytest.raises(ProtocolError):
            check(signed, key=hint_key(good.file_hash))


@given(st.data())
@settings(max_examples=60)
def test_a_changed_byte_is_refused(data: st.DataObject) -> None:
    encoded = bytearray(GOOD)
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ProtocolError):
        validate_hint(GOOD_KEY, bytes(encoded), now_s=NOW_S, network=NETWORK)


def test_a_hint_holds_under_its_key_only() -> None:
    hint = make(data=manifest(5000), page=2)
    assert hint.key() == b"/cairn-hint/" + hint.file_hash + b"\0\2"
    for key in (hint_key(hint.file_hash), hint_key(FileHash(bytes(32)), 2), b"/pk/" + hint.file_hash, b""):
        with pytest.raises(ProtocolError, match="another file's key"):
            validate_hint(key, hint.encode(), now_s=NOW_S, network=NETWORK)


def test_a_hint_lives_neither_for_ever_nor_after_its_end() -> None:
    hint = make()
    check(hint, now_s=hint.expires_s - 1)
    with pytest.raises(ProtocolError, match="expired"):
        check(hint, now_s=hint.expires_s)
    with pytest.raises(ProtocolError, match="too long"):
        check(hint, now_s=hint.expires_s - limits.HINT_LIFE_S_MAX - 1)


def test_the_validator_of_the_dht() -> None:
    validator = HintValidator(NETWORK)
    hint = make(sequence=9)
    validator.validate(hint.key(), hint.encode(), now_s=NOW_S)
    assert validator.sequence(hint.key(), hint.encode()) == 9
    with pytest.raises(ProtocolError, match="another network"):
        HintValidator("cairn-main").validate(hint.key(), hint.encode(), now_s=NOW_S)


@pytest.mark.parametrize("count", [0, 1, 30, 100, 255, 300])
@pytest.mark.parametrize("length", [60, 200, 300, 1024, limits.FILE_MANIFEST_BYTES_MAX])
def test_a_hint_is_never_too_large(count: int, length: int) -> None:
    hint = make(data=manifest(length), count=count)
    assert len(hint.encode()) <= limits.HINT_BYTES_MAX
    kept = [holder.peer_id for holder in hint.holders]
    assert kept == [holder.peer_id for holder in holders(count)][: len(kept)]
    assert len(kept) == count or len(hint.encode()) > limits.HINT_BYTES_MAX - 80
    if count <= 30:
        assert hint.holders == tuple(holders(count))


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 6), st.integers(1, 60)), max_size=30),
    st.integers(0, 3000),
)
def test_fitting_keeps_within_the_bytes(shapes: list[tuple[int, int, int]], bytes_max: int) -> None:
    offered = [
        Contact(peer(number), tuple(Multiaddr(f"/{rank}" + "a" * length) for rank in range(addresses)))
        for number, addresses, length in shapes
    ]
    chosen = fit_holders(offered, bytes_max=bytes_max)
    size = sum(len(wire.encode([holder.peer_id, list(holder.addresses)])) for holder in chosen)
    assert size <= bytes_max
    ids = [holder.peer_id for holder in chosen]
    assert len(set(ids)) == len(ids)
    first = {holder.peer_id: holder for holder in reversed(offered)}
    for holder in chosen:
        assert len(holder.addresses) <= limits.HINT_ADDRESSES_MAX
        assert set(holder.addresses) <= set(first[holder.peer_id].addresses)


def test_holders_come_before_second_addresses() -> None:
    room = sum(len(wire.encode([holder.peer_id, list(holder.addresses)])) for holder in holders(4, 1))
    chosen = fit_holders(holders(4, 3), bytes_max=room)
    assert chosen == tuple(holders(4, 1))


def test_malformed_addresses_are_left_out() -> None:
    good = Multiaddr("/ip4/192.0.2.1/tcp/1")
    crooked = Contact(peer(1), (Multiaddr("nonsense"), Multiaddr("/" + "a" * 300), good))
    assert fit_holders([crooked, Contact(peer(2))], bytes_max=1000) == (
        Contact(peer(1), (good,)),
        Contact(peer(2)),
    )


@pytest.mark.parametrize(
    "hint",
    [
        replace(make(), holders=tuple(holders(2, limits.HINT_ADDRESSES_MAX + 1))),
        replace(make(), holders=tuple(holders(1) * 2)),
        replace(make(), holders=(Contact(peer(1), (Multiaddr("nonsense"),)),)),
        replace(make(), holders=(Contact(PeerId(bytes(38))),)),
        replace(make(), page=limits.HINT_PAGES_MAX),
        replace(make(), manifest_bytes=0),
        replace(make(), manifest_bytes=limits.FILE_MANIFEST_BYTES_MAX + 1),
        replace(make(), path=bytes(32 * 13)),
        replace(make(), first_chunk=bytes(1025)),
    ],
)
def test_out_of_bounds_is_refused(hint: PlacementHint) -> None:
    with pytest.raises(ProtocolError):
        PlacementHint.decode(hint.encode(), network=NETWORK)


GOOD = make().encode()
GOOD_KEY = make().key()
