"""Remembers the scoreboard across restarts. Layer 3, over the KeyValue port.

Invariant: the table is a cache; a row that does not parse is dropped, never an error.
"""

from __future__ import annotations

from node.chunks.scores import PeerScore, Scoreboard
from node.errors import ProtocolError
from node.ports import KeyValue, WriteTransaction
from node.units import PeerId

TABLE = "scores"


def load_scores(key_values: KeyValue) -> Scoreboard:
    """The scoreboard as last saved."""
    rows: list[tuple[PeerId, PeerScore]] = []
    with key_values.view() as transaction:
        for key, value in transaction.scan(TABLE):
            try:
                rows.append((PeerId(key), PeerScore.decode(value)))
            except ProtocolError:
                continue
    return Scoreboard(rows)


def save_scores(scores: Scoreboard, key_values: KeyValue) -> int:
    """Save what changed since the last save; how many rows. Raises `StoreError`."""
    changed = scores.take_changed()
    if not changed:
        return 0

    def change(transaction: WriteTransaction) -> None:
        for peer_id, score in changed:
            if score is None:
                transaction.delete(TABLE, peer_id)
            else:
                transaction.put(TABLE, peer_id, score.encode())

    key_values.update(change)
    return len(changed)
