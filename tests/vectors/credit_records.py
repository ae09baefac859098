"""What the code makes today of fixed records about credit, under the names of `credit_records.json`.

The JSON is frozen: nothing but a deliberate change of format may change it, and then
`python -m tests.vectors.credit_records` prints the new one. Bytes are hex.
"""

from __future__ import annotations

import json
from pathlib import Path

from node.credit.fold import Fold, FoldedSide
from node.records.base import Record
from node.units import AccountId
from tests.records.credit_samples import GRANT, GRANTED, HANDOVER, HEIR, NETWORK, SIGNED

UNDER_GRANT = {
    "lease under a grant": GRANTED.under_grant(GRANT).countersign(HEIR),
    "lease under a grant and a handover": GRANTED.under_grant(GRANT, HANDOVER).countersign(HEIR),
}
SIDE = FoldedSide(
    kept=70, served=40, gifts=10, cleared=25, days=((20_003, 60), (20_040, 40)),
    evidence=((666, 70), (667, 40)), vouched=((667, 5),), agreed=((666, 80),),
)  # fmt: skip
FOLD = Fold(
    NETWORK, AccountId(b"a" * 32), AccountId(b"b" * 32), 668, b"p" * 32, b"s" * 32, SIDE, FoldedSide(),
    (b"c" * 32, b"d" * 32),
)  # fmt: skip
FROZEN_PATH = Path(__file__).with_suffix(".json")


def vectors() -> dict[str, dict[str, str]]:
    """Every record as encoded, and its id."""
    named: dict[str, Record] = {record.TYPE: record for record in SIGNED}
    made = {
        name: {"record": record.encode().hex(), "id": record.record_id().hex()}
        for name, record in (named | UNDER_GRANT).items()
    }
    return made | {"fold": {"record": FOLD.encode().hex(), "id": FOLD.fold_id().hex()}}


def frozen() -> dict[str, dict[str, str]]:
    """The same, as they were frozen."""
    loaded: dict[str, dict[str, str]] = json.loads(FROZEN_PATH.read_text())
    return loaded


if __name__ == "__main__":
    print(json.dumps(vectors(), indent=1))
