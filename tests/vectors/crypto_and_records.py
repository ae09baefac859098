"""What the code makes today of fixed inputs, under the names of `crypto_and_records.json`.

The JSON is frozen: nothing but a deliberate change of format may change it, and then
`python -m tests.vectors.crypto_and_records` prints the new one. Bytes are hex.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from node import wire
from node.chunks.file_list import ListKeys, ListPart, ListRoot, ListRow, encode_part
from node.crypto.blake3_tree import chunk_proof
from node.crypto.hashing import Context, blake3_256, cid_text, derive, multihash
from node.crypto.identity import account_text, peer_id_of, peer_id_text
from node.crypto.keystore import NodeKeys, Sealing, encode_keys
from node.crypto.links import Link, wrap_key
from node.crypto.passwords import PasswordCost, stretch
from node.crypto.recovery import words_of
from node.crypto.sealing import FileKeys, Suite, owner_key
from node.crypto.signing import KeyPair
from node.records.lease import Lease, Release
from node.records.list_pointer import ListPointer
from node.records.offer import DeviceCert, Offer
from node.records.placement_hint import FILE_MANIFEST_TAG, PlacementHint
from node.units import AccountId, Contact, FileHash, LeaseId, Multiaddr, OwnerKey, SegmentId

FROZEN_PATH = Path(__file__).with_suffix(".json")
Vectors = dict[str, dict[str, str]]

NETWORK = "cairn-vectors"
FILE_KEY = bytes(range(32))
ENTROPY = bytes(range(32, 64))
IDENTITY_SEED = bytes(range(64, 96))
SALT = bytes(range(96, 112))
NONCE = bytes(range(112, 136))
MATERIAL = bytes(range(48))
FILE_HASH = FileHash(blake3_256(b"a file manifest"))
COST = PasswordCost(memory_kib=64, passes=2)
PASSWORD = "caf\u00e9 au lait"
ADDRESS = Multiaddr("/ip4/192.0.2.7/tcp/4001")
NOW_S = 1_800_000_000

KEYS = NodeKeys.of(IDENTITY_SEED, ENTROPY)
OWNER = owner_key(KEYS.account.seed, SALT)
HOLDER = KeyPair.from_seed(bytes(range(136, 168)))
HOLDER_ID = peer_id_of(HOLDER.public)


def file_manifest() -> bytes:
    """The beginning of a file manifest of 12 fields, then filler, over three chunks."""
    return wire.encode([FILE_MANIFEST_TAG, 1, OWNER.public, *[0] * 9]).ljust(2500, b"m")


def derivations() -> dict[str, str]:
    return {"material": MATERIAL.hex()} | {
        context.value: derive(context, MATERIAL).hex() for context in Context
    }


def hashes() -> dict[str, str]:
    block = bytes(index % 251 for index in range(65_472))
    _, path = chunk_proof(block, 41)
    return {
        "hash": FILE_HASH.hex(),
        "multihash": multihash(FILE_HASH).hex(),
        "cid": cid_text(FILE_HASH),
        "block: byte i is i mod 251, 65,472 bytes; hash": blake3_256(block).hex(),
        "block: path of chunk 41": path.hex(),
    }


def identities() -> dict[str, str]:
    return {
        "public key": KEYS.identity.public.hex(),
        "peer id": KEYS.peer_id.hex(),
        "peer id as text": peer_id_text(KEYS.peer_id),
        "account": KEYS.account_id.hex(),
        "account as text": account_text(KEYS.account_id),
        "recovery phrase": " ".join(words_of(ENTROPY)),
        "account seed": KEYS.account.seed.hex(),
        "owner salt": SALT.hex(),
        "owner key": OWNER.public.hex(),
        "signature of 'message' as 'lease' by the owner key": OWNER.sign("lease", b"message").hex(),
    }


def sealing() -> dict[str, str]:
    keys = FileKeys.derive(FILE_KEY)
    segment = keys.segment_key(Suite.XCHACHA20_POLY1305, data_shards=10, block_bytes=65_472, segment_index=7)
    return {
        "file key": FILE_KEY.hex(),
        "key check": keys.key_check.hex(),
        "header key": keys.header_key.key.hex(),
        "sealed header 'header'": keys.header_key.seal(b"header").hex(),
        "key of segment 7 at 10 data shards, blocks of 65,472": segment.key.hex(),
        "stripe 3 'stripe'": segment.seal(3, last=False, plaintext=b"stripe").hex(),
        "stripe 3 'stripe', the file's last": segment.seal(3, last=True, plaintext=b"stripe").hex(),
        "stripe 0, empty, the file's last": segment.seal(0, last=True, plaintext=b"").hex(),
    }


def links() -> dict[str, str]:
    wrapped = wrap_key(FILE_KEY, FILE_HASH, PASSWORD, SALT, COST)
    return {
        "verify": str(Link(FILE_HASH)),
        "read": str(Link(FILE_HASH, FILE_KEY)),
        "with an address": str(Link(FILE_HASH, FILE_KEY, (ADDRESS,))),
        "password": PASSWORD,
        "password stretched with the salt, 64 KiB, 2 passes": stretch(PASSWORD, SALT, COST).hex(),
        "with the password": str(Link(FILE_HASH, wrapped=wrapped)),
    }


def keystores() -> dict[str, str]:
    return {
        "open": encode_keys(KEYS, None, None).hex(),
        "sealed with the password": encode_keys(KEYS, Sealing(SALT, COST, NONCE), PASSWORD).hex(),
    }


def lease() -> Lease:
    return Lease(
        network=NETWORK,
        lease_id=LeaseId(SALT),
        segment_id=SegmentId(bytes(range(32))),
        shard_index=29,
        root=bytes(range(32, 64)),
        byte_count=4_190_208,
        owner_key=OwnerKey(OWNER.public),
        holder=HOLDER_ID,
        start_day=20_833,
        end_day=20_863,
        rate=1_000_000,
        egress_cap_bytes=10**9,
        nonce=bytes(range(16)),
    ).sign_as_owner(OWNER)


def records() -> dict[str, str]:
    signed = lease().countersign(HOLDER)
    hint = PlacementHint.make(
        network=NETWORK,
        manifest=file_manifest(),
        owner=OWNER,
        sequence=3,
        expires_s=NOW_S + 86_400,
        holders=[Contact(HOLDER_ID, (ADDRESS,)), Contact(KEYS.peer_id)],
    )
    account = AccountId(KEYS.account.public)
    return {
        "lease body": signed.body().hex(),
        "lease id": signed.record_id().hex(),
        "lease unsigned": replace(lease(), owner_signature=b"").encode().hex(),
        "lease signed by the owner": lease().encode().hex(),
        "lease": signed.encode().hex(),
        "release": Release(NETWORK, signed.lease_id, HOLDER_ID, signed.owner_key).sign(OWNER).encode().hex(),
        "offer": Offer(NETWORK, HOLDER_ID, account, 10**10, 10**6, 10**9, 998, 10**11, NOW_S)
        .sign(HOLDER)
        .encode()
        .hex(),
        "device certificate": DeviceCert(NETWORK, account, KEYS.peer_id, 7, NOW_S)
        .sign(KEYS.account)
        .encode()
        .hex(),
        "placement hint": hint.encode().hex(),
        "placement hint's key": hint.key().hex(),
    }


def file_lists() -> dict[str, str]:
    """One root and one part of a list of files, and the pointer that carries the root."""
    keys = ListKeys.derive(KEYS.account.seed)
    rows = (ListRow(FILE_HASH, 3, 0, b"a row"), ListRow(FileHash(bytes(32)), 2, NOW_S, None))
    root = ListRoot((ListPart(FILE_HASH, FILE_KEY, 2),), rows[:1])
    pointer = ListPointer(
        NETWORK, keys.owner_key, 9, NOW_S + 86_400, keys.seal(root, sequence=9, salt=SALT)
    ).sign(keys.owner)
    return {
        "owner salt": keys.owner_salt.hex(),
        "part of two rows": encode_part(rows).hex(),
        "root": root.encode().hex(),
        "pointer": pointer.encode().hex(),
        "pointer's key": pointer.key().hex(),
    }


def vectors() -> Vectors:
    """All of them, as the code makes them now."""
    return {
        "derive": derivations(),
        "hashing": hashes(),
        "identity": identities(),
        "sealing": sealing(),
        "links": links(),
        "keystore": keystores(),
        "records": records(),
        "list": file_lists(),
    }


def frozen() -> Vectors:
    """All of them, as they were frozen."""
    loaded: Vectors = json.loads(FROZEN_PATH.read_text())
    return loaded


if __name__ == "__main__":
    print(json.dumps(vectors(), indent=1, ensure_ascii=False))
