"""The sealed header of a file: its name, type and folder index. Layer 2, pure.

Only who has the link's key reads it. What comes out of it was written by a stranger: names pass
`node.chunks.names`, the length must be the manifest's, a folder must fill the file exactly.
Source: design.md, section 3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from node import limits, wire
from node.chunks.folder import FolderIndex
from node.chunks.names import safe_name
from node.crypto.sealing import FILE_KEY_BYTES
from node.errors import ProtocolError
from node.units import FileHash

HEADER_MAGIC: Final = "cairn/header"
FORMAT_VERSION: Final = 1
_HASH_BYTES: Final = 32
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*")  # RFC 6838, 4.2


@dataclass(frozen=True, slots=True)
class FolderIndexLink:
    """A folder index over 64 KiB: a sealed file of its own."""

    file_hash: FileHash
    file_key: bytes
    index_bytes: int

    def __post_init__(self) -> None:
        wire.expect_bytes(self.file_hash, size=_HASH_BYTES)
        wire.expect_bytes(self.file_key, size=FILE_KEY_BYTES)
        wire.expect_int(self.index_bytes, low=1, high=limits.FOLDER_INDEX_FILE_BYTES_MAX)


@dataclass(frozen=True, slots=True)
class FileHeader:
    """What a link's reader learns first. `folder` is None for a plain file; `media_type` may be "".

    Raises `ProtocolError` (lengths, media type) and `UnsafeNameError` (names).
    """

    name: str
    plaintext_bytes: int
    media_type: str = ""
    folder: FolderIndex | FolderIndexLink | None = None

    def __post_init__(self) -> None:
        safe_name(self.name)
        wire.expect_str(self.media_type, bytes_max=limits.MEDIA_TYPE_BYTES_MAX)
        if self.media_type and not _MEDIA_TYPE.fullmatch(self.media_type):
            raise ProtocolError("the header's media type is none")
        if isinstance(self.folder, FolderIndex) and self.folder.packed_bytes != self.plaintext_bytes:
            raise ProtocolError("the folder's index and the file have different lengths")

    def encode(self) -> bytes:
        """The canonical plaintext of the header, to be sealed with the file's header key.

        Raises `ProtocolError` if the folder index is over 64 KiB: store it as a file and link it.
        """
        folder: wire.Value = None
        if isinstance(self.folder, FolderIndex):
            folder = wire.expect_bytes(self.folder.encode(), size_max=limits.FOLDER_INDEX_BYTES_MAX)
        elif self.folder is not None:
            folder = [self.folder.file_hash, self.folder.file_key, self.folder.index_bytes]
        return wire.encode(
            [HEADER_MAGIC, FORMAT_VERSION, self.name, self.plaintext_bytes, self.media_type, folder]
        )

    @classmethod
    def decode(cls, data: bytes, *, plaintext_bytes: int) -> FileHeader:
        """The opened header of a file of `plaintext_bytes`. Raises `ProtocolError`, `UnsafeNameError`."""
        fields = wire.decode(data, size_max=limits.SEALED_HEADER_BYTES_MAX)
        if len(fields) != 6 or fields[:2] != [HEADER_MAGIC, FORMAT_VERSION] or fields[1] is True:
            raise ProtocolError("not a file header of a version that this program knows")
        return cls(
            name=wire.expect_str(fields[2], bytes_max=limits.ENTRY_PATH_BYTES_MAX),
            plaintext_bytes=wire.expect_int(fields[3], low=plaintext_bytes, high=plaintext_bytes),
            media_type=wire.expect_str(fields[4], bytes_max=limits.MEDIA_TYPE_BYTES_MAX),
            folder=_folder(fields[5]),
        )


def _folder(value: wire.Value) -> FolderIndex | FolderIndexLink | None:
    if value is None:
        return None
    if isinstance(value, bytes):
        return FolderIndex.decode(wire.expect_bytes(value, size_max=limits.FOLDER_INDEX_BYTES_MAX))
    file_hash, file_key, index_bytes = wire.expect_list(value, count=3)
    return FolderIndexLink(
        FileHash(wire.expect_bytes(file_hash)),
        wire.expect_bytes(file_key),
        wire.expect_int(index_bytes, low=1, high=limits.FOLDER_INDEX_FILE_BYTES_MAX),
    )
