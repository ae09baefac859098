"""The pack files: the frozen format, the walk past damage, appends across packs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from node.chunks.store.shard_log import (
    HEADER_BYTES,
    PACK_FOLDER,
    Location,
    RecordKind,
    ShardLog,
    new_record,
    pack_header,
    pack_path,
    pack_record,
    record_bytes,
    salt_of_header,
    unpack_header,
)
from node.errors import CorruptBlockError, StoreError
from simulations.disk import FakeDisk
from tests.vectors.pack_records import SALT, make_vectors

VECTORS = Path(__file__).parents[2] / "vectors" / "pack_records.json"


def opened(disk: FakeDisk, pack_bytes: int = 1 << 20) -> ShardLog:
    return ShardLog(disk, salt=SALT, salt_is_known=False, pack_bytes=pack_bytes)


def kinds(log: ShardLog, pack_id: int = 1, verify_from: int = 0) -> list[tuple[int, int]]:
    return [
        (record.sequence, location.offset) for location, record in log.walk(pack_id, verify_from=verify_from)
    ]


def test_the_bytes_of_every_record_are_frozen() -> None:
    assert make_vectors() == json.loads(VECTORS.read_text())


def test_a_full_block_with_its_header_is_64_kib() -> None:
    assert record_bytes(65_472) == 65_536
    assert record_bytes(0) == HEADER_BYTES
    assert record_bytes(1) == record_bytes(64) == 128


@pytest.mark.parametrize("at", range(0, HEADER_BYTES, 5))
def test_a_header_with_any_bit_changed_is_none(at: int) -> None:
    header = bytearray(b"".join(pack_record(new_record(RecordKind.BLOCK, 7, b"x" * 64), SALT))[:HEADER_BYTES])
    assert unpack_header(bytes(header), SALT) is not None
    assert unpack_header(bytes(header), bytes(32)) is None
    header[at] ^= 4
    assert unpack_header(bytes(header), SALT) is None


def test_appends_go_on_in_a_new_pack_and_read_back() -> None:
    log = opened(FakeDisk())
    records = [new_record(RecordKind.BLOCK, number, bytes([number]) * 65_472) for number in range(40)]
    places = log.append(records)
    assert sorted({place.pack_id for place in places}) == [1, 2, 3]
    assert all(size <= 1 << 20 for size in log.sizes().values())
    for record, place in zip(records, places, strict=True):
        assert log.read(place).payload == record.payload
    with pytest.raises(StoreError, match="does not fit"):
        log.append([new_record(RecordKind.OBJECT, 1, bytes(1 << 20))])


def test_a_pack_is_durable_before_its_successor_exists() -> None:
    disk = FakeDisk()
    log = opened(disk)
    places = log.append([new_record(RecordKind.BLOCK, number, bytes(65_472)) for number in range(20)])
    disk.crash(0)
    again = opened(disk)
    assert [offset for _, offset in kinds(again)] == [place.offset for place in places if place.pack_id == 1]


def test_the_walk_passes_damage_and_bytes_that_look_like_records() -> None:
    disk = FakeDisk()
    log = opened(disk)
    forged = b"".join(pack_record(new_record(RecordKind.END, 99, b"forged"), bytes(32)))
    places = log.append([new_record(RecordKind.BLOCK, number, forged * 100) for number in range(3)])
    disk.flip_bit(pack_path(1), places[1].offset + 9)
    assert kinds(log) == [(0, places[0].offset), (2, places[2].offset)]
    disk.flip_bit(pack_path(1), places[0].offset + 500)
    assert kinds(log) == [(2, places[2].offset)]
    assert kinds(log, verify_from=2**62) == [(0, places[0].offset), (2, places[2].offset)]
    with pytest.raises(CorruptBlockError):
        log.read(places[0])


def test_the_walk_ends_at_a_record_that_was_cut() -> None:
    disk = FakeDisk()
    log = opened(disk)
    places = log.append([new_record(RecordKind.COMMIT, number, bytes(1000)) for number in range(2)])
    file = disk.open(pack_path(1))
    file.truncate(places[1].end - 1)
    assert kinds(log) == [(0, places[0].offset)]


def test_the_salt_comes_from_any_pack_that_still_has_it() -> None:
    disk = FakeDisk()
    log = opened(disk)
    log.append([new_record(RecordKind.BLOCK, number, bytes(65_472)) for number in range(20)])
    disk.flip_bit(pack_path(1), 20)
    assert ShardLog(disk, salt=bytes(32), salt_is_known=False, pack_bytes=1 << 20).salt == SALT
    disk.flip_bit(pack_path(2), 20)
    with pytest.raises(StoreError, match="readable header"):
        ShardLog(disk, salt=bytes(32), salt_is_known=False, pack_bytes=1 << 20)
    assert ShardLog(disk, salt=SALT, salt_is_known=True, pack_bytes=1 << 20).read(Location(1, 64, 65_472))


def test_a_pack_header_names_pack_and_salt() -> None:
    header = pack_header(3, SALT)
    assert len(header) == HEADER_BYTES
    assert salt_of_header(header) == SALT
    assert salt_of_header(header[:-1] + b"\0") is None
    assert pack_path(255) == PACK_FOLDER / "000000ff.pack"
