"""Who sends next when bandwidth is short: token buckets, shared fairly. Layer 2, pure.

Every stream has a flow in each direction, and a flow pays from one or more buckets (the node's upload and
what it gives to others, say). A turn is granted once every bucket of its flow is above zero, and may leave it
in debt by one piece. What passed without a turn (`Bucket.owe`) is paid before the next one. Invariants, for a
bucket of rate r:
- In any span of T seconds at most r * T + r * (BURST_S + PIECE_S) bytes are granted (at rates under 5 kB/s:
  `PIECE_BYTES_MIN` in place of the piece): 2 % over the rate in ten seconds.
- Of the flows that wait and may go, the one goes first that would be done first if all went at once (weighted
  fair queueing: Demers, Keshav and Shenker, SIGCOMM 1989, all weights equal): streams get equal shares, and a
  short message of a stream that was quiet passes in front of bulk, so that lookups and control never starve.
- A bucket without a rate costs nothing, and a flow that waits for one bucket never blocks flows that don't.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Final

from node.limits import STREAM_WRITE_BYTES_MAX

BURST_S: Final = 0.1
"""What a quiet bucket saves up, in seconds of its rate: 1 % of ten seconds."""
PIECE_S: Final = 0.05
"""The longest that one piece may keep the others waiting."""
PIECE_BYTES_MIN: Final = 256
DEBT_S: Final = 10.0
"""The longest that others wait for what came unasked."""
FRAMING_BYTES: Final = 30
"""What a piece costs beside itself: 12 bytes of Yamux, 18 of Noise."""
OPENING_BYTES: Final = 160
"""What a stream costs each way beside its bytes: its beginning, its end, the protocol's name."""


class Bucket:
    """One rate. Tokens are bytes; they may be negative: a debt."""

    def __init__(self, rate_bytes_s: int | None = None) -> None:
        self._rate_bytes_s = rate_bytes_s
        self._tokens = self.burst_bytes
        self._filled_s = 0.0

    @property
    def rate_bytes_s(self) -> int | None:
        """Bytes a second; None lets everything pass."""
        return self._rate_bytes_s

    @property
    def burst_bytes(self) -> float:
        """The most it holds."""
        return (self._rate_bytes_s or 0) * BURST_S

    @property
    def piece_bytes(self) -> int:
        """The most that is granted at once."""
        if self._rate_bytes_s is None:
            return STREAM_WRITE_BYTES_MAX
        return min(STREAM_WRITE_BYTES_MAX, max(PIECE_BYTES_MIN, int(self._rate_bytes_s * PIECE_S)))

    def set_rate(self, rate_bytes_s: int | None, *, now_s: float) -> None:
        """Change the rate from now on; what was saved up counts no more than the new burst."""
        self._fill(now_s)
        was_open = self._rate_bytes_s is None
        self._rate_bytes_s = rate_bytes_s
        self._tokens = self.burst_bytes if was_open else min(self._tokens, self.burst_bytes)

    def ready_in_s(self, now_s: float) -> float:
        """Seconds until something may pass; 0 if it may now."""
        self._fill(now_s)
        if self._rate_bytes_s is None or self._tokens > 0:
            return 0.0
        return (1 - self._tokens) / self._rate_bytes_s  # one byte more than needed: no rounding to zero

    def take(self, byte_count: int) -> None:
        """Pay; the caller has asked `ready_in_s`."""
        if self._rate_bytes_s is not None:
            self._tokens -= byte_count

    def owe(self, byte_count: int) -> None:
        """Bytes passed that nobody asked for: what comes next waits for them, but never longer than it takes
        until no span of ten seconds has them in it."""
        if self._rate_bytes_s is not None:
            debt_max = self._rate_bytes_s * DEBT_S
            self._tokens = min(self._tokens, max(self._tokens - byte_count, -debt_max))

    def _fill(self, now_s: float) -> None:
        if self._rate_bytes_s is not None:
            grown = self._tokens + (now_s - self._filled_s) * self._rate_bytes_s
            self._tokens = min(grown, self.burst_bytes)
        self._filled_s = now_s


@dataclass(eq=False, slots=True)
class Flow:
    """One direction of one stream, and the buckets that it pays from."""

    buckets: tuple[Bucket, ...]
    finish: float = 0.0
    """When what it asked for last is done, in its line's virtual time."""
    epoch: int = 0

    @property
    def limits(self) -> tuple[Bucket, ...]:
        """The buckets that have a rate now."""
        return tuple(bucket for bucket in self.buckets if bucket.rate_bytes_s is not None)

    @property
    def is_free(self) -> bool:
        """Whether nothing limits it."""
        return not self.limits

    @property
    def piece_bytes(self) -> int:
        """The most that it is granted at once."""
        return min(bucket.piece_bytes for bucket in self.buckets)


@dataclass(order=True, slots=True)
class Turn:
    """A wish to pass `wanted_bytes`; `granted_bytes` of them may, once the turn has come."""

    finish: float
    number: int
    flow: Flow = field(compare=False)
    wanted_bytes: int = field(compare=False)
    granted_bytes: int = field(default=0, compare=False)
    is_dropped: bool = field(default=False, compare=False)


@dataclass(eq=False, slots=True)
class _Line:
    """Everybody who waits for the same buckets: who waits for one of them must not block who does not."""

    turns: list[Turn] = field(default_factory=list)
    waiting_count: int = 0
    virtual: float = 0.0
    """Bytes that each one in line would have had by now, had all gone at once."""

    def first(self) -> Turn | None:
        while self.turns and self.turns[0].is_dropped:
            heapq.heappop(self.turns)
        return self.turns[0] if self.turns else None


class FairQueue:
    """All turns of a node that wait. The owner tells the time and wakes whoever was granted."""

    def __init__(self) -> None:
        self._lines: dict[tuple[Bucket, ...], _Line] = {}
        self._virtual = 0.0  # of the line that was served last
        self._epoch = 0
        self._count = 0

    def push(self, flow: Flow, wanted_bytes: int) -> Turn:
        """Queue up."""
        self._count += 1
        turn = Turn(0.0, self._count, flow, wanted_bytes)
        self._enter(turn)
        return turn

    def drop(self, turn: Turn) -> None:
        """Whoever waited has left; nothing for a turn that has come. Once for each turn."""
        if not turn.granted_bytes:
            turn.is_dropped = True
            self._lines[turn.flow.limits].waiting_count -= 1

    def regroup(self) -> None:
        """A bucket got a rate, or lost it: call this after every change of one."""
        waiting = [
            turn for line in self._lines.values() for turn in sorted(line.turns) if not turn.is_dropped
        ]
        self._lines.clear()
        self._virtual = 0.0
        self._epoch += 1
        for turn in waiting:
            self._enter(turn)

    def ready_in_s(self, now_s: float) -> float | None:
        """Seconds until `pop` has something; None while nobody waits."""
        waits = [_ready_in_s(buckets, now_s) for buckets, line in self._lines.items() if line.waiting_count]
        return min(waits, default=None)

    def pop(self, now_s: float) -> Turn | None:
        """The turn that comes now, paid for; None if none may go yet."""
        open_lines = [
            line
            for buckets, line in self._lines.items()
            if line.waiting_count and not _ready_in_s(buckets, now_s)
        ]
        if not open_lines:
            return None
        line = min(open_lines, key=lambda line: line.virtual)
        turn = line.first()
        assert turn is not None
        heapq.heappop(line.turns)
        flow = turn.flow
        turn.granted_bytes = turn.wanted_bytes if flow.is_free else min(turn.wanted_bytes, flow.piece_bytes)
        cost = turn.granted_bytes + FRAMING_BYTES
        line.virtual += cost / line.waiting_count
        line.waiting_count -= 1
        self._virtual = line.virtual
        for bucket in flow.buckets:
            bucket.take(cost)
        return turn

    def _enter(self, turn: Turn) -> None:
        flow = turn.flow
        line = self._lines.setdefault(flow.limits, _Line())
        if not line.waiting_count:
            line.virtual = max(line.virtual, self._virtual)  # a line that was empty has saved nothing up
        if flow.epoch != self._epoch:
            flow.epoch, flow.finish = self._epoch, 0.0
        size = min(turn.wanted_bytes, flow.piece_bytes) + FRAMING_BYTES
        turn.finish = flow.finish = max(line.virtual, flow.finish) + size
        heapq.heappush(line.turns, turn)
        line.waiting_count += 1


def _ready_in_s(buckets: tuple[Bucket, ...], now_s: float) -> float:
    return max((bucket.ready_in_s(now_s) for bucket in buckets), default=0.0)
