"""The recovery phrase: 24 words that bring the account back. Layer 1, pure.

The words encode 32 bytes of entropy and a checksum; the account's seed is derived from the entropy.
Source: BIP 39 (English list); its PBKDF2 step is not used, since 256 bits need no stretching.
"""

from __future__ import annotations

import difflib
from functools import cache

from mnemonic import Mnemonic

from node import limits
from node.crypto.hashing import Context, derive
from node.crypto.signing import KeyPair
from node.errors import WrongPassphraseError

ENTROPY_BYTES = 32
PHRASE_WORDS = 24


def words_of(entropy: bytes) -> tuple[str, ...]:
    """The 24 words of 32 bytes of entropy."""
    assert len(entropy) == ENTROPY_BYTES
    return tuple(_mnemonic().to_mnemonic(entropy).split(" "))


def entropy_of(phrase: str) -> bytes:
    """The entropy of a phrase as a person typed it: any case, any white space.

    Raises:
        WrongPassphraseError: naming the word that is not in the list, or the checksum.
    """
    if len(phrase) > limits.PHRASE_CHARS_MAX:
        raise WrongPassphraseError("this is too long for a recovery phrase: it has 24 words")
    words = phrase.lower().split()
    if len(words) != PHRASE_WORDS:
        raise WrongPassphraseError(f"a recovery phrase has 24 words, this one has {len(words)}")
    known = _mnemonic().wordlist
    for number, word in enumerate(words, start=1):
        if word not in known:
            near = difflib.get_close_matches(word, known, n=1)
            advice = f"did you mean {near[0]!r}?" if near else "look at your note again"
            raise WrongPassphraseError(f"word {number}, {word!r}, is not in the list of words: {advice}")
    try:
        return bytes(_mnemonic().to_entropy(words))
    except ValueError:
        raise WrongPassphraseError(
            "every word is in the list, but their checksum is off: two are swapped, or one is another word"
        ) from None


def account_of(entropy: bytes) -> KeyPair:
    """The account's key pair; its `seed` is the account secret of `sealing.owner_key`."""
    assert len(entropy) == ENTROPY_BYTES
    return KeyPair.from_seed(derive(Context.ACCOUNT_SEED, entropy))


@cache
def _mnemonic() -> Mnemonic:
    return Mnemonic("english")
