"""The recovery phrase: 24 words that bring the account back. Layer 1, pure.

The words encode 32 bytes of entropy and a checksum; the account's seed is derived from the entropy.
Source: BIP 39 (English list); its PBKDF2 step is not used, since 256 bits need no stretching.
"""

from __future__ import annotations

from node.crypto.signing import KeyPair

ENTROPY_BYTES = 32
PHRASE_WORDS = 24


def words_of(entropy: bytes) -> tuple[str, ...]:
    """The 24 words of 32 bytes of entropy."""
    raise NotImplementedError


def entropy_of(phrase: str) -> bytes:
    """The entropy of a phrase as a person typed it: any case, any white space.

    Raises:
        WrongPassphraseError: naming the word that is not in the list, or the checksum.
    """
    raise NotImplementedError


def account_of(entropy: bytes) -> KeyPair:
    """The account's key pair; its `seed` is the account secret of `sealing.owner_key`."""
    raise NotImplementedError
