"""Stretching of passwords: bounded before it costs anything."""

from __future__ import annotations

import subprocess
import sys

import pytest

from node import limits
from node.crypto.passwords import DEFAULT_COST, PasswordCost, stretch
from node.errors import ProtocolError, UsageError

CHEAP = PasswordCost(memory_kib=8, passes=1)
SALT = bytes(16)


@pytest.mark.parametrize(
    ("memory_kib", "passes"),
    [
        (7, 1),
        (0, 1),
        (-8, 1),
        (limits.ARGON2_MEMORY_KIB_MAX + 1, 1),
        (2**32 - 1, 1),
        (8, 0),
        (8, 5),
        (8, 255),
    ],
)
def test_costs_out_of_bounds_are_refused(memory_kib: int, passes: int) -> None:
    with pytest.raises(ProtocolError, match="out of bounds"):
        PasswordCost(memory_kib, passes)


def test_the_default_is_within_bounds_and_at_least_the_recommended_one() -> None:
    assert DEFAULT_COST.memory_kib >= 64 * 1024  # RFC 9106, section 4: 64 MiB, 3 passes
    assert DEFAULT_COST.passes >= 3


def test_everything_changes_the_key() -> None:
    keys = [
        stretch("secret", SALT, CHEAP),
        stretch("secrets", SALT, CHEAP),
        stretch("secret", b"\1" * 16, CHEAP),
        stretch("secret", SALT, PasswordCost(8, 2)),
        stretch("secret", SALT, PasswordCost(16, 1)),
    ]
    assert len(set(keys)) == len(keys)
    assert {len(key) for key in keys} == {32}


def test_two_ways_to_type_a_letter_are_one() -> None:
    assert stretch("caf\u00e9", SALT, CHEAP) == stretch("cafe\u0301", SALT, CHEAP)


@pytest.mark.parametrize("password", ["", "x" * (limits.PASSWORD_BYTES_MAX + 1), "\ud800"])
def test_unusable_passwords_are_refused_without_being_repeated(password: str) -> None:
    with pytest.raises(UsageError) as caught:
        stretch(password, SALT, CHEAP)
    assert not password or password not in str(caught.value)


def test_want_of_memory_is_said_in_words() -> None:
    """In a process of its own, which may have little more than it has when it starts."""
    program = """
import resource
from pathlib import Path
from node.crypto.passwords import DEFAULT_COST, stretch
from node.errors import CryptoError

used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 64 * 2**20,) * 2)
try:
    stretch("secret", bytes(16), DEFAULT_COST)
except CryptoError as error:
    print(error)
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "takes 128 MiB of memory" in finished.stdout
