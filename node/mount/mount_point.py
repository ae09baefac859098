"""The folder to mount on: whether it will do, and unmounting it again. Layer 3, over the mount table.

Invariants: nothing of the owner's is hidden by a mount (the folder has to be empty); of mounts that are
there, only one that `cairn mount` left behind is touched.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
from pathlib import Path

from node.errors import ConfigError, UsageError

FILE_SYSTEM = "fuse.cairn"
DEVICE = "/dev/fuse"
FUSE_CONFIG = "/etc/fuse.conf"
_UNMOUNT_S = 20.0


def checked_mount_point(text: str) -> tuple[str, bool]:
    """The absolute path of a folder that can be mounted on, and whether a dead mount had to be taken off
    first.

    Raises `UsageError`.
    """
    folder = os.path.abspath(text)
    was_stale = False
    try:
        os.stat(folder)
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise _unusable(folder, error) from None
        if mounted_type(folder) != FILE_SYSTEM or not unmount(folder):
            raise UsageError(
                f"{folder} is a mount whose program has died: `umount {folder}` takes it off"
            ) from None
        was_stale = True
    folder = os.path.realpath(folder)
    if mounted_type(folder) == FILE_SYSTEM:
        raise UsageError(f"{folder} has a mount of cairn already: `umount {folder}` ends it")
    try:
        has_files = bool(os.listdir(folder))
    except OSError as error:
        raise _unusable(folder, error) from None
    if has_files:
        raise UsageError(f"{folder} has files in it, which a mount would hide: choose an empty folder")
    return folder, was_stale


def require_device(*, allow_other: bool) -> None:
    """Raises `ConfigError` where this user can't mount, or not for others."""
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        raise ConfigError(
            f"the kernel has no FUSE: there is no {DEVICE} (`modprobe fuse` loads it)"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{DEVICE} can't be opened ({error.strerror}): mounting takes permission to, "
            "which a container needs to be given"
        ) from None
    if allow_other and os.geteuid() and not _others_allowed():
        raise ConfigError(
            f"--allow-other needs the line `user_allow_other` in {FUSE_CONFIG}: root can add it"
        )


def mounted_type(folder: str) -> str | None:
    """The kind of file system that is mounted on exactly this folder."""
    found = None
    for line in Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines():
        _, where, kind, *_ = line.split(" ")
        if re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), where) == folder:
            found = kind  # the last one lies on top
    return found


def unmount(folder: str) -> bool:
    """Take a mount off, also one that is in use or whose program is dead; whether it is off."""
    for words in (
        ["fusermount3", "-u", "-z", "-q"],
        ["fusermount", "-u", "-z", "-q"],
        ["umount", "-l"],
    ):
        if mounted_type(folder) is None:
            return True
        try:
            subprocess.run(
                [*words, "--", folder],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=_UNMOUNT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
    return mounted_type(folder) is None


def _unusable(folder: str, error: OSError) -> UsageError:
    if error.errno == errno.ENOENT:
        return UsageError(f"there is no folder {folder}: make it first (`mkdir {folder}`)")
    if error.errno == errno.ENOTDIR:
        return UsageError(f"{folder} is not a folder: files are mounted on an empty one")
    return UsageError(f"can't mount on {folder}: {error.strerror}")


def _others_allowed() -> bool:
    try:
        lines = Path(FUSE_CONFIG).read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)
