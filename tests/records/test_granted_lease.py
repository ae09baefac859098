"""A grant stands for the owner's signature on exactly the leases that it covers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from node import limits
from node.crypto.identity import peer_id_of
from node.crypto.signing import KeyPair
from node.errors import CryptoError, ProtocolError
from node.records.lease import Lease, granted_nonce
from node.records.repair import Handover, OwnerHalf, RepairGrant
from node.units import AccountId, LeaseId, OwnerKey, SegmentId
from tests.records import credit_samples as samples
from tests.records.credit_samples import GRANT, GRANTED, HANDOVER, HEIR, HOLDER, LOW, NETWORK, OWNER

HEIR_ID = peer_id_of(HEIR.public)
OTHER = KeyPair.from_seed(b"x" * 32)


def test_the_new_holder_signs_under_a_grant_and_anyone_can_verify_it() -> None:
    lease = GRANTED.under_grant(GRANT, HANDOVER).countersign(HEIR)
    again = Lease.decode(lease.encode(), network=NETWORK)
    again.verify()
    assert again == lease
    assert again.half == OwnerHalf(GRANT, HANDOVER)
    assert (again.is_granted, again.generation) == (True, 1)
    assert again.record_id() == GRANTED.record_id()
    GRANTED.under_grant(GRANT).countersign(HEIR).verify()


def test_a_signed_lease_has_no_grant() -> None:
    assert (samples.LEASE.is_granted, samples.LEASE.half, samples.LEASE.generation) == (False, None, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"rate": GRANT.rate + 1},
        {"end_day": GRANTED.end_day + 1},
        {"nonce": granted_nonce(0, bytes(12))},
        {"nonce": granted_nonce(GRANT.generation_max + 1, bytes(12))},
        {"shard_index": GRANT.total_shards},
        {"segment_id": SegmentId(bytes(32))},
        {"owner_key": OwnerKey(OTHER.public)},
    ],
    ids=str,
)
def test_beyond_its_grant_a_lease_is_nothing(changes: dict[str, Any]) -> None:
    with pytest.raises(CryptoError):
        replace(GRANTED, **changes).under_grant(GRANT).countersign(HEIR)


@pytest.mark.parametrize(
    "grant",
    [
        replace(GRANT, owner_signature=GRANT.account_signature),
        replace(GRANT, account_signature=b""),
        replace(GRANT, rate=GRANT.rate + 1),
        replace(GRANT, account=AccountId(OTHER.public)),
    ],
    ids=["owner", "account", "changed", "payer"],
)
def test_a_grant_needs_both_signatures(grant: RepairGrant) -> None:
    with pytest.raises(CryptoError):
        GRANTED.under_grant(grant).countersign(HEIR)


@pytest.mark.parametrize(
    "handover",
    [
        replace(HANDOVER, shard_index=3).sign(HOLDER),
        replace(HANDOVER, segment_id=SegmentId(bytes(32))).sign(HOLDER),
        replace(HANDOVER, successor=peer_id_of(OTHER.public)).sign(HOLDER),
        replace(HANDOVER, lease_id=GRANTED.lease_id).sign(HOLDER),
        replace(HANDOVER, day=HANDOVER.day - 7).sign(HOLDER),
        replace(HANDOVER, lease_id=LeaseId(bytes(16))),
    ],
    ids=["shard", "segment", "successor", "itself", "old", "signature"],
)
def test_a_handover_is_for_one_lease_and_one_successor(handover: Handover) -> None:
    with pytest.raises(CryptoError):
        GRANTED.under_grant(GRANT, handover).countersign(HEIR)


def test_a_signed_lease_may_say_who_gave_the_shard_up() -> None:
    lease = samples.LEASE
    handover = replace(
        HANDOVER,
        lease_id=GRANTED.lease_id,
        holder=GRANTED.holder,
        successor=lease.holder,
        day=lease.start_day + 9,
    ).sign(HEIR)
    told = lease.with_handover(handover)
    told.verify()
    assert Lease.decode(told.encode(), network=NETWORK) == told
    assert (told.is_granted, told.generation, told.record_id()) == (False, 0, lease.record_id())
    assert told.half == OwnerHalf(lease.owner_signature, handover)
    assert told.with_handover(handover) == told
    granted = GRANTED.under_grant(GRANT).countersign(HEIR)
    # It may begin later: of a holder that was renewed rosters know the renewal, perhaps, and nothing else.
    lease.with_handover(replace(handover, day=lease.start_day - 30).sign(HEIR)).verify()
    with pytest.raises(CryptoError):
        granted.with_handover(replace(HANDOVER, day=granted.start_day - 2).sign(HOLDER)).verify()
    assert granted.with_handover(HANDOVER) == GRANTED.under_grant(GRANT, HANDOVER).countersign(HEIR)
    for wrong in (
        replace(handover, successor=HEIR_ID, holder=lease.holder).sign(HOLDER),
        replace(handover, signature=lease.owner_signature),
    ):
        with pytest.raises(CryptoError):
            lease.with_handover(wrong).verify()
    with pytest.raises(CryptoError):
        replace(told, owner_signature=OwnerHalf(lease.holder_signature, handover).encode()).verify()
    with pytest.raises(ProtocolError):
        OwnerHalf.decode(OwnerHalf(lease.owner_signature).encode(), network=NETWORK)


def test_only_the_holder_hands_over_and_not_to_itself() -> None:
    with pytest.raises(CryptoError):
        HANDOVER.sign(OTHER)
    with pytest.raises(ProtocolError):
        replace(HANDOVER, successor=HANDOVER.holder).sign(HOLDER)


@pytest.mark.parametrize(
    "half",
    [b"g" * 65, GRANT.encode(), OwnerHalf(GRANT).encode()[:-1], bytes(limits.OWNER_HALF_BYTES_MAX + 1)],
)
def test_what_is_neither_signature_nor_grant_is_refused(half: bytes) -> None:
    with pytest.raises(ProtocolError):
        Lease.decode(replace(GRANTED, owner_signature=half).encode(), network=NETWORK)


def test_the_largest_fits() -> None:
    high = 2**62
    grant = replace(
        GRANT, generation_max=limits.REPAIR_GENERATION_MAX, rate=limits.RATE_MICRO_MAX, data_shards=255,
        total_shards=255, max_credits=high, expires_s=limits.RECORD_TIME_S_MAX,
        network="n" * limits.NETWORK_ID_BYTES_MAX,
    ).sign(OWNER, LOW)  # fmt: skip
    handover = replace(HANDOVER, network=grant.network, day=limits.RECORD_DAY_MAX, shard_index=254).sign(
        HOLDER
    )
    lease = replace(
        GRANTED, network=grant.network, shard_index=254, byte_count=limits.BYTE_COUNT_MAX,
        start_day=limits.RECORD_DAY_MAX - 1, end_day=limits.RECORD_DAY_MAX, rate=limits.RATE_MICRO_MAX,
        egress_cap_bytes=limits.BYTE_COUNT_MAX,
    ).under_grant(grant, handover).countersign(HEIR)  # fmt: skip
    assert len(lease.encode()) <= limits.LEASE_BYTES_MAX <= limits.RECORD_BYTES_MAX
    assert limits.LEASE_BYTES_MAX <= limits.STORED_LEASE_BYTES_MAX
    assert len(lease.owner_signature) <= limits.OWNER_HALF_BYTES_MAX
    roster = limits.TOTAL_SHARDS_MAX * (
        (limits.ROSTER_SIGNED_PER_SHARD_MAX + limits.ROSTER_FURTHER_PER_SHARD_MAX) * 440
        + limits.ROSTER_GRANTED_PER_SHARD_MAX * limits.LEASE_BYTES_MAX
    )
    assert roster <= limits.ROSTER_BYTES_MAX + 16_384 <= limits.LEASES_BODY_BYTES_MAX


@given(samples.grants, samples.handovers)
def test_every_half_survives_the_wire(grant: RepairGrant, handover: Handover) -> None:
    for half in (OwnerHalf(grant), OwnerHalf(grant, handover)):
        assert OwnerHalf.decode(half.encode(), network=NETWORK) == half


def test_owner_and_account_of_the_samples() -> None:
    assert (GRANT.owner_key, GRANT.account) == (OWNER.public, LOW.public)
