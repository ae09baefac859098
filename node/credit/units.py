"""Credits, micro-credits and periods. Layer 2, pure integers.

One credit is 1 MiB kept for one day; everything inside is in whole micro-credits. A period is 30 days of
86,400 s since 1970. Source: credit.md, "Units".
"""

from __future__ import annotations

from typing import Final

from node import limits
from node.records.charge import BILLED_EXTRA_BYTES, manifest_bytes_max
from node.records.lease import Lease
from node.units import MIB

MICROS_PER_CREDIT: Final = 1_000_000
PERIOD_DAYS: Final = 30
SERVE_MICROS_PER_MIB: Final = 30 * MICROS_PER_CREDIT
"""What 1 MiB served comes to unless the network says otherwise."""


def period_of(day: int) -> int:
    """The period of a day since 1970."""
    return day // PERIOD_DAYS


def billed_bytes(lease: Lease, manifest_bytes: int) -> int:
    """Bytes that a lease is billed for."""
    return lease.byte_count + manifest_bytes + BILLED_EXTRA_BYTES


def granted_manifest_bytes(lease: Lease) -> int:
    """What a lease under a repair grant, which nobody charges anew, is billed for its segment manifest.

    The longest that a segment of its numbers may have, so that both ends know it from the lease alone.
    """
    grant = lease.grant
    assert grant is not None
    stripe_count = max(1, -(-lease.byte_count // limits.BLOCK_BYTES))
    return manifest_bytes_max(grant.total_shards, stripe_count)


def lease_micros(lease: Lease, manifest_bytes: int, days: int) -> int:
    """Micro-credits of the first `days` days of a lease, rounded down.

    The sum over days is never rounded twice: day by day it grows to exactly the value of the whole lease.
    """
    days = min(max(0, days), lease.end_day - lease.start_day)
    return billed_bytes(lease, manifest_bytes) * days * lease.rate // MIB


def lease_value(lease: Lease, manifest_bytes: int) -> int:
    """Micro-credits of the whole lease: what counts when it is accepted."""
    return lease_micros(lease, manifest_bytes, lease.end_day - lease.start_day)


def served_micros(byte_count: int, micros_per_mib: int = SERVE_MICROS_PER_MIB) -> int:
    """Micro-credits of bytes served, rounded down."""
    return byte_count * micros_per_mib // MIB


def format_micros(micros: int) -> str:
    """Credits as people read them, `1,234.5`; rounded towards zero to a tenth."""
    tenths = abs(micros) * 10 // MICROS_PER_CREDIT
    sign = "-" if micros < 0 and tenths else ""
    return f"{sign}{tenths // 10:,}.{tenths % 10}"
