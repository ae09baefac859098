"""Whether many holders have gone at once: a few looks an interval, and many where those meet nobody. Layer 4.

Audits look at a holder once a day, and where half of those who would do it are dead as well, nobody knows for
two days what an urgent repair should know within hours. So each node looks at some co-holders in turn once an
interval, and at all of them for some hours when many of those are gone.

Invariants: in peace a beat costs at most `PULSE_PEERS` connections, and tells nobody anything; a single peer
that is missed is left to the audits; in an alarm a peer counts as absent from this node's own look on, until
this node has a connection to it; who is absent is durable, and this node's own absence is not in it; a
node that reaches nobody says nothing of others. Source: docs/decisions/0082.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final

import trio

from node.chunks.healing.journal import HealingJournal
from node.chunks.repair import PULSE_PEERS, is_alarming
from node.ports import Clock, Network, Offload
from node.units import DAY_S, HOUR_S, PeerId

ALARM_LOOKS_MAX: Final = 1_024
"""Peers looked at in one beat of an alarm, and absent ones that are looked for in each: 4 MB."""
ALERT_S: Final = 4 * HOUR_S
"""So long after an alarm everybody is looked at in every beat: an outage spreads over some hours."""
KNOWN_MAX: Final = 10_000
"""Co-holders remembered: 1.5 MB."""
ABSENT_KEPT_S: Final = 3 * DAY_S
"""Whoever is absent for longer has been missed by audits as well, or stand-ins of theirs: those look on."""
LOOKS_AT_ONCE: Final = 16
LOOK_TIMEOUT_S: Final = 45.0

IsReachable = Callable[[PeerId], Awaitable[bool]]
"""Whether a peer answers now, at whatever address it is found."""


class Pulse:
    """Who of the co-holders this node itself found gone."""

    def __init__(
        self,
        *,
        network: Network,
        is_reachable: IsReachable,
        journal: HealingJournal,
        clock: Clock,
        offload: Offload,
        away_s: int,
    ) -> None:
        """`away_s` is how long this node was not running before its start. Reads rows of the state."""
        self._network = network
        self._is_reachable = is_reachable
        self._journal = journal
        self._clock = clock
        self._offload = offload
        self._known: dict[PeerId, bool] = {}
        """Co-holders, and whether each is silent by the evidence."""
        self._cursor: PeerId = network.peer_id
        self._alert_until = -math.inf
        self._absent: dict[PeerId, int] = {}
        self._unconfirmed = journal.absences(now_s=clock.now_s(), away_s=away_s)
        """Absent when this node last ran, or before it was away: it can't know who has returned meanwhile."""
        self._unsaved: set[PeerId] = set()
        self.alarms = 0
        """Beats that met too few, since the start."""
        network.on_connected(self._is_back)

    def absent_since(self, peer_id: PeerId) -> int | None:
        """Since when this node knows that a peer can't be reached; None if it may be there."""
        return self._absent.get(peer_id)

    def know(self, peer_id: PeerId, *, is_silent: bool) -> None:
        """A holder of a segment that is kept here, and what the evidence says of it there."""
        if peer_id in self._known or len(self._known) < KNOWN_MAX:
            self._known[peer_id] = is_silent or self._known.get(peer_id, False)

    async def beat(self) -> None:
        """Look, once an interval. The holders known since the last beat are those looked at. Raises
        `StoreError`."""
        known, self._known = self._known, {}
        known.pop(self._network.peer_id, None)
        await self._look_again()
        unmissed = sorted(peer for peer, silent in known.items() if not silent and peer not in self._absent)
        chosen = self._in_turn(unmissed)
        missed = await self._missing(chosen)
        if is_alarming(len(chosen), len(missed)):
            self.alarms += 1
            self._alert_until = trio.current_time() + ALERT_S
        if trio.current_time() < self._alert_until:
            others = [peer for peer in unmissed if peer not in set(chosen)]
            missed += await self._missing(others[:ALARM_LOOKS_MAX])
            if self._network.connected():
                self._miss(missed)
        await self._save()

    def was_away(self, away_s: int) -> None:
        """This node did nothing for so long, and could see nobody. Blocks on the disk.

        Raises `StoreError`.
        """
        self._absent = {}
        self._unconfirmed = self._journal.absences(now_s=self._clock.now_s(), away_s=away_s)

    # --- inside -------------------------------------------------------------------------------------------

    def _in_turn(self, peers: list[PeerId]) -> list[PeerId]:
        """The next ones after those of the last beat; each node begins at its own place."""
        chosen = ([peer for peer in peers if peer > self._cursor] + peers)[: min(PULSE_PEERS, len(peers))]
        if chosen:
            self._cursor = chosen[-1]
        return chosen

    async def _look_again(self) -> None:
        """At those that were missed: a connection ends an absence, by `_is_back`."""
        now_s = self._clock.now_s()
        for peer, since_s in [*self._absent.items(), *self._unconfirmed.items()]:
            if now_s - since_s > ABSENT_KEPT_S:
                self._is_back(peer)
        waiting = dict(self._unconfirmed)
        missed = await self._missing([*self._absent, *waiting])
        for peer in missed if self._network.connected() else ():
            if peer in self._unconfirmed:
                self._absent.setdefault(peer, self._unconfirmed.pop(peer))
        for peer in {*self._absent, *waiting} - set(missed):
            self._is_back(peer)

    def _miss(self, peers: Iterable[PeerId]) -> None:
        now_s = self._clock.now_s()
        for peer in peers:
            if peer not in self._absent and len(self._absent) < ALARM_LOOKS_MAX:
                self._absent[peer] = now_s
                self._unsaved.add(peer)

    def _is_back(self, peer_id: PeerId) -> None:
        was_absent = self._absent.pop(peer_id, None) is not None
        was_unconfirmed = self._unconfirmed.pop(peer_id, None) is not None
        if was_absent or was_unconfirmed:
            self._unsaved.add(peer_id)

    async def _missing(self, peers: Iterable[PeerId]) -> list[PeerId]:
        """Those of them that can't be reached now."""
        missing: list[PeerId] = []
        limiter = trio.CapacityLimiter(LOOKS_AT_ONCE)

        async def look(peer_id: PeerId) -> None:
            async with limiter:
                is_there = False
                with trio.move_on_after(LOOK_TIMEOUT_S):
                    is_there = await self._is_reachable(peer_id)
            if not is_there:
                missing.append(peer_id)

        connected = set(self._network.connected())
        async with trio.open_nursery() as nursery:
            for peer_id in peers:
                if peer_id not in connected:
                    nursery.start_soon(look, peer_id)
        return sorted(missing)

    async def _save(self) -> None:
        """Write down who has gone or returned."""
        changed, self._unsaved = self._unsaved, set()
        since_s = {peer: self._absent[peer] for peer in changed if peer in self._absent}
        if changed:
            await self._offload.run(partial(self._journal.note_absences, since_s, changed - since_s.keys()))
