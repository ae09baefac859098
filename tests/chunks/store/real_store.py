"""A shard store on the real disk."""

from __future__ import annotations

from pathlib import Path

from node.chunks.store.shard_store import ShardStore
from node.system.disk import DiskFiles
from node.system.entropy import SystemEntropy
from node.system.lmdb_store import LmdbStore

CAP_64_MB = 64_000_000


class RealStore:
    """A store in a folder of the real disk."""

    def __init__(self, home: Path, cap_bytes: int = CAP_64_MB) -> None:
        self.home = home
        self.cap_bytes = cap_bytes
        self.files = DiskFiles(home)
        self.open()

    def open(self) -> None:
        self.tables = LmdbStore(self.home / "index")
        self.store = ShardStore(self.files, self.tables, SystemEntropy(), cap_bytes=self.cap_bytes)

    def close(self) -> None:
        self.store.close()
        self.tables.close()
