"""The file that keeps a node's identity and account. Layer 3, over the `Files` port.

Identity and account are separate keys: the account moves between machines by its recovery phrase, the
identity stays. The file has mode 0600 and is replaced atomically; with a passphrase its secrets are sealed
under Argon2id.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePath

from node.crypto.passwords import DEFAULT_COST, PasswordCost
from node.crypto.signing import KeyPair
from node.ports import Entropy, Files
from node.units import AccountId, PeerId

KEYSTORE_PATH = PurePath("keystore")


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """The two keys of a node, and the entropy behind its account."""

    identity: KeyPair
    account: KeyPair
    account_entropy: bytes = field(repr=False)

    @property
    def peer_id(self) -> PeerId:
        """The identity on the wire."""
        raise NotImplementedError

    @property
    def account_id(self) -> AccountId:
        """The account's public key."""
        return AccountId(self.account.public)

    @property
    def words(self) -> tuple[str, ...]:
        """The recovery phrase of the account."""
        raise NotImplementedError


def open_or_create(
    files: Files, entropy: Entropy, passphrase: str | None = None, *, cost: PasswordCost = DEFAULT_COST
) -> NodeKeys:
    """The keys of this home; new ones, durable before this returns, if it has none.

    Raises:
        WrongPassphraseError: it does not open the keystore, is missing, or is given where none is set.
        StoreError: the file is damaged.
    """
    raise NotImplementedError


def replace_account(
    files: Files,
    entropy: Entropy,
    phrase: str,
    passphrase: str | None = None,
    *,
    cost: PasswordCost = DEFAULT_COST,
) -> NodeKeys:
    """Put the account of a recovery phrase in the place of the present one; the identity stays.

    Creates the keystore where there is none. Raises `WrongPassphraseError`, `StoreError`.
    """
    raise NotImplementedError


def set_passphrase(
    files: Files, entropy: Entropy, old: str | None, new: str | None, *, cost: PasswordCost = DEFAULT_COST
) -> None:
    """Seal the keystore under another passphrase, or (None) under none. Raises like `open_or_create`."""
    raise NotImplementedError
