"""Leases take two signatures in order; releases end what their signer may end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node import limits
from node.crypto.identity import peer_id_of
from node.crypto.signing import KeyPair
from node.errors import CryptoError, ProtocolError
from node.records.lease import Lease, Release
from node.records.offer import DeviceCert, Offer
from node.units import AccountId, LeaseId, OwnerKey, PeerId
from tests.records.test_records import CERT, HOLDER, LEASE, NETWORK, OFFER, OTHER, OWNER, RELEASE


def test_the_holder_signs_only_what_the_owner_has_signed() -> None:
    with pytest.raises(CryptoError, match="not signed"):
        LEASE.countersign(HOLDER)
    half = LEASE.sign_as_owner(OWNER)
    half.verify_owner_half()
    with pytest.raises(CryptoError, match="not signed"):
        half.verify()
    with pytest.raises(CryptoError):
        replace(half, end_day=half.end_day + 1).countersign(HOLDER)
    half.countersign(HOLDER).verify()


def test_only_those_named_sign() -> None:
    with pytest.raises(CryptoError, match="owner key it names"):
        LEASE.sign_as_owner(OTHER)
    with pytest.raises(CryptoError, match="holder it names"):
        LEASE.sign_as_owner(OWNER).countersign(OTHER)
    with pytest.raises(CryptoError, match="key it names"):
        RELEASE.sign(OTHER)
    with pytest.raises(CryptoError, match="donor it names"):
        OFFER.sign(OTHER)
    with pytest.raises(CryptoError, match="account it names"):
        CERT.sign(OTHER)


def test_signing_does_not_change_the_name() -> None:
    assert LEASE.sign_as_owner(OWNER).countersign(HOLDER).record_id() == LEASE.record_id()
    assert LEASE.expires_s == 20_030 * 86_400


@pytest.mark.parametrize(
    "lease",
    [
        replace(LEASE, end_day=LEASE.start_day),
        replace(LEASE, end_day=LEASE.start_day + limits.LEASE_DAYS_MAX + 1),
        replace(LEASE, start_day=-1),
        replace(LEASE, shard_index=255),
        replace(LEASE, byte_count=limits.BYTE_COUNT_MAX + 1),
        replace(LEASE, rate=-1),
        replace(LEASE, root=bytes(31)),
        replace(LEASE, lease_id=LeaseId(bytes(17))),
        replace(LEASE, nonce=b""),
        replace(LEASE, holder=PeerId(bytes(38))),
        replace(LEASE, owner_signature=bytes(63)),
        replace(LEASE, network="n" * (limits.NETWORK_ID_BYTES_MAX + 1)),
    ],
)
def test_what_no_peer_would_accept_is_neither_decoded_nor_signed(lease: Lease) -> None:
    with pytest.raises(ProtocolError):
        Lease.decode(lease.encode(), network=lease.network)
    with pytest.raises(ProtocolError):
        lease.sign_as_owner(OWNER)


def test_the_largest_records_fit_their_caps() -> None:
    top = limits.BYTE_COUNT_MAX
    day = limits.RECORD_DAY_MAX
    time_s = limits.RECORD_TIME_S_MAX
    network = "n" * limits.NETWORK_ID_BYTES_MAX
    lease = replace(
        LEASE, network=network, shard_index=254, byte_count=top, start_day=day - 1, end_day=day,
        rate=limits.RATE_MICRO_MAX, egress_cap_bytes=top,
    )  # fmt: skip
    lease.sign_as_owner(OWNER).countersign(HOLDER)
    replace(RELEASE, network=network).sign(OWNER)
    Offer(
        network, OFFER.donor, OFFER.account, top, limits.RATE_MICRO_MAX, top, 1000, top, time_s
    ).sign(HOLDER)  # fmt: skip
    DeviceCert(network, CERT.account, CERT.peer_id, 2**32, time_s).sign(OWNER)


def test_a_release_ends_its_signers_lease_and_the_owner_ends_all() -> None:
    renewer = KeyPair.from_seed(b"r" * 32)
    renewal = replace(LEASE, owner_key=OwnerKey(renewer.public))
    file_owner = OwnerKey(OWNER.public)

    def release(key_pair: KeyPair) -> Release:
        return replace(RELEASE, signer=OwnerKey(key_pair.public)).sign(key_pair)

    assert release(OWNER).ends(LEASE, file_owner=file_owner)
    assert release(OWNER).ends(renewal, file_owner=file_owner)
    assert release(renewer).ends(renewal, file_owner=file_owner)
    assert not release(renewer).ends(LEASE, file_owner=file_owner)
    assert not release(OTHER).ends(renewal, file_owner=file_owner)


def test_a_release_ends_no_other_lease() -> None:
    file_owner = OwnerKey(OWNER.public)
    for other in (
        replace(LEASE, lease_id=LeaseId(bytes(16))),
        replace(LEASE, holder=peer_id_of(OTHER.public)),
        replace(LEASE, network="cairn-main"),
    ):
        assert not RELEASE.sign(OWNER).ends(other, file_owner=file_owner)


def test_offers_and_certificates_expire() -> None:
    for record in (OFFER, CERT):
        assert not record.is_expired(now_s=1_799_999_999)
        assert record.is_expired(now_s=1_800_000_000)
    with pytest.raises(ProtocolError):
        Offer.decode(replace(OFFER, uptime_permille=1001).encode(), network=NETWORK)
    with pytest.raises(ProtocolError):
        DeviceCert.decode(replace(CERT, account=AccountId(bytes(33))).encode(), network=NETWORK)
