"""What holds for every signed record: one type, version, network and length; bounded before it is read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node import wire
from node.errors import CryptoError, ProtocolError
from node.records.base import Record
from node.records.lease import Lease, Release
from node.records.offer import DeviceCert, Offer
from node.records.pair_state import Equivocation
from node.records.placement_hint import PlacementHint
from tests.records import credit_samples, test_records

NETWORK = credit_samples.NETWORK
SIGNED: list[Record] = [*test_records.SIGNED, *credit_samples.SIGNED]
TYPES: list[type[Record]] = [*credit_samples.TYPES, Lease, Release, Offer, DeviceCert, PlacementHint]
every_record = pytest.mark.parametrize("record", SIGNED, ids=lambda record: record.TYPE)


@every_record
def test_a_signed_record_verifies_also_after_a_journey(record: Record) -> None:
    record.verify()
    type(record).decode(record.encode(), network=NETWORK).verify()


@every_record
def test_another_network_refuses_it(record: Record) -> None:
    with pytest.raises(ProtocolError, match="another network"):
        type(record).decode(record.encode(), network="cairn-main")
    moved = replace(record, network="cairn-main")  # type: ignore[type-var]
    # An equivocation holds two records of its own network.
    with pytest.raises(ProtocolError if isinstance(record, Equivocation) else CryptoError):
        moved.verify()


@every_record
def test_no_other_type_takes_it(record: Record) -> None:
    for record_type in TYPES:
        if record_type is not type(record):
            with pytest.raises(ProtocolError):
                record_type.decode(record.encode(), network=NETWORK)


@every_record
def test_another_version_is_refused(record: Record) -> None:
    body, *signed = wire.decode(record.encode(), size_max=10**4)
    items = wire.decode(wire.expect_bytes(body), size_max=10**4)
    later = wire.encode([wire.encode([items[0], 2, *items[2:]]), *signed])
    with pytest.raises(ProtocolError, match="another version"):
        type(record).decode(later, network=NETWORK)


@every_record
def test_too_many_or_too_few_fields_are_refused(record: Record) -> None:
    body, *signed = wire.decode(record.encode(), size_max=10**4)
    items = wire.decode(wire.expect_bytes(body), size_max=10**4)
    for changed in (items[:-1], [*items, 0], items[:2], []):
        with pytest.raises(ProtocolError):
            type(record).decode(wire.encode([wire.encode(changed), *signed]), network=NETWORK)


@every_record
def test_too_many_too_few_or_malformed_signatures_are_refused(record: Record) -> None:
    body, *signed = wire.decode(record.encode(), size_max=10**4)
    wrong: list[list[wire.Value]] = [[], [body, *signed, b""]]
    if signed:
        wrong += [[body, *signed[:-1]], [body, *signed[:-1], b"short"], [body, *signed[:-1], 1]]
    for outer in wrong:
        with pytest.raises(ProtocolError):
            type(record).decode(wire.encode(outer), network=NETWORK)


@every_record
def test_the_size_cap_comes_first(record: Record) -> None:
    with pytest.raises(ProtocolError, match="at most"):
        type(record).decode(bytes(type(record).BYTES_MAX + 1), network=NETWORK)
