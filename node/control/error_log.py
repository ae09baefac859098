"""Where a bug in a command leaves its traceback. Layer 5; the standard library only.

Invariant: the file holds code lines and messages, never the command's arguments, which may be links.
"""

from __future__ import annotations

import os
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from node.daemon.home import Home

FILE_BYTES_MAX = 256 * 1024


def write_traceback(argv: Sequence[str]) -> Path:
    """Append the exception being handled to the home's error log, or to a new file without a home."""
    home = None
    for index, word in enumerate(argv):
        if word == "--home" and index + 1 < len(argv):
            home = argv[index + 1]
        elif word.startswith("--home="):
            home = word.removeprefix("--home=")
    text = traceback.format_exc() + "\n"
    folder = Home.locate(home).path
    if folder.is_dir() and os.access(folder, os.W_OK):
        path = folder / "errors.log"
        if path.exists() and path.stat().st_size > FILE_BYTES_MAX:
            path.unlink()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    else:
        descriptor, name = tempfile.mkstemp(prefix="cairn-error-", suffix=".log")
        path = Path(name)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    return path
