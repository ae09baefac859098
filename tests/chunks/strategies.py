"""What the tests of the codec draw from, and how often."""

from __future__ import annotations

import hashlib
import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from node.chunks.geometry import Code

FULL = os.environ.get("CAIRN_TEST_FULL") == "1"


def law(examples: int) -> settings:
    """How often a law is tried: ten times as often in the full run, never against the clock."""
    return settings(
        max_examples=examples * (10 if FULL else 1),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@st.composite
def codes(draw: st.DrawFn, data_max: int = 16, parity_max: int = 32) -> Code:
    data_shards = draw(st.integers(1, data_max))
    return Code(data_shards, data_shards + draw(st.integers(0, parity_max)))


def noise(size: int, seed: object = 0) -> bytes:
    """`size` bytes without a pattern, the same for the same seed."""
    return hashlib.shake_256(repr(seed).encode()).digest(size)
