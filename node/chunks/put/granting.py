"""The repair grant that an owner leaves with the holders of a segment. Layer 4, pure.

It is made of the segment's leases alone, so a put that was resumed, or a publication that is repeated, makes
the same grant again, byte for byte: the journal of the leases is its journal. It ends with the leases and is
made anew when they are renewed. Source: credit.md, "Repair".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from node import limits
from node.chunks.manifest import SegmentManifest
from node.credit.units import lease_value
from node.crypto.signing import KeyPair
from node.records.lease import Lease
from node.records.repair import RepairGrant
from node.units import DAY_S, AccountId

RATE_FACTOR: Final = 2
"""A new holder may ask as much more than the dearest of the old ones."""
LIVES: Final = 4
"""How often all shards may be replaced, by value: more than a life of leases sees, and still an end."""
GENERATIONS: Final = 1_000
"""Replacements of one shard: one in 7 days (`node.credit.grants`) never comes near."""


def make_grant(
    manifest: SegmentManifest, leases: Iterable[Lease], owner: KeyPair, account: KeyPair
) -> RepairGrant:
    """The signed grant of a segment with these leases, at least one."""
    known = list(leases)
    rate = RATE_FACTOR * max(lease.rate for lease in known)
    dearest = max(lease_value(lease, len(manifest.encoded)) for lease in known)
    code = manifest.code
    return RepairGrant(
        network=known[0].network,
        segment_id=manifest.segment_id,
        owner_key=manifest.owner_key,
        generation_max=GENERATIONS,
        rate=min(rate, limits.RATE_MICRO_MAX),
        data_shards=code.data_shards,
        total_shards=code.total_shards,
        account=AccountId(account.public),
        max_credits=min(LIVES * RATE_FACTOR * code.total_shards * dearest, limits.CREDIT_MICRO_MAX),
        expires_s=max(lease.end_day for lease in known) * DAY_S,
    ).sign(owner, account)
