"""The standard streams of a command: there, and with errors in words. Layer 5; the standard library only."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from node.errors import NodeError, StoreError, StoreFullError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def open_missing() -> None:
    """Give a process that was started without one of its streams (`>&-`) an empty one.

    A file opened later would otherwise get the stream's number, and take what is printed.
    """
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115  # for the rest of the process
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def write_stdout(data: bytes) -> None:
    """Raises `StoreFullError`, `StoreError`, `BrokenPipeError`."""
    with stdout_errors():
        sys.stdout.buffer.write(data)


def flush_stdout() -> None:
    """Raises as `write_stdout` does."""
    with stdout_errors():
        sys.stdout.flush()


@contextmanager
def stdout_errors() -> Iterator[None]:
    """Say in words what the system says of standard output; a reader that has enough is no error."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _stdout_error(error) from error


def drop_stdout() -> None:
    """Let what was printed go nowhere: Python would complain again when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _stdout_error(error: OSError) -> NodeError:
    if error.errno in _FULL:
        return StoreFullError(
            "the disk behind standard output is full: free some space, then say the same again"
        )
    return StoreError(f"can't write to standard output: {error.strerror}")
