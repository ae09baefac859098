"""The formats of keys, links and records stand still: the code makes and reads the frozen bytes."""

from __future__ import annotations

import pytest

from node.chunks.file_list import ListKeys, ListRoot, PartReader
from node.crypto.blake3_tree import chunk_proof, verify_chunk
from node.crypto.hashing import parse_cid
from node.crypto.identity import parse_account, parse_peer_id
from node.crypto.keystore import decode_keys
from node.crypto.links import parse_link
from node.crypto.recovery import account_of, entropy_of
from node.crypto.sealing import FileKeys, Suite
from node.records.base import Record
from node.records.lease import Lease, Release
from node.records.list_pointer import validate_pointer
from node.records.offer import DeviceCert, Offer
from node.records.placement_hint import PlacementHint, validate_hint
from tests.vectors import crypto_and_records as cases

FROZEN = cases.frozen()


@pytest.mark.parametrize("part", FROZEN)
def test_the_code_makes_the_frozen_bytes(part: str) -> None:
    assert cases.vectors()[part] == FROZEN[part]


def test_every_part_is_frozen() -> None:
    assert list(cases.vectors()) == list(FROZEN)


def test_frozen_hashes_read_back() -> None:
    part = FROZEN["hashing"]
    assert parse_cid(part["cid"]).hex() == part["hash"]
    block = bytes(index % 251 for index in range(65_472))
    root = bytes.fromhex(part["block: byte i is i mod 251, 65,472 bytes; hash"])
    chunk, _ = chunk_proof(block, 41)
    verify_chunk(root, len(block), 41, chunk, bytes.fromhex(part["block: path of chunk 41"]))


def test_frozen_identities_read_back() -> None:
    part = FROZEN["identity"]
    assert parse_peer_id(part["peer id as text"]).hex() == part["peer id"]
    assert parse_account(part["account as text"]).hex() == part["account"]
    assert account_of(entropy_of(part["recovery phrase"])).public.hex() == part["account"]


def test_frozen_stripes_and_headers_open() -> None:
    part = FROZEN["sealing"]
    keys = FileKeys.derive(bytes.fromhex(part["file key"]))
    segment = keys.segment_key(Suite(1), data_shards=10, block_bytes=65_472, segment_index=7)
    assert keys.header_key.open(bytes.fromhex(part["sealed header 'header'"])) == b"header"
    sealed = bytes.fromhex(part["stripe 3 'stripe', the file's last"])
    assert segment.open(3, last=True, ciphertext=sealed) == b"stripe"


def test_frozen_links_read_back() -> None:
    part = FROZEN["links"]
    assert parse_link(part["read"]).file_key() == cases.FILE_KEY
    assert parse_link(part["with an address"]).via == (cases.ADDRESS,)
    assert parse_link(part["with the password"]).file_key(part["password"]) == cases.FILE_KEY
    assert str(parse_link(part["read"]).verify_link()) == part["verify"]


@pytest.mark.parametrize(
    ("name", "passphrase"), [("open", None), ("sealed with the password", cases.PASSWORD)]
)
def test_frozen_keystores_open(name: str, passphrase: str | None) -> None:
    assert decode_keys(bytes.fromhex(FROZEN["keystore"][name]), passphrase) == cases.KEYS


@pytest.mark.parametrize(
    ("name", "record_type"),
    [
        ("lease", Lease),
        ("release", Release),
        ("offer", Offer),
        ("device certificate", DeviceCert),
        ("placement hint", PlacementHint),
    ],
)
def test_frozen_records_verify(name: str, record_type: type[Record]) -> None:
    record_type.decode(bytes.fromhex(FROZEN["records"][name]), network=cases.NETWORK).verify()


def test_the_frozen_list_opens() -> None:
    part = FROZEN["list"]
    key, value = bytes.fromhex(part["pointer's key"]), bytes.fromhex(part["pointer"])
    pointer = validate_pointer(key, value, now_s=cases.NOW_S, network=cases.NETWORK)
    root = ListKeys.derive(cases.KEYS.account.seed).open(pointer.sealed, sequence=9)
    assert root == ListRoot.decode(bytes.fromhex(part["root"]))
    rows = list(PartReader().feed(bytes.fromhex(part["part of two rows"])))
    assert [row.version for row in rows] == [3, 2]
    assert rows[:1] == list(root.rows)


def test_the_frozen_hint_passes_the_dht() -> None:
    part = FROZEN["records"]
    key, value = bytes.fromhex(part["placement hint's key"]), bytes.fromhex(part["placement hint"])
    assert validate_hint(key, value, now_s=cases.NOW_S, network=cases.NETWORK).sequence == 3
