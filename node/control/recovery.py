"""The recovery phrase on the command line: shown and restored without a daemon. Layer 5.

The keystore is replaced atomically, so reading it needs no lock; restoring does, since a running node would
go on with the account it has in memory.
"""

from __future__ import annotations

from node.control.client import Json
from node.crypto.identity import account_text
from node.crypto.keystore import KEYSTORE_PATH, open_or_create, replace_account
from node.daemon.home import Home
from node.errors import StoreInUseError
from node.system.disk import DiskFiles, HomeLock
from node.system.entropy import SystemEntropy


def show(home: Home, *, reveal: bool) -> Json:
    """The account, and with `reveal` its words; makes the keys of a new home.

    Raises `StoreError`, `WrongPassphraseError`.
    """
    home.make()
    if (home.path / KEYSTORE_PATH).exists():
        keys = open_or_create(DiskFiles(home.path), SystemEntropy())
    else:
        with HomeLock(home.path):
            keys = open_or_create(DiskFiles(home.path), SystemEntropy())
    result: Json = {"account": account_text(keys.account_id)}
    if reveal:
        result["words"] = list(keys.words)
    return result


def restore(home: Home, phrase: str) -> Json:
    """Put the account of `phrase` into this home; the node's identity stays.

    Raises `WrongPassphraseError` (naming the word), `StoreInUseError`, `StoreError`.
    """
    home.make()
    try:
        lock = HomeLock(home.path)
    except StoreInUseError:
        raise StoreInUseError(
            f"the node in {home.path} is running: stop it, restore, and start it again"
        ) from None
    with lock:
        keys = replace_account(DiskFiles(home.path), SystemEntropy(), phrase)
    return {"account": account_text(keys.account_id)}
