"""The sealed header: what a stranger may say about a file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import limits, wire
from node.chunks.folder import FolderIndex
from node.chunks.header import HEADER_MAGIC, FileHeader, FolderIndexLink
from node.crypto.sealing import FileKeys
from node.errors import ProtocolError, UnsafeNameError
from node.units import FileHash
from tests.chunks.strategies import law, noise

LINK = FolderIndexLink(FileHash(noise(32, "hash")), noise(32, "key"), 70_000)
INDEX = FolderIndex.plan([("a", 3, False), ("b/c", 4, True)])


@law(60)
@given(
    st.text("abc \u00e9.", min_size=1, max_size=20).map(lambda text: text + "x"),
    st.integers(0, 2**60),
    st.sampled_from(["", "video/mp4", "application/vnd.ms-excel", "image/svg+xml"]),
    st.sampled_from([None, LINK]),
)
def test_a_header_survives_sealing(
    name: str, size: int, media_type: str, folder: FolderIndexLink | None
) -> None:
    header = FileHeader(name, size, media_type, folder)
    key = FileKeys.derive(noise(32)).header_key
    assert FileHeader.decode(key.open(key.seal(header.encode())), plaintext_bytes=size) == header


def test_a_small_folder_index_is_inside() -> None:
    header = FileHeader("photos", 7, "", INDEX)
    assert FileHeader.decode(header.encode(), plaintext_bytes=7) == header


def test_a_large_folder_index_is_a_file_of_its_own() -> None:
    index = FolderIndex.plan([(f"{number:060}", 1, False) for number in range(1000)])
    with pytest.raises(ProtocolError):
        FileHeader("photos", 1000, "", index).encode()
    link = FolderIndexLink(LINK.file_hash, LINK.file_key, len(index.encode()))
    assert len(FileHeader("photos", 1000, "", link).encode()) < 150


def test_the_largest_header_fits_its_limit() -> None:
    paths = [f"{number:0250}" for number in range(240)]
    index = FolderIndex.plan([(path, 0, False) for path in paths])
    header = FileHeader("x" * 255, 0, "a/" + "b" * 125, index)
    assert len(index.encode()) <= limits.FOLDER_INDEX_BYTES_MAX
    sealed = FileKeys.derive(noise(32)).header_key.seal(header.encode())
    assert limits.FOLDER_INDEX_BYTES_MAX - len(index.encode()) + len(sealed) <= limits.SEALED_HEADER_BYTES_MAX


def raw(
    name: wire.Value = "n", size: wire.Value = 7, media_type: wire.Value = "", folder: wire.Value = None
) -> bytes:
    return wire.encode([HEADER_MAGIC, 1, name, size, media_type, folder])


@pytest.mark.parametrize(
    "data",
    [
        raw(size=8),
        raw(size=-1),
        raw(size=2**63),
        raw(name=b"n"),
        raw(name="x" * 5_000),
        raw(media_type="x" * 128 + "/y"),
        raw(media_type="text"),
        raw(media_type="text/html\r\nSet-Cookie: a"),
        raw(media_type="text/html; charset=x"),
        raw(folder=b""),
        raw(folder=INDEX.encode()[:-1]),
        raw(folder=FolderIndex.plan([("a", 8, False)]).encode()),
        raw(folder=[b"", b"", 1]),
        raw(folder=[noise(32), noise(32)]),
        raw(folder=[noise(32), noise(32), 0]),
        raw(folder=[noise(32), noise(32), limits.FOLDER_INDEX_FILE_BYTES_MAX + 1]),
        raw(folder=[noise(31), noise(32), 5]),
        raw(folder=[noise(32), noise(33), 5]),
        raw(folder=0),
        raw() + b"\x00",
        b"",
        wire.encode([HEADER_MAGIC, 2, "n", 7, "", None]),
        wire.encode([HEADER_MAGIC, 1, "n", 7, ""]),
        wire.encode(["cairn/file", 1, "n", 7, "", None]),
    ],
)
def test_hostile_headers_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        FileHeader.decode(data, plaintext_bytes=7)


@pytest.mark.parametrize("name", ["", "../x", "/etc/passwd", "a\0", "x\u202egnp.exe", "CON", "x" * 300])
def test_hostile_names_are_refused_at_both_ends(name: str) -> None:
    with pytest.raises(UnsafeNameError):
        FileHeader.decode(raw(name=name), plaintext_bytes=7)
    with pytest.raises(UnsafeNameError):
        FileHeader(name, 7)
