"""The formats of records about credit stand still: the code makes and reads the frozen bytes."""

from __future__ import annotations

import pytest

from node.credit.fold import Fold
from node.records.base import Record
from node.records.lease import Lease
from tests.records.credit_samples import NETWORK, SIGNED
from tests.vectors import credit_records as cases

FROZEN = cases.frozen()


def test_every_record_is_frozen() -> None:
    assert list(FROZEN) == [*(record.TYPE for record in SIGNED), *cases.UNDER_GRANT, "fold"]


def test_a_fold_is_frozen() -> None:
    part = FROZEN["fold"]
    assert cases.vectors()["fold"] == part
    assert Fold.decode(bytes.fromhex(part["record"]), network=NETWORK) == cases.FOLD


@pytest.mark.parametrize("name", cases.UNDER_GRANT)
def test_leases_under_a_grant_are_frozen(name: str) -> None:
    part = FROZEN[name]
    assert cases.vectors()[name] == part
    again = Lease.decode(bytes.fromhex(part["record"]), network=NETWORK)
    again.verify()
    assert again == cases.UNDER_GRANT[name]


@pytest.mark.parametrize("record", SIGNED, ids=lambda record: record.TYPE)
def test_the_code_makes_and_reads_the_frozen_bytes(record: Record) -> None:
    part = FROZEN[record.TYPE]
    assert cases.vectors()[record.TYPE] == part
    again = type(record).decode(bytes.fromhex(part["record"]), network=NETWORK)
    again.verify()
    assert again == record
