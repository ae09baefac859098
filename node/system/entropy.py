"""Unpredictable bytes from the operating system. Layer 3, over the standard library."""

from __future__ import annotations

import os


class SystemEntropy:
    """`Entropy` over the operating system's generator."""

    def random_bytes(self, count: int) -> bytes:
        """`count` bytes fit for keys."""
        return os.urandom(count)
