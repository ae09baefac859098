"""Laws that every record keeps: one encoding, bounded, and no signature means anything elsewhere."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import limits
from node.crypto.identity import peer_id_of
from node.crypto.signing import KeyPair
from node.errors import CryptoError, ProtocolError
from node.records.base import Record
from node.records.lease import Lease, Release
from node.records.offer import DeviceCert, Offer
from node.records.placement_hint import PlacementHint
from node.units import AccountId, Contact, FileHash, LeaseId, Multiaddr, OwnerKey, SegmentId
from tests.records.damage import damaged

NETWORK = "cairn-test"
OWNER = KeyPair.from_seed(b"o" * 32)
HOLDER = KeyPair.from_seed(b"h" * 32)
OTHER = KeyPair.from_seed(b"x" * 32)
HOLDER_ID = peer_id_of(HOLDER.public)
OTHER_ID = peer_id_of(OTHER.public)

LEASE = Lease(
    network=NETWORK,
    lease_id=LeaseId(b"i" * 16),
    segment_id=SegmentId(b"s" * 32),
    shard_index=29,
    root=b"r" * 32,
    byte_count=4_190_208,
    owner_key=OwnerKey(OWNER.public),
    holder=HOLDER_ID,
    start_day=20_000,
    end_day=20_030,
    rate=1_000_000,
    egress_cap_bytes=10**9,
    nonce=b"n" * 16,
)
RELEASE = Release(NETWORK, LEASE.lease_id, HOLDER_ID, OwnerKey(OWNER.public))
OFFER = Offer(NETWORK, HOLDER_ID, AccountId(OTHER.public), 10**10, 10**6, 10**9, 998, 10**11, 1_800_000_000)
CERT = DeviceCert(NETWORK, AccountId(OWNER.public), HOLDER_ID, 7, 1_800_000_000)

SIGNED: list[Record] = [
    LEASE.sign_as_owner(OWNER).countersign(HOLDER),
    RELEASE.sign(OWNER),
    OFFER.sign(HOLDER),
    CERT.sign(OWNER),
]
TYPES: list[type[Record]] = [Lease, Release, Offer, DeviceCert, PlacementHint]
by_type = pytest.mark.parametrize("record", SIGNED, ids=lambda record: record.TYPE)

counts = st.integers(0, limits.BYTE_COUNT_MAX)
days = st.integers(0, limits.RECORD_DAY_MAX - limits.LEASE_DAYS_MAX)
ids = st.binary(min_size=32, max_size=32)
signatures = st.just(b"") | st.binary(min_size=64, max_size=64)
peer_ids = ids.map(peer_id_of)
times = st.integers(0, limits.RECORD_TIME_S_MAX)
rates = st.integers(0, limits.RATE_MICRO_MAX)
leases = st.builds(
    lambda lease, length: replace(lease, end_day=lease.start_day + length),
    st.builds(
        Lease,
        network=st.just(NETWORK),
        lease_id=st.binary(min_size=16, max_size=16).map(LeaseId),
        segment_id=ids.map(SegmentId),
        shard_index=st.integers(0, 254),
        root=ids,
        byte_count=counts,
        owner_key=ids.map(OwnerKey),
        holder=peer_ids,
        start_day=days,
        end_day=st.just(0),
        rate=rates,
        egress_cap_bytes=counts,
        nonce=st.binary(min_size=16, max_size=16),
        owner_signature=signatures,
        holder_signature=signatures,
    ),
    st.integers(1, limits.LEASE_DAYS_MAX),
)
releases = st.builds(
    Release,
    network=st.just(NETWORK),
    lease_id=st.binary(min_size=16, max_size=16).map(LeaseId),
    holder=peer_ids,
    signer=ids.map(OwnerKey),
    signature=signatures,
)
offers = st.builds(
    Offer,
    network=st.just(NETWORK),
    donor=peer_ids,
    account=ids.map(AccountId),
    free_bytes=counts,
    price=rates,
    pledge_left_bytes=counts,
    uptime_permille=st.integers(0, 1000),
    cap_bytes=counts,
    expires_s=times,
    signature=signatures,
)
certs = st.builds(
    DeviceCert,
    network=st.just(NETWORK),
    account=ids.map(AccountId),
    peer_id=peer_ids,
    epoch=st.integers(0, 2**32),
    expires_s=times,
    signature=signatures,
)
addresses = st.text(alphabet="az09.:", min_size=1, max_size=30).map(lambda name: Multiaddr("/" + name))
hints = st.builds(
    PlacementHint,
    network=st.just(NETWORK),
    file_hash=ids.map(FileHash),
    owner_key=ids.map(OwnerKey),
    sequence=st.integers(0, 2**63 - 1),
    page=st.integers(0, limits.HINT_PAGES_MAX - 1),
    expires_s=times,
    holders=st.lists(
        st.builds(Contact, peer_ids, st.lists(addresses, max_size=limits.HINT_ADDRESSES_MAX).map(tuple)),
        max_size=5,
        unique_by=lambda contact: contact.peer_id,
    ).map(tuple),
    manifest_bytes=st.integers(1, limits.FILE_MANIFEST_BYTES_MAX),
    first_chunk=st.binary(max_size=1024),
    path=st.binary(max_size=384),
    signature=signatures,
)
records: st.SearchStrategy[Record] = leases | releases | offers | certs | hints


@given(records)
def test_what_decodes_is_what_was_encoded(record: Record) -> None:
    encoded = record.encode()
    assert len(encoded) <= type(record).BYTES_MAX
    again = type(record).decode(encoded, network=NETWORK)
    assert again == record
    assert again.record_id() == record.record_id()


@given(records, st.data())
def test_what_decodes_re_encodes_to_the_same_bytes(record: Record, data: st.DataObject) -> None:
    """Invariant 10 of the records, on bytes next to good ones."""
    encoded = damaged(record.encode(), data)
    for record_type in TYPES:
        try:
            decoded = record_type.decode(encoded, network=NETWORK)
        except ProtocolError:
            continue
        assert decoded.encode() == encoded


@given(st.binary(max_size=300))
def test_garbage_is_refused(data: bytes) -> None:
    for record_type in TYPES:
        with pytest.raises(ProtocolError):
            record_type.decode(data, network=NETWORK)


def test_a_signature_under_another_type_does_not_hold() -> None:
    signature = OWNER.sign("lease", RELEASE.body())
    with pytest.raises(CryptoError):
        replace(RELEASE, signature=signature).verify()


@by_type
def test_every_field_is_signed(record: Record) -> None:
    """Change one field at a time: no signature holds any more."""
    for field in fields(record):  # type: ignore[arg-type]
        if field.name.endswith("signature"):
            continue
        value = getattr(record, field.name)
        if isinstance(value, int):
            changes: list[object] = [value + 1]
        elif isinstance(value, str):
            changes = ["another"]
        elif len(value) == 38:
            changes = [OTHER_ID]
        else:
            changes = [bytes([value[0] ^ 1]) + value[1:]]
        for change in changes:
            with pytest.raises(CryptoError):
                replace(record, **{field.name: change}).verify()  # type: ignore[type-var]


@by_type
def test_an_unsigned_record_does_not_verify(record: Record) -> None:
    names = [field.name for field in fields(record) if field.name.endswith("signature")]  # type: ignore[arg-type]
    for name in names:
        with pytest.raises(CryptoError, match="not signed"):
            replace(record, **{name: b""}).verify()  # type: ignore[type-var]
