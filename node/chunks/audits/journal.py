"""What audits of this node showed, for its own donor to read. Layer 3, over the KeyValue port.

One row that survives a restart: counts, and the last thing that went wrong. A row that does not parse counts
as missing. Source: credit.md, "Audits".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from node import limits, wire
from node.errors import ProtocolError
from node.ports import KeyValue
from node.records.receipt import AuditReceipt, Outcome

TABLE: Final = "audits"
_KEY: Final = b"journal"
_COUNT_MAX: Final = 2**53


@dataclass(frozen=True, slots=True)
class OwnAudits:
    """Audits of this node, by outcome; times are seconds since 1970, 0 for never."""

    passed: int = 0
    slow: int = 0
    failed: int = 0
    missed: int = 0
    """Nobody answered: this node was away, or cut off."""
    errors: int = 0
    """This node could not read its disk."""
    passed_s: int = 0
    """When an audit last passed."""
    trouble_s: int = 0
    trouble: str = ""
    """What went wrong last, for a person."""

    @property
    def is_suspended(self) -> bool:
        """Whether auditors wait for this node: the last news is bad, and no audit passed since."""
        return self.trouble_s > self.passed_s


_TROUBLE: Final = {
    Outcome.FAILED: "an audit failed: shards are damaged or gone; see `cairn donate` and the log",
    Outcome.NO_ANSWER: "an auditor got no answer: this node was off or could not be reached",
    Outcome.UNKNOWN: "an audit ended in an error that says nothing of the shards",
}


class AuditJournal:
    """The row. Synchronous and short; services call it through `Offload`."""

    def __init__(self, key_values: KeyValue) -> None:
        self._key_values = key_values
        self._audits = self._load()

    def audits(self) -> OwnAudits:
        """As of now."""
        return self._audits

    def note(self, receipt: AuditReceipt) -> None:
        """A receipt about this node came in."""

        def change(old: OwnAudits) -> OwnAudits:
            outcome = receipt.outcome
            if outcome in (Outcome.PASSED, Outcome.SLOW):
                late = int(outcome is Outcome.SLOW)
                return replace(
                    old,
                    passed=old.passed + 1 - late,
                    slow=old.slow + late,
                    passed_s=max(old.passed_s, receipt.time_s),
                )
            return replace(
                old,
                failed=old.failed + (outcome is Outcome.FAILED),
                missed=old.missed + (outcome is Outcome.NO_ANSWER),
                errors=old.errors + (outcome is Outcome.UNKNOWN),
                trouble_s=max(old.trouble_s, receipt.time_s),
                trouble=_TROUBLE[outcome] if receipt.time_s >= old.trouble_s else old.trouble,
            )

        self._change(change)

    def note_disk(self, now_s: int, error: str) -> None:
        """This node could not read what an audit asked for."""
        text = f"the disk could not be read: {error}"[:200]
        self._change(lambda old: replace(old, errors=old.errors + 1, trouble_s=now_s, trouble=text))

    def _change(self, change: Callable[[OwnAudits], OwnAudits]) -> None:
        new = change(self._audits)
        row = wire.encode([
            new.passed, new.slow, new.failed, new.missed, new.errors, new.passed_s, new.trouble_s,
            new.trouble,
        ])  # fmt: skip
        self._key_values.update(lambda transaction: transaction.put(TABLE, _KEY, row))
        self._audits = new

    def _load(self) -> OwnAudits:
        with self._key_values.view() as view:
            row = view.get(TABLE, _KEY)
        try:
            if row is None:
                return OwnAudits()
            items = wire.expect_list(wire.decode(row, size_max=1_024), count=8)
            counts = [wire.expect_int(item, low=0, high=_COUNT_MAX) for item in items[:5]]
            times = [wire.expect_int(item, low=0, high=limits.RECORD_TIME_S_MAX) for item in items[5:7]]
            passed, slow, failed, missed, errors = counts
            text = wire.expect_str(items[7], bytes_max=800)
            return OwnAudits(passed, slow, failed, missed, errors, times[0], times[1], text)
        except ProtocolError:
            return OwnAudits()
