"""The recovery phrase on the command line, and what seals it: without a daemon. Layer 5.

The keystore is replaced atomically, so reading it needs no lock; restoring does, since a running node would
go on with the account it has in memory, and so does another passphrase, which must not undo a restoring.
"""

from __future__ import annotations

from node.chunks.list_store import ListStore
from node.control.client import Json
from node.credit.ledger_store import forget_own_cert
from node.crypto.identity import account_text
from node.crypto.keystore import (
    KEYSTORE_PATH,
    is_sealed,
    open_or_create,
    replace_account,
    set_passphrase,
)
from node.crypto.recovery import account_of, entropy_of
from node.daemon.home import Home
from node.errors import StoreInUseError, UsageError
from node.system.disk import DiskFiles, HomeLock
from node.system.entropy import SystemEntropy
from node.system.lmdb_store import LmdbStore


def needs_passphrase(home: Home) -> bool:
    """Whether this home's keystore is sealed. Raises `StoreError`."""
    return is_sealed(DiskFiles(home.path))


def show(home: Home, *, reveal: bool, passphrase: str | None = None) -> Json:
    """The account, and with `reveal` its words; makes the keys of a new home.

    Raises `StoreError`, `WrongPassphraseError`.
    """
    home.make()
    if (home.path / KEYSTORE_PATH).exists():
        keys = open_or_create(DiskFiles(home.path), SystemEntropy(), passphrase)
    else:
        with HomeLock(home.path):
            keys = open_or_create(DiskFiles(home.path), SystemEntropy(), passphrase)
    result: Json = {"account": account_text(keys.account_id)}
    if reveal:
        result["words"] = list(keys.words)
    return result


def restore(home: Home, phrase: str, passphrase: str | None = None) -> Json:
    """Put the account of `phrase` into this home; the node's identity stays.

    The list of its files comes when the node runs next. Of several machines that run the account the one that
    was restored last pays for it, also where it had the account already. `passphrase` opens the keystore and
    seals it again.
    Raises `WrongPassphraseError` (naming the word), `UsageError` where the home has files of another account,
    `StoreInUseError`, `StoreError`.
    """
    with _stopped(home, "restore"):
        files = DiskFiles(home.path)
        account = account_of(entropy_of(phrase)).public
        is_same = files.read(KEYSTORE_PATH) is not None and (
            open_or_create(files, SystemEntropy(), passphrase).account_id == account
        )
        state = LmdbStore(home.path / "state")
        try:
            file_list = ListStore(state)
            if not is_same and file_list.has_files():
                raise UsageError(
                    "this home has files of another account: write down its words with `cairn recovery show "
                    "--reveal`, and restore into an empty home with --home"
                )
            # First: a restore cut short in between looks for a list that it need not find.
            file_list.want(forget=not is_same)
            forget_own_cert(state)
        finally:
            state.close()
        keys = replace_account(files, SystemEntropy(), phrase, passphrase)
    return {"account": account_text(keys.account_id)}


def change_passphrase(home: Home, old: str | None, new: str | None) -> Json:
    """Seal the keystore under `new`, or under nothing; makes the keys of a new home.

    Raises `WrongPassphraseError`, `StoreInUseError`, `StoreError`.
    """
    with _stopped(home, "say this again"):
        files, entropy = DiskFiles(home.path), SystemEntropy()
        keys = open_or_create(files, entropy, old)
        set_passphrase(files, entropy, old, new)
    return {"account": account_text(keys.account_id), "sealed": new is not None}


def _stopped(home: Home, what: str) -> HomeLock:
    """The lock of a home in which no node runs. Raises `StoreInUseError`."""
    home.make()
    try:
        return HomeLock(home.path)
    except StoreInUseError:
        raise StoreInUseError(
            f"the node in {home.path} is running: stop it, {what}, and start it again"
        ) from None
