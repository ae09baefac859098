"""What healing must not forget over a restart. Layer 3, over the KeyValue port.

Who is silent or absent since when, which segments contradict themselves, what repair has moved today.
Invariant: each change is one commit; what is not of today, or older than `SILENCE_KEPT_S`, is forgotten when
it is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from node import wire
from node.errors import ProtocolError
from node.ports import KeyValue, WriteTransaction
from node.units import DAY_S, LeaseId, PeerId, SegmentId

TABLE: Final = "healing"
"""`b` -> [day, bytes moved by repair]; `i` segment id -> empty; `s` lease id, `a` peer id -> since when,
seconds (6)."""
_BUDGET: Final = b"b"
_INCONSISTENT: Final = b"i"
_SILENT: Final = b"s"
_ABSENT: Final = b"a"
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
        times = self._times(_SILENT, now_s=now_s, away_s=away_s)
        return {LeaseId(name): since_s for name, since_s in times.items()}

    def note_silences(self, since_s: Mapping[LeaseId, int], over: Iterable[LeaseId]) -> None:
        """Remember these, and forget those, durably."""
        self._note_times(_SILENT, since_s, over)

    def absences(self, *, now_s: int, away_s: int) -> dict[PeerId, int]:
        """The same for peers that this node itself could not reach."""
        times = self._times(_ABSENT, now_s=now_s, away_s=away_s)
        return {PeerId(name): since_s for name, since_s in times.items()}

    def note_absences(self, since_s: Mapping[PeerId, int], over: Iterable[PeerId]) -> None:
        """Remember these, and forget those, durably."""
        self._note_times(_ABSENT, since_s, over)

    def _times(self, kind: bytes, *, now_s: int, away_s: int) -> dict[bytes, int]:
        def read(transaction: WriteTransaction) -> dict[bytes, int]:
            found = {}
            for key, row in list(transaction.scan(TABLE, prefix=kind)):
                since_s = int.from_bytes(row, "big") + away_s
                if not now_s - SILENCE_KEPT_S < since_s <= now_s:
                    transaction.delete(TABLE, key)
                    continue
                found[key[1:]] = since_s
                if away_s:
                    transaction.put(TABLE, key, since_s.to_bytes(_TIME_BYTES, "big"))
            return found

        return self._state.update(read)

    def _note_times(self, kind: bytes, since_s: Mapping[Any, int], over: Iterable[bytes]) -> None:
        def change(transaction: WriteTransaction) -> None:
            for name in over:
                transaction.delete(TABLE, kind + name)
            for name, time_s in since_s.items():
                transaction.put(TABLE, kind + name, time_s.to_bytes(_TIME_BYTES, "big"))

        self._state.update(change)
