"""Which names of files and folder entries are accepted. Layer 2, pure.

A name comes from a stranger and ends up as a file on somebody's disk, on any platform: what could leave the
folder, hide its true extension, address a device, or collide after normalisation is refused, at put and at
get alike. Nothing is repaired silently: a name is used as it is, or not at all.
"""

from __future__ import annotations


def safe_name(text: str) -> str:
    """`text`, if it is a safe name for one file or folder. Raises `UnsafeNameError`."""
    raise NotImplementedError


def safe_entry_path(text: str) -> str:
    """`text`, if it is a safe relative POSIX path of a folder entry. Raises `UnsafeNameError`."""
    raise NotImplementedError


def folded(path: str) -> str:
    """What file systems that ignore case or normalisation may take `path` for (canonical caseless match)."""
    raise NotImplementedError
