"""The sealed header of a file: its name, type and folder index. Layer 2, pure.

Only who has the link's key reads it. What comes out of it was written by a stranger: names pass
`node.chunks.names`, the size must be the manifest's. Source: design.md, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from node.chunks.folder import FolderIndex
from node.units import FileHash

HEADER_MAGIC: Final = "cairn/header"


@dataclass(frozen=True, slots=True)
class FolderIndexLink:
    """A folder index over 64 KiB: a sealed file of its own."""

    file_hash: FileHash
    file_key: bytes
    index_bytes: int


@dataclass(frozen=True, slots=True)
class FileHeader:
    """What a link's reader learns first. `folder` is None for a plain file.

    Raises `ProtocolError` (lengths) and `UnsafeNameError` (names).
    """

    name: str
    plaintext_bytes: int
    media_type: str
    folder: FolderIndex | FolderIndexLink | None = None

    def encode(self) -> bytes:
        """The canonical plaintext of the header, to be sealed with the file's header key."""
        raise NotImplementedError

    @classmethod
    def decode(cls, data: bytes, *, plaintext_bytes: int) -> FileHeader:
        """The header of a file of `plaintext_bytes`. Raises `ProtocolError`, `UnsafeNameError`."""
        raise NotImplementedError
