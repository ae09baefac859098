"""The erasure-coding engines: ISA-L through ctypes, else zfec. Layer 3, the adapter over both.

ISA-L is fed the matrix read off zfec, so both give the same bytes; its own `gf_gen_rs_matrix` is singular for
some subsets and never used. A self-test at start decides. Figures: data-plane.md.
"""

from __future__ import annotations

from node.chunks.erasure import CodingEngine


def best_engine() -> CodingEngine:
    """The fastest engine that passes the self-test, the same object at every call."""
    raise NotImplementedError


def engine_name() -> str:
    """The name of `best_engine()`, for `cairn status`."""
    return best_engine().name
