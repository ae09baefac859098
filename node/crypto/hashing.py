"""BLAKE3, its key-derivation contexts, and how a hash is written. Layer 1, pure.

Every use of key derivation has a context of its own, listed in `Context` and nowhere else, so that bytes
made for one purpose never stand in for another. Sources: BLAKE3 paper, section 2.3 and 6.2; multihash and
CID v1 (github.com/multiformats/cid).
"""

from __future__ import annotations

import base64
import re
from enum import Enum

from blake3 import blake3

from node.errors import UsageError
from node.ports import Buffer
from node.units import FileHash

HASH_BYTES = 32
MULTIHASH_PREFIX = b"\x1e\x20"  # multicodec blake3, then the length
CID_PREFIX = b"\x01\x55"  # CID version 1, multicodec raw
CID_CHARS = 59  # "b" and 58 characters of base32 for 36 bytes


class Context(Enum):
    """Every key-derivation context of Cairn: one use each, never changed once released."""

    SEGMENT_KEY = "cairn/1 segment key"
    """Material: file key (32), suite (1), data_shards (1), block bytes (4), segment index (4)."""
    HEADER_KEY = "cairn/1 header key"
    """Material: file key (32)."""
    KEY_CHECK = "cairn/1 key check"
    """Material: file key (32)."""
    OWNER_KEY_SEED = "cairn/1 owner key seed"
    """Material: account seed (32), owner salt (16)."""
    ACCOUNT_SEED = "cairn/1 account seed"
    """Material: entropy of the recovery phrase (32)."""
    MERKLE_NODE = "cairn/1 merkle node"
    """Material: left child (32), right child (32) of a shard's Merkle tree."""
    KEYSTORE_CHECK = "cairn/1 keystore check"
    """Material: the encoded keystore without its check."""
    LIST_OWNER_SALT = "cairn/1 list owner salt"
    """Material: account seed (32). The first 16 bytes are the owner salt of the list of files."""
    LIST_ROOT_KEY = "cairn/1 list root key"
    """Material: account seed (32), salt of one root (16)."""


def blake3_256(data: Buffer) -> bytes:
    """Plain BLAKE3 of `data`, 32 bytes."""
    digest: bytes = blake3(data).digest()
    return digest


def derive(context: Context, material: Buffer, *, size: int = HASH_BYTES) -> bytes:
    """`size` bytes of BLAKE3 in key-derivation mode."""
    derived: bytes = blake3(material, derive_key_context=context.value).digest(size)
    return derived


def multihash(digest: bytes) -> bytes:
    """A 32-byte BLAKE3 digest as a multihash: the key of its provider records."""
    assert len(digest) == HASH_BYTES
    return MULTIHASH_PREFIX + digest


def cid_text(file_hash: FileHash) -> str:
    """A file hash as CIDv1 (raw, blake3) in lower-case base32, 59 characters."""
    binary = CID_PREFIX + multihash(file_hash)
    return "b" + base64.b32encode(binary).decode().rstrip("=").lower()


def parse_cid(text: str) -> FileHash:
    """The file hash that `cid_text` wrote; no other spelling is accepted. Raises `UsageError`."""
    if len(text) != CID_CHARS or not re.fullmatch(r"b[a-z2-7]{58}", text):
        raise UsageError("not a file hash: expected 59 characters that begin with bafkr4i")
    binary = base64.b32decode(text[1:].upper() + "======")
    file_hash = FileHash(binary[4:])
    if cid_text(file_hash) != text:
        raise UsageError("not a file hash of this kind: expected CIDv1, raw, blake3 (it begins with bafkr4i)")
    return file_hash
