"""The file that keeps a node's identity and account. Layer 3, over the `Files` port.

Identity and account are separate keys: the account moves between machines by its recovery phrase, the
identity stays. The file has mode 0600 and is replaced atomically; with a passphrase its secrets are sealed
under Argon2id. It is a canonical array `[tag, version, sealing, secrets, check]`: `sealing` is empty or
`[salt, memory in KiB, passes, nonce]`, `secrets` the array `[identity seed, account entropy]`, sealed or not,
`check` a hash of what stands before it, so that damage is told from a wrong passphrase.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from node import limits, wire
from node.crypto.hashing import Context, derive
from node.crypto.identity import peer_id_of
from node.crypto.passwords import DEFAULT_COST, SALT_BYTES, PasswordCost, stretch
from node.crypto.recovery import ENTROPY_BYTES, account_of, entropy_of, words_of
from node.crypto.sealing import NONCE_BYTES, open_bytes, seal_bytes
from node.crypto.signing import SEED_BYTES, KeyPair
from node.errors import CryptoError, ProtocolError, StoreError, WrongPassphraseError
from node.ports import Entropy, Files
from node.units import AccountId, PeerId
from node.wire import Value

KEYSTORE_PATH = PurePath("keystore")
KEYSTORE_TAG = "cairn/keystore"
KEYSTORE_VERSION = 1
_DAMAGED = (
    f"the keystore (the file {KEYSTORE_PATH} in the node's home) is damaged: put back a copy, or move it "
    "away and bring the account back with: cairn recovery restore"
)


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """The two keys of a node, and the entropy behind its account."""

    identity: KeyPair
    account: KeyPair
    account_entropy: bytes = field(repr=False)

    @classmethod
    def of(cls, identity_seed: bytes, account_entropy: bytes) -> NodeKeys:
        """The keys of 32 bytes each of seed and entropy."""
        return cls(KeyPair.from_seed(identity_seed), account_of(account_entropy), account_entropy)

    @property
    def peer_id(self) -> PeerId:
        """The identity on the wire."""
        return peer_id_of(self.identity.public)

    @property
    def account_id(self) -> AccountId:
        """The account's public key."""
        return AccountId(self.account.public)

    @property
    def words(self) -> tuple[str, ...]:
        """The recovery phrase of the account."""
        return words_of(self.account_entropy)


@dataclass(frozen=True, slots=True)
class Sealing:
    """How the secrets of a keystore are sealed; salt and nonce are new for every write."""

    salt: bytes
    cost: PasswordCost
    nonce: bytes

    def as_value(self) -> list[Value]:
        """As it stands in the file."""
        return [self.salt, self.cost.memory_kib, self.cost.passes, self.nonce]


def open_or_create(
    files: Files, entropy: Entropy, passphrase: str | None = None, *, cost: PasswordCost = DEFAULT_COST
) -> NodeKeys:
    """The keys of this home; new ones, durable before this returns, if it has none.

    Raises:
        WrongPassphraseError: it does not open the keystore, is missing, or is given where none is set.
        StoreError: the file is damaged.
    """
    data = files.read(KEYSTORE_PATH)
    if data is not None:
        return decode_keys(data, passphrase)
    keys = NodeKeys.of(entropy.random_bytes(SEED_BYTES), entropy.random_bytes(ENTROPY_BYTES))
    _write(files, entropy, keys, passphrase, cost)
    return keys


def replace_account(
    files: Files,
    entropy: Entropy,
    phrase: str,
    passphrase: str | None = None,
    *,
    cost: PasswordCost = DEFAULT_COST,
) -> NodeKeys:
    """Put the account of a recovery phrase in the place of the present one; the identity stays.

    Creates the keystore where there is none. Raises `WrongPassphraseError` (also for a bad phrase, and then
    nothing has changed), `StoreError`.
    """
    account_entropy = entropy_of(phrase)
    data = files.read(KEYSTORE_PATH)
    seed = entropy.random_bytes(SEED_BYTES) if data is None else decode_keys(data, passphrase).identity.seed
    keys = NodeKeys.of(seed, account_entropy)
    _write(files, entropy, keys, passphrase, cost)
    return keys


def set_passphrase(
    files: Files, entropy: Entropy, old: str | None, new: str | None, *, cost: PasswordCost = DEFAULT_COST
) -> None:
    """Seal the keystore under another passphrase, or (None) under none. Raises like `open_or_create`."""
    data = files.read(KEYSTORE_PATH)
    if data is None:
        raise StoreError("this home has no keystore yet: start the node once")
    _write(files, entropy, decode_keys(data, old), new, cost)


def is_sealed(files: Files) -> bool:
    """Whether the secrets of this home are sealed under a passphrase. Raises `StoreError` if damaged."""
    data = files.read(KEYSTORE_PATH)
    if data is None:
        return False
    try:
        return _decode_file(data)[0] is not None
    except ProtocolError as error:
        raise StoreError(_DAMAGED) from error


def encode_keys(keys: NodeKeys, sealing: Sealing | None, passphrase: str | None) -> bytes:
    """The bytes of the keystore file; sealed if `sealing` and `passphrase` are given, both or neither."""
    secrets = wire.encode([keys.identity.seed, keys.account_entropy])
    parameters: list[Value] = []
    if sealing is not None and passphrase is not None:
        parameters = sealing.as_value()
        secrets = seal_bytes(
            stretch(passphrase, sealing.salt, sealing.cost), sealing.nonce, _aad(parameters), secrets
        )
    items: list[Value] = [KEYSTORE_TAG, KEYSTORE_VERSION, parameters, secrets]
    return wire.encode([*items, _check(items)])


def decode_keys(data: bytes, passphrase: str | None) -> NodeKeys:
    """The keys in the bytes of a keystore file. Raises `WrongPassphraseError`, `StoreError`."""
    try:
        sealing, secrets = _decode_file(data)
    except ProtocolError as error:
        raise StoreError(_DAMAGED) from error
    if sealing is None and passphrase is not None:
        raise WrongPassphraseError(
            "this keystore has no passphrase: leave it out, or set one with `cairn recovery passphrase`"
        )
    if sealing is not None:
        if passphrase is None:
            raise WrongPassphraseError(
                "this keystore is sealed: give its passphrase with --passphrase-file, or name the file in "
                "CAIRN_PASSPHRASE_FILE"
            )
        key = stretch(passphrase, sealing.salt, sealing.cost)
        try:
            secrets = open_bytes(key, sealing.nonce, _aad(sealing.as_value()), secrets)
        except CryptoError:
            raise WrongPassphraseError(
                "the passphrase does not open the keystore: nothing has changed, try another one"
            ) from None
    try:
        seed, account_entropy = wire.expect_list(wire.decode(secrets, size_max=len(secrets)), count=2)
        return NodeKeys.of(
            wire.expect_bytes(seed, size=SEED_BYTES), wire.expect_bytes(account_entropy, size=ENTROPY_BYTES)
        )
    except ProtocolError as error:
        raise StoreError(_DAMAGED) from error


def _decode_file(data: bytes) -> tuple[Sealing | None, bytes]:
    """How the secrets are sealed, and the secrets. Raises `ProtocolError` for a damaged file, `StoreError`
    for one of a later version."""
    items = wire.decode(data, size_max=limits.KEYSTORE_BYTES_MAX)
    if len(items) < 2 or items[0] != KEYSTORE_TAG:
        raise ProtocolError("not a keystore")
    if wire.expect_int(items[1], low=1, high=2**16) != KEYSTORE_VERSION:
        raise StoreError("the keystore was written by a later version of Cairn: update this one")
    *body, check = wire.expect_list(items, count=5)
    if not hmac.compare_digest(wire.expect_bytes(check), _check(body)):
        raise ProtocolError("the keystore's check does not hold")
    secrets = wire.expect_bytes(items[3])
    parameters = wire.expect_list(items[2])
    if not parameters:
        return None, secrets
    salt, memory_kib, passes, nonce = wire.expect_list(parameters, count=4)
    cost = PasswordCost(
        wire.expect_int(memory_kib, low=1, high=limits.ARGON2_MEMORY_KIB_MAX),
        wire.expect_int(passes, low=1, high=limits.ARGON2_PASSES_MAX),
    )
    return Sealing(
        wire.expect_bytes(salt, size=SALT_BYTES), cost, wire.expect_bytes(nonce, size=NONCE_BYTES)
    ), secrets


def _write(
    files: Files, entropy: Entropy, keys: NodeKeys, passphrase: str | None, cost: PasswordCost
) -> None:
    sealing = None
    if passphrase is not None:
        sealing = Sealing(entropy.random_bytes(SALT_BYTES), cost, entropy.random_bytes(NONCE_BYTES))
    files.replace(KEYSTORE_PATH, encode_keys(keys, sealing, passphrase), mode=0o600)


def _aad(parameters: Sequence[Value]) -> bytes:
    return wire.encode([KEYSTORE_TAG, KEYSTORE_VERSION, parameters])


def _check(items: Sequence[Value]) -> bytes:
    return derive(Context.KEYSTORE_CHECK, wire.encode(items))
