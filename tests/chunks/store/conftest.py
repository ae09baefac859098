"""Stores on the real disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chunks.store.real_store import RealStore


@pytest.fixture
def real(tmp_path: Path) -> Iterator[RealStore]:
    store = RealStore(tmp_path / "home")
    yield store
    store.close()


# --- what a put refuses ---------------------------------------------------------------------------------
