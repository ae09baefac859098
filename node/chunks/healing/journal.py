"""What healing must not forget over a restart. Layer 3, over the KeyValue port.

Who is silent since when, which segments contradict themselves, what repair has moved today. Invariant: each
change is one commit; what is not of today, or older than `SILENCE_KEPT_S`, is forgotten when it is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from node import wire
from node.errors import ProtocolError
from node.ports import KeyValue, WriteTransaction
from node.units import DAY_S, LeaseId, SegmentId

TABLE: Final = "healing"
"""`b` -> [day, bytes moved by repair]; `i` segment id -> empty; `s` lease id -> since when, seconds (6)."""
_BUDGET: Final = b"b"
_INCONSISTENT: Final = b"i"
_SILENT: Final = b"s"
_TIME_BYTES: Final = 6
_ROW_BYTES_MAX: Final = 32
SILENCE_KEPT_S: Final = 120 * DAY_S


class HealingJournal:
    """Typed access to the table. Blocks on the disk."""

    def __init__(self, state: KeyValue) -> None:
        self._state = state

    # --- traffic ------------------------------------------------------------------------------------------

    def moved(self) -> tuple[int, int]:
        """(day, bytes that repair has moved on it)."""
        with self._state.view() as view:
            row = view.get(TABLE, _BUDGET)
        try:
            values = [] if row is None else wire.expect_list(wire.decode(row, size_max=_ROW_BYTES_MAX))
        except ProtocolError:
            values = []
        match values:
            case [int(day), int(byte_count)]:
                return day, byte_count
        return -1, 0

    def set_moved(self, day: int, byte_count: int) -> None:
        """Remember it, durably."""
        row = wire.encode([day, byte_count])
        self._state.update(lambda transaction: transaction.put(TABLE, _BUDGET, row))

    # --- segments that contradict themselves --------------------------------------------------------------

    def inconsistent(self) -> set[bytes]:
        """Segments that nobody repairs."""
        with self._state.view() as view:
            return {key[1:] for key, _ in view.scan(TABLE, prefix=_INCONSISTENT)}

    def add_inconsistent(self, segment_id: SegmentId) -> None:
        """Remember one more, durably."""
        self._state.update(lambda transaction: transaction.put(TABLE, _INCONSISTENT + segment_id, b""))

    # --- silence ------------------------------------------------------------------------------------------

    def silences(self, *, now_s: int, away_s: int) -> dict[LeaseId, int]:
        """Since when the holders of leases are silent. The `away_s` seconds of this node's own absence do not
        count, and are taken off durably, so that each absence counts once."""

        def read(transaction: WriteTransaction) -> dict[LeaseId, int]:
            found = {}
            for key, row in list(transaction.scan(TABLE, prefix=_SILENT)):
                since_s = int.from_bytes(row, "big") + away_s
                if not now_s - SILENCE_KEPT_S < since_s <= now_s:
                    transaction.delete(TABLE, key)
                    continue
                found[LeaseId(key[1:])] = since_s
                if away_s:
                    transaction.put(TABLE, key, since_s.to_bytes(_TIME_BYTES, "big"))
            return found

        return self._state.update(read)

    def note_silences(self, since_s: Mapping[LeaseId, int], over: Iterable[LeaseId]) -> None:
        """Remember these, and forget those, durably."""

        def change(transaction: WriteTransaction) -> None:
            for lease_id in over:
                transaction.delete(TABLE, _SILENT + lease_id)
            for lease_id, time_s in since_s.items():
                transaction.put(TABLE, _SILENT + lease_id, time_s.to_bytes(_TIME_BYTES, "big"))

        self._state.update(change)
