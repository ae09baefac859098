"""An account for each peer that puts by hand, without a node: donors keep shards for accounts only."""

from __future__ import annotations

import hashlib

from node.crypto.signing import KeyPair
from node.records.charge import Charge
from node.records.lease import Lease
from node.records.offer import DeviceCert
from node.units import DAY_S, AccountId, PeerId

RATE = 1_000_000
"""Micro-credits a MiB and day: what donors ask."""


def account_of(peer_id: PeerId) -> KeyPair:
    """The account that pays for what this peer puts."""
    return KeyPair.from_seed(hashlib.sha256(b"account of " + peer_id).digest())


def certificate(peer_id: PeerId, *, network: str, now_s: int) -> bytes:
    """What the peer shows when it opens a put."""
    account = account_of(peer_id)
    cert = DeviceCert(network, AccountId(account.public), peer_id, now_s // DAY_S, now_s + 30 * DAY_S)
    return cert.sign(account).encode()


def charge(lease: Lease, peer_id: PeerId, *, manifest_bytes: int) -> bytes:
    """What it sends beside a lease."""
    account = account_of(peer_id)
    unsigned = Charge.of(lease, AccountId(account.public), manifest_bytes=manifest_bytes)
    return unsigned.sign(account).encode()
