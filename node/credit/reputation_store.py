"""Reputations that survive a restart. Layer 3, over the KeyValue port.

Invariants: observations change memory at once and the disk at the next `save`; a row that does not parse is
forgotten; beyond `REPUTATIONS_MAX` donors the good ones with the fewest samples are forgotten first, so that
strangers can't wash out what is known of a bad one. Source: credit.md, "Audits".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from node import limits
from node.credit.reputation import ONE, SAMPLES_TO_JUDGE, Reputation, Standing
from node.errors import ProtocolError
from node.ports import KeyValue, WriteTransaction
from node.units import PeerId

TABLE: Final = "reputations"
_FRESH: Final = Reputation()


class ReputationStore:
    """The table, in memory. Owned by the event loop; `save` is one short commit."""

    def __init__(self, key_values: KeyValue) -> None:
        """Load what was saved."""
        self._key_values = key_values
        self._known: dict[PeerId, Reputation] = {}
        self._changed: set[PeerId] = set()
        with key_values.view() as view:
            for key, row in view.scan(TABLE):
                try:
                    self._known[PeerId(key)] = Reputation.decode(row)
                except ProtocolError:
                    self._changed.add(PeerId(key))  # dropped with the next save

    def __iter__(self) -> Iterator[tuple[PeerId, Reputation]]:
        return iter(sorted(self._known.items()))

    def of(self, peer_id: PeerId) -> Reputation:
        """A donor's reputation; that of a new one for a stranger."""
        return self._known.get(peer_id, _FRESH)

    # --- what placement and get ask -----------------------------------------------------------------------

    def takes_new_shards(self, peer_id: PeerId) -> bool:
        """Whether anything new is placed there."""
        return self.of(peer_id).takes_new_shards

    def weight(self, peer_id: PeerId) -> int:
        """For placement, in millionths of a donor without fault."""
        reputation = self.of(peer_id)
        return 0 if reputation.standing is Standing.DISQUALIFIED else min(ONE, reputation.weight)

    def is_vetted(self, peer_id: PeerId) -> bool:
        """Whether as many samples were seen as a judgement takes, and they speak for it."""
        reputation = self.of(peer_id)
        return reputation.samples >= SAMPLES_TO_JUDGE and reputation.standing is not Standing.DISQUALIFIED

    def is_contradicted(self, peer_id: PeerId) -> bool:
        """Whether it signed an answer that contradicts a root."""
        return self.of(peer_id).contradicted

    # --- what auditing tells ------------------------------------------------------------------------------

    def passed(self, peer_id: PeerId, sample_count: int, *, late: bool = False) -> None:
        """Samples of one audit were right."""
        self._set(peer_id, self.of(peer_id).passed(sample_count, late=late))

    def failed(self, peer_id: PeerId, sample_count: int, *, contradicts: bool = False) -> None:
        """Samples were missing, or signed and false."""
        self._set(peer_id, self.of(peer_id).failed(sample_count, contradicts=contradicts))

    def erred(self, peer_id: PeerId) -> None:
        """An audit ended in an error that says nothing of the bytes."""
        self._set(peer_id, self.of(peer_id).erred())

    def left_unanswered(self, peer_id: PeerId, challenge: bytes) -> bool:
        """Connected, no answer in time; whether that was once too often, which is a failure."""
        before = self.of(peer_id)
        after = before.left_unanswered(challenge)
        self._set(peer_id, after)
        return after.samples > before.samples

    def unreachable(self, peer_id: PeerId) -> None:
        """It can't be dialled: suspended until it can."""
        if not self.of(peer_id).offline:
            self._set(peer_id, self.of(peer_id).unreachable())

    def reachable(self, peer_id: PeerId) -> None:
        """It is there again; nothing to note for one that was not away."""
        if self.of(peer_id).offline:
            self._set(peer_id, self.of(peer_id).reachable())

    # --- the disk -----------------------------------------------------------------------------------------

    def save(self) -> int:
        """Save what changed, durably; how many donors. Raises `StoreError`; the next save tries again."""
        self._forget_surplus()
        if not self._changed:
            return 0
        changed = sorted(self._changed)
        rows = [(peer_id, self._known.get(peer_id)) for peer_id in changed]

        def change(transaction: WriteTransaction) -> None:
            for peer_id, reputation in rows:
                if reputation is None:
                    transaction.delete(TABLE, peer_id)
                else:
                    transaction.put(TABLE, peer_id, reputation.encode())

        self._key_values.update(change)
        self._changed.clear()
        return len(changed)

    def _set(self, peer_id: PeerId, reputation: Reputation) -> None:
        self._known[peer_id] = reputation
        self._changed.add(peer_id)

    def _forget_surplus(self) -> None:
        surplus = len(self._known) - limits.REPUTATIONS_MAX
        if surplus <= 0:
            return
        ranked = sorted(
            self._known.items(),
            key=lambda item: (item[1].standing is not Standing.GOOD, item[1].samples, item[0]),
        )
        for peer_id, _ in ranked[: max(surplus, limits.REPUTATIONS_MAX // 10)]:
            del self._known[peer_id]
            self._changed.add(peer_id)
