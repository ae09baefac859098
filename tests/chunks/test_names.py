"""Names from strangers: used as they are, or refused."""

from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import limits
from node.chunks.names import folded, safe_entry_path, safe_name
from node.errors import UnsafeNameError
from tests.chunks.strategies import law

HOSTILE_NAMES = [
    "", ".", "..", "...", "a/b", "/", "/etc/passwd", "../x", "..\\x", "a\\b", "C:\\x", "C:x", "c:",
    "a\0b", "a\nb", "a\rb", "\x1b[2Jx", "a\x7f", "a\x85b", "\ud800", "a\udcffb",
    "photo\u202egnp.exe", "a\u2066b", "a\u200fb", "a\u061cb", "a\u2028b", "\ufeffa", "a\u200bb",
    "CON", "con", "Nul.txt", "aux.tar.gz", "COM1", "lpt9.doc", "COM\u00b9", "CONIN$", "nul:x",
    "con .txt", "PRN.", "name.", "name ", "name. .", "x" * 256, "\u00e9" * 128, "x" * 10_000_000,
]  # fmt: skip
GOOD_NAMES = [
    "a", "holiday photos.zip", ".bashrc", "-rf", "~", "a..b", "..a", "x" * 255, "\u00e9" * 127, " a",
    "Contents", "console.log", "com10", "COM", "12:30 news.txt", "part: two",
    "\u65e5\u672c.txt", "\u0645\u0644\u0641.pdf", "\U0001f468\u200d\U0001f469.png",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=lambda name: ascii(name[:20]))
def test_hostile_names_are_refused(name: str) -> None:
    with pytest.raises(UnsafeNameError) as caught:
        safe_name(name)
    assert caught.value.exit_code == 40
    message = str(caught.value)
    assert message.isascii()
    assert message.isprintable()
    assert len(message) < 600


@pytest.mark.parametrize("name", GOOD_NAMES, ids=lambda name: ascii(name[:20]))
def test_ordinary_names_stay_as_they_are(name: str) -> None:
    assert safe_name(name) == name
    assert safe_entry_path(f"folder/{name}/x") == f"folder/{name}/x"


@pytest.mark.parametrize(
    "path",
    [
        *(name for name in HOSTILE_NAMES if "/" not in name),
        "/a", "a/", "a//b", "./a", "a/../b", "a/..", "../a", "a/./b", "a/NUL/b", "C:/a",
        "/".join("a" * 10_000), "/".join(["ab" * 50] * 21),
    ],
    ids=lambda path: ascii(path[:20]),
)  # fmt: skip
def test_hostile_paths_are_refused(path: str) -> None:
    with pytest.raises(UnsafeNameError):
        safe_entry_path(path)
    with pytest.raises(UnsafeNameError):
        safe_entry_path(f"a/{path}")


def test_levels_are_bounded() -> None:
    assert safe_entry_path("/".join("a" * limits.ENTRY_LEVELS_MAX))
    with pytest.raises(UnsafeNameError, match="levels"):
        safe_entry_path("/".join("a" * (limits.ENTRY_LEVELS_MAX + 1)))


@law(300)
@given(st.text(st.characters() | st.sampled_from("./\\: \0\u202eCON"), max_size=12))
def test_an_accepted_name_is_one_plain_component_everywhere(text: str) -> None:
    try:
        safe_name(text)
    except UnsafeNameError:
        return
    assert PurePosixPath("folder", text).parent == PurePosixPath("folder")
    assert PurePosixPath("folder", text).name == text
    assert PureWindowsPath("folder", text).parent == PureWindowsPath("folder")
    assert not PureWindowsPath(text).is_reserved()
    assert text == text.rstrip(". ")
    assert not any(unicodedata.category(character).startswith(("Cc", "Cs")) for character in text)
    assert not any(
        unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
        for c in text
    )
    assert len(text.encode()) <= 255


@law(200)
@given(st.lists(st.text(st.characters() | st.sampled_from("./\\"), max_size=6), max_size=6).map("/".join))
def test_an_accepted_path_stays_below_its_folder(text: str) -> None:
    try:
        safe_entry_path(text)
    except UnsafeNameError:
        return
    for flavour in (PurePosixPath, PureWindowsPath):
        path = flavour("folder", text)
        assert path.parts[0] == "folder"
        assert ".." not in path.parts
        assert len(path.parts) == text.count("/") + 2


def test_folding_ignores_case_and_composition() -> None:
    assert folded("STRASSE/\u00c9t\u00e9") == folded("stra\u00dfe/e\u0301te\u0301")
    assert folded("a") != folded("b")
