"""Which names of files and folder entries are accepted. Layer 2, pure.

A name comes from a stranger and ends up as a file on somebody's disk, on any platform: what could leave the
folder, hide its true extension, address a device, or collide with another name is refused, at put and at get
alike. Nothing is repaired silently: a name is used as it is, or not at all.
Sources: design.md, section 7; Unicode TR36 (bidi); Microsoft, "Naming files, paths, and namespaces".
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from node import limits
from node.errors import UnsafeNameError

_BIDI_AND_INVISIBLE: Final = re.compile(
    "["
    "\u061c\u200e\u200f"  # marks of direction
    "\u202a-\u202e\u2066-\u2069"  # embeddings, overrides, isolates: they reorder "exe.txt"
    "\u200b\u2028\u2029\ufeff"  # zero-width space, line and paragraph separators, byte order mark
    "]"
)
_SEPARATORS: Final = re.compile(r"[/\\]")
_DRIVE: Final = re.compile(r"[a-zA-Z]:")
_STEM_END: Final = re.compile(r"[.:]")  # "nul.txt" and "nul:" are the device too
_DEVICES: Final = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$", "clock$"]
    + [f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³"]
)


def safe_name(text: str) -> str:
    """`text`, if it is a safe name for one file or folder. Raises `UnsafeNameError`."""
    reason = _objection(text)
    if reason is not None:
        raise UnsafeNameError(f"the name {_shown(text)} is refused: it {reason}")
    return text


def safe_entry_path(text: str) -> str:
    """`text`, if it is a safe relative POSIX path of a folder entry. Raises `UnsafeNameError`."""
    # Lengths first: nothing is split or shown before it is known to be small.
    if len(text) > limits.ENTRY_PATH_BYTES_MAX:
        raise UnsafeNameError(f"the path {_shown(text)} is refused: it is too long")
    if text.count("/") >= limits.ENTRY_LEVELS_MAX:
        raise UnsafeNameError(
            f"the path {_shown(text)} is refused: it has over {limits.ENTRY_LEVELS_MAX} levels"
        )
    for name in text.split("/"):
        reason = _objection(name)
        if reason is not None:
            raise UnsafeNameError(f"the path {_shown(text)} is refused: a name in it {reason}")
    if len(text.encode()) > limits.ENTRY_PATH_BYTES_MAX:
        raise UnsafeNameError(f"the path {_shown(text)} is refused: it is too long")
    return text


def folded(path: str) -> str:
    """What file systems that ignore case or composition take `path` for (a canonical caseless match)."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", path).casefold())


def _objection(name: str) -> str | None:
    """Why a name is refused, to follow "it"; None if it is safe."""
    if not name:
        return "is empty"
    if len(name) > limits.NAME_BYTES_MAX:
        return f"is over {limits.NAME_BYTES_MAX} bytes long"
    if name in (".", ".."):
        return "points to a folder"
    if _SEPARATORS.search(name):
        return "contains a path separator"
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        return "contains control characters"
    if _BIDI_AND_INVISIBLE.search(name):
        return "contains characters that hide or reorder text"
    if len(name.encode()) > limits.NAME_BYTES_MAX:
        return f"is over {limits.NAME_BYTES_MAX} bytes long"
    if name[-1] in ". ":
        return "ends with a dot or a space"
    if _DRIVE.match(name):
        return "begins with a drive letter"
    if _STEM_END.split(name, maxsplit=1)[0].rstrip(" ").casefold() in _DEVICES:
        return "is reserved for a device"
    return None


def _shown(text: str) -> str:
    """The beginning of a hostile text, escaped: it goes to a terminal."""
    return ascii(text[:60]) + ("..." if len(text) > 60 else "")
