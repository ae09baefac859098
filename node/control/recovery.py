"""The recovery phrase on the command line: shown and restored without a daemon. Layer 5.

The keystore is replaced atomically, so reading it needs no lock; restoring does, since a running node would
go on with the account it has in memory.
"""

from __future__ import annotations

from node.chunks.list_store import ListStore
from node.control.client import Json
from node.crypto.identity import account_text
from node.crypto.keystore import KEYSTORE_PATH, open_or_create, replace_account
from node.crypto.recovery import account_of, entropy_of
from node.daemon.home import Home
from node.errors import StoreInUseError, UsageError
from node.system.disk import DiskFiles, HomeLock
from node.system.entropy import SystemEntropy
from node.system.lmdb_store import LmdbStore


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

    The list of its files comes when the node runs next. Raises `WrongPassphraseError` (naming the word),
    `UsageError` where the home has files of another account, `StoreInUseError`, `StoreError`.
    """
    home.make()
    try:
        lock = HomeLock(home.path)
    except StoreInUseError:
        raise StoreInUseError(
            f"the node in {home.path} is running: stop it, restore, and start it again"
        ) from None
    with lock:
        files = DiskFiles(home.path)
        state = LmdbStore(home.path / "state")
        try:
            listed = ListStore(state)
            account = account_of(entropy_of(phrase)).public
            is_same = files.read(KEYSTORE_PATH) is not None and (
                open_or_create(files, SystemEntropy()).account_id == account
            )
            if not is_same and listed.has_files():
                raise UsageError(
                    "this home has files of another account: write down its words with `cairn recovery show "
                    "--reveal`, and restore into an empty home with --home"
                )
            listed.want()  # first: a restore cut short in between looks for a list that it need not find
            keys = replace_account(files, SystemEntropy(), phrase)
        finally:
            state.close()
    return {"account": account_text(keys.account_id)}
