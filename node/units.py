"""Identifiers, units, and how people write them. Layer 0.

Sizes are bytes, times are seconds, always integers unless a name says otherwise.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NewType

from node import limits
from node.errors import UsageError

PeerId = NewType("PeerId", bytes)
"""Binary libp2p peer id: the identity multihash of the Ed25519 public key, 38 bytes."""
AccountId = NewType("AccountId", bytes)
"""Ed25519 public key of an account, 32 bytes."""
OwnerKey = NewType("OwnerKey", bytes)
"""Ed25519 public key that owns one file, 32 bytes."""
SegmentId = NewType("SegmentId", bytes)
"""BLAKE3-256 of the segment manifest, 32 bytes."""
FileHash = NewType("FileHash", bytes)
"""BLAKE3-256 of the file manifest, 32 bytes."""
LeaseId = NewType("LeaseId", bytes)
"""Random name of a lease, 16 bytes."""
Multiaddr = NewType("Multiaddr", str)
"""A libp2p multiaddr as text, without a trailing /p2p part unless said."""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
MINUTE_S = 60
HOUR_S = 3600
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Contact:
    """A peer and where it was last said to listen. The id is the identity; addresses are hints."""

    peer_id: PeerId
    addresses: tuple[Multiaddr, ...] = ()


def is_multiaddr(text: str) -> bool:
    """Whether `text` has the form of a multiaddr and a bearable length; its protocols are not looked at."""
    return len(text) <= limits.ADDRESS_BYTES_MAX and re.fullmatch(r"(/[A-Za-z0-9._:%-]+)+", text) is not None


_SIZE_FACTORS = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_TIME_FACTORS = {"s": 1, "m": MINUTE_S, "h": HOUR_S, "d": DAY_S, "w": 7 * DAY_S}


def parse_size(text: str) -> int:
    """Bytes of `64MB` (64,000,000), `64MiB` (67,108,864) or `1.5 GiB`. Raises `UsageError`."""
    match = re.fullmatch(r"(\d{1,15})(?:\.(\d{1,6}))?\s*([a-zA-Z]{0,3})", text.strip())
    factor = _SIZE_FACTORS.get(match[3].lower()) if match else None
    if match is None or factor is None:
        raise UsageError(f"{text!r} is not a size: write it like 500MB or 20GiB")
    fraction = match[2] or ""
    return int(match[1]) * factor + int(fraction or "0") * factor // int("1" + "0" * len(fraction))


def parse_duration(text: str) -> int:
    """Seconds of `30d`, `12h`, `90m`, `45s` or `2w`. Raises `UsageError`."""
    match = re.fullmatch(r"(\d{1,9})\s*([smhdw])", text.strip().lower())
    if match is None:
        raise UsageError(f"{text!r} is not a length of time: write it like 30d or 12h")
    return int(match[1]) * _TIME_FACTORS[match[2]]


def parse_rate(text: str) -> int:
    """Bytes per second of `2MiB/s`. Raises `UsageError`."""
    return parse_size(text.strip().removesuffix("/s"))


def format_count(number: int, one: str, many: str = "") -> str:
    """`1 shard`, `2 shards`; `one` and `many` may bring their verb: "shard is", "shards are"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def format_size(byte_count: int) -> str:
    """A size as people read it, in decimal units: 64,000,000 is `64.0 MB`."""
    value = float(byte_count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(value) < 1000:
            return format_count(byte_count, "byte") if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def format_duration(seconds: float) -> str:
    """A length of time as people read it, in its largest sensible unit: `90 s`, `5 min`, `3 h`, `30 days`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * MINUTE_S:
        return f"{seconds / MINUTE_S:.0f} min"
    if seconds < 2 * DAY_S:
        return f"{seconds / HOUR_S:.0f} h"
    return f"{seconds / DAY_S:.0f} days"
