"""Peer ids and accounts: public keys, and how they are written. Layer 1, pure.

A peer id is libp2p's: the identity multihash of the protobuf-encoded Ed25519 public key, base58btc as text.
An account is written as a multikey (`z6Mk...`), so that the two can't be confused.
Sources: github.com/libp2p/specs/blob/master/peer-ids; w3c-ccg multikey (multicodec 0xed01).
"""

from __future__ import annotations

from functools import lru_cache

import base58

from node.crypto.signing import PUBLIC_KEY_BYTES
from node.errors import ProtocolError, UsageError
from node.units import AccountId, PeerId

PEER_ID_BYTES = 38
_PEER_ID_PREFIX = bytes.fromhex(
    "0024 0801 1220"
)  # identity multihash of 36 bytes: key type Ed25519, 32 bytes
_ACCOUNT_PREFIX = bytes.fromhex("ed01")  # multicodec ed25519-pub
_TEXT_CHARS_MAX = 64  # both are about 50 characters


def peer_id_of(public: bytes) -> PeerId:
    """The peer id of a 32-byte Ed25519 public key."""
    assert len(public) == PUBLIC_KEY_BYTES
    return PeerId(_PEER_ID_PREFIX + public)


def public_key_of(peer_id: bytes) -> bytes:
    """The public key inside a peer id. Raises `ProtocolError` for another kind of id."""
    if len(peer_id) != PEER_ID_BYTES or not peer_id.startswith(_PEER_ID_PREFIX):
        raise ProtocolError("not the peer id of an Ed25519 key")
    return bytes(peer_id[len(_PEER_ID_PREFIX) :])


@lru_cache(maxsize=4096)  # errors name peers, the same few again and again
def peer_id_text(peer_id: PeerId) -> str:
    """A peer id as base58btc, `12D3Koo...`."""
    text: str = base58.b58encode(peer_id).decode()
    return text


def parse_peer_id(text: str) -> PeerId:
    """The peer id of its base58btc text. Raises `UsageError`."""
    peer_id = _decode_base58(text)
    if peer_id is None or len(peer_id) != PEER_ID_BYTES or not peer_id.startswith(_PEER_ID_PREFIX):
        raise UsageError("not a peer id: expected 52 characters that begin with 12D3Koo")
    return PeerId(peer_id)


def account_text(account: AccountId) -> str:
    """An account as a multikey, `z6Mk...`."""
    text: str = base58.b58encode(_ACCOUNT_PREFIX + account).decode()
    return "z" + text


def parse_account(text: str) -> AccountId:
    """The account of its multikey text. Raises `UsageError`."""
    binary = _decode_base58(text.removeprefix("z")) if text.startswith("z") else None
    if binary is None or not binary.startswith(_ACCOUNT_PREFIX) or len(binary) != 2 + PUBLIC_KEY_BYTES:
        raise UsageError("not an account: expected 48 characters that begin with z6Mk")
    return AccountId(binary[2:])


def _decode_base58(text: str) -> bytes | None:
    """None if it is not base58; the length is checked first, since decoding is quadratic in it."""
    if not 0 < len(text) <= _TEXT_CHARS_MAX or not text.isascii() or text != text.strip():
        return None
    try:
        binary: bytes = base58.b58decode(text)
    except ValueError:
        return None
    return binary
