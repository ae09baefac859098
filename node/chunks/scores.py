"""What this node has seen of each peer: latency, speed, failures. Layer 2, pure.

Invariants: scores come from own observations only; time is an argument; the number of peers kept is
bounded; blame fades by half every `FORGIVE_S`; a peer never seen ranks between the good and the bad.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from node import limits, wire
from node.chunks.reputations import FULL_WEIGHT, NoReputations, Reputations
from node.errors import ProtocolError
from node.units import HOUR_S, PeerId

UNKNOWN_LATENCY_S = 0.2
"""What a stranger is taken for: a round trip across an ocean."""
UNKNOWN_SPEED_BYTES_S = 2_000_000.0
"""What a stranger is taken for: a home line's upload."""
WEIGHT = 0.25
"""Weight of the newest observation in a running mean."""
FORGIVE_S = HOUR_S
"""Half-life of blame."""
FAILURE_COST_S = 0.5
"""What one fresh failure adds to the time that a peer is expected to take."""
MISBEHAVIOUR_FAILURES = 8.0
"""A wrong block counts as so many failures."""
BLAME_MAX = 64.0
"""More blame than this changes no order."""

_MICROS = 1_000_000


@dataclass(frozen=True, slots=True)
class PeerScore:
    """Running means of one peer. `blame` counts failures, as of `seen_s`; it halves every `FORGIVE_S`.

    `answered_s` is when it last did what it was asked for, 0 for never.
    """

    latency_s: float = UNKNOWN_LATENCY_S
    speed_bytes_s: float = UNKNOWN_SPEED_BYTES_S
    blame: float = 0.0
    seen_s: int = 0
    answered_s: int = 0

    def blame_at(self, now_s: int) -> float:
        """The blame that is left."""
        halvings = max(0, now_s - self.seen_s) / FORGIVE_S
        return self.blame * math.pow(0.5, halvings)

    def encode(self) -> bytes:
        """The canonical encoding, in whole micro-units."""
        return wire.encode([
            int(self.latency_s * _MICROS), int(self.speed_bytes_s), int(self.blame * _MICROS), self.seen_s,
            self.answered_s,
        ])  # fmt: skip

    @classmethod
    def decode(cls, data: bytes) -> PeerScore:
        """The score in a row of a table. Raises `ProtocolError`."""
        values = wire.expect_list(wire.decode(data, size_max=64), count=5)
        latency, speed, blame, seen_s, answered_s = (
            wire.expect_int(value, low=0, high=2**53) for value in values
        )
        if not speed:
            raise ProtocolError("a speed of zero")
        return cls(latency / _MICROS, float(speed), blame / _MICROS, seen_s, answered_s)


class Scoreboard:
    """Own observations of peers. Not thread-safe; one event loop uses it."""

    def __init__(self, rows: Iterable[tuple[PeerId, PeerScore]] = ()) -> None:
        """Start from what was remembered."""
        self.reputations: Reputations = NoReputations()
        """What audits say of donors; the composition sets it."""
        self._scores: dict[PeerId, PeerScore] = {}
        self._changed: set[PeerId] = set()
        for peer_id, score in rows:
            self._scores[peer_id] = score
        self._forget_oldest()

    def score(self, peer_id: PeerId) -> PeerScore | None:
        """What is known of a peer; None for a stranger."""
        return self._scores.get(peer_id)

    def __iter__(self) -> Iterator[tuple[PeerId, PeerScore]]:
        return iter(list(self._scores.items()))

    def answered(self, peer_id: PeerId, *, latency_s: float, now_s: int) -> None:
        """The peer answered a small request after `latency_s`."""
        old = self._scores.get(peer_id)
        latency = latency_s if old is None else old.latency_s + WEIGHT * (latency_s - old.latency_s)
        self._set(peer_id, now_s, latency_s=latency, praise=True)

    def delivered(self, peer_id: PeerId, *, byte_count: int, seconds: float, now_s: int) -> None:
        """The peer sent or took `byte_count` block bytes in `seconds`."""
        if byte_count <= 0:
            return
        speed = byte_count / max(seconds, 1e-4)
        old = self._scores.get(peer_id)
        if old is not None:
            speed = old.speed_bytes_s + WEIGHT * (speed - old.speed_bytes_s)
        self._set(peer_id, now_s, speed_bytes_s=max(1.0, speed), praise=True)

    def failed(self, peer_id: PeerId, *, now_s: int) -> None:
        """The peer was unreachable, fell silent or was replaced as too slow."""
        self._set(peer_id, now_s, blame=1.0)

    def misbehaved(self, peer_id: PeerId, *, now_s: int) -> None:
        """The peer sent what no honest peer sends: a wrong block, a broken message."""
        self._set(peer_id, now_s, blame=MISBEHAVIOUR_FAILURES)

    def expected_s(self, peer_id: PeerId, *, byte_count: int, now_s: int) -> float:
        """Expected seconds until `byte_count` bytes came from the peer, failures weighed in: for ranking.

        One that fails audits or answers them late is expected to take as many times longer.
        """
        score = self._scores.get(peer_id, PeerScore())
        plain_s = score.latency_s + byte_count / score.speed_bytes_s + FAILURE_COST_S * score.blame_at(now_s)
        return plain_s * FULL_WEIGHT / max(self.reputations.weight(peer_id), FULL_WEIGHT // 20)

    def take_changed(self) -> list[tuple[PeerId, PeerScore | None]]:
        """Scores changed since the last call, to be remembered; None where a peer was forgotten."""
        changed = [(peer_id, self._scores.get(peer_id)) for peer_id in sorted(self._changed)]
        self._changed.clear()
        return changed

    def _set(
        self,
        peer_id: PeerId,
        now_s: int,
        *,
        latency_s: float | None = None,
        speed_bytes_s: float | None = None,
        blame: float = 0.0,
        praise: bool = False,
    ) -> None:
        old = self._scores.get(peer_id, PeerScore())
        left = old.blame_at(now_s) * (0.5 if praise else 1.0)
        self._scores[peer_id] = replace(
            old,
            latency_s=old.latency_s if latency_s is None else latency_s,
            speed_bytes_s=old.speed_bytes_s if speed_bytes_s is None else speed_bytes_s,
            blame=min(BLAME_MAX, left + blame),
            seen_s=now_s,
            answered_s=now_s if praise else old.answered_s,
        )
        self._changed.add(peer_id)
        self._forget_oldest()

    def _forget_oldest(self) -> None:
        if len(self._scores) <= limits.SCORES_MAX:
            return
        by_age = sorted(self._scores, key=lambda peer_id: self._scores[peer_id].seen_s)
        # A tenth at once, so that a long list is not sorted for every newcomer.
        for peer_id in by_age[: len(self._scores) - limits.SCORES_MAX * 9 // 10]:
            del self._scores[peer_id]
            self._changed.add(peer_id)
