"""Sessions with holders whose addresses may be stale, and the race of several of them. Layer 4.

Invariants: after a failed dial the peer id is looked up, since addresses are hints and the id is the
identity; every failure is scored; a race ends with its first answer and leaves nothing running.
Source: design.md, section 4 (get).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

import trio

from node import limits
from node.chunks.client import HolderClient, HolderSession
from node.chunks.scores import Scoreboard
from node.chunks.serving import Reader
from node.crypto.identity import peer_id_text
from node.errors import (
    AvailabilityError,
    CryptoError,
    OwnerInconsistentError,
    PeerMisbehavedError,
    ProtocolError,
    RefusedError,
    RemoteError,
    UnreachableError,
)
from node.ports import Clock, Directory
from node.units import Contact, PeerId

T = TypeVar("T")

STAGGER_S = 0.25
"""The next peer joins a race so long after the one before, or at once when one has failed: with dials of
ten seconds to machines that are switched off, 40 race at the most."""
ABSENT_S = 60.0
"""A peer that a look-up did not find is not looked up again for so long."""
CLOSE_TIMEOUT_S = 1.0
"""Saying goodbye may not take longer."""


@dataclass(frozen=True, slots=True)
class _Absence:
    """When look-ups of a peer began to find nobody, and when the latest did not."""

    since: float
    latest: float

    def is_fresh(self, now: float, patience_s: float) -> bool:
        """Whether it need not be looked up again yet."""
        return now - self.latest < max(ABSENT_S, min(patience_s, self.latest - self.since))


class Holders:
    """Opens sessions with peers, looks stale addresses up, and keeps the scores."""

    def __init__(
        self,
        *,
        client: HolderClient,
        directory: Directory,
        clock: Clock,
        scores: Scoreboard,
        reader: Reader | None = None,
    ) -> None:
        """`reader` signs for what is fetched; without one nobody does."""
        self.client = client
        self.directory = directory
        self.clock = clock
        self.scores = scores
        self.reader = reader
        self._lookups = trio.CapacityLimiter(limits.PEER_LOOKUPS_AT_ONCE)
        self._absent: OrderedDict[PeerId, _Absence] = OrderedDict()

    @property
    def network(self) -> str:
        """The name of the network, which records carry."""
        return self.client.preamble.network_id

    async def open(
        self, contact: Contact, *, on_stale: Callable[[], None] | None = None, patience_s: float = 0.0
    ) -> HolderSession:
        """A session; the caller ends it with `end`.

        `on_stale` is called before the peer is looked up, which takes time: its known addresses failed, or
        there are none. `patience_s` is as in `look_up`.
        Raises `UnreachableError`, `RefusedError`.
        """
        if contact.peer_id == self.client.peer_id:
            return await self.client.open(contact)
        failure: UnreachableError | None = None
        # Whoever dialled this node is connected, at an address that nobody could dial.
        if contact.addresses or self.client.is_near(contact.peer_id):
            try:
                return self._there(await self.client.open(contact))
            except UnreachableError as error:
                failure = error
        if on_stale is not None:
            on_stale()
        fresh = await self.look_up(contact, patience_s=patience_s)
        if fresh is None and failure is not None:
            raise failure
        try:
            return self._there(await self.client.open(fresh or contact))
        except UnreachableError:
            if fresh is not None:
                self._note_absent(contact.peer_id)  # where others believe it to be it is no more
            raise

    def _there(self, session: HolderSession) -> HolderSession:
        self._absent.pop(session.peer_id, None)
        return session

    async def look_up(self, contact: Contact, *, patience_s: float = 0.0) -> Contact | None:
        """The peer with addresses that `contact` does not have; None if there are none.

        Nor if a look-up for this did not find it within the last `ABSENT_S`: whoever works through many
        segments of the same dead holders would ask the whole neighbourhood for each. Who looks by the hour
        and can wait says for how long: a peer that was away for some time is left alone for as long again,
        up to `patience_s`.
        """
        found: Contact | None = None
        async with self._lookups:
            absence = self._absent.get(contact.peer_id)
            if absence is not None and absence.is_fresh(trio.current_time(), patience_s):
                return None
            with trio.move_on_after(limits.SEARCH_TIMEOUT_S), suppress(AvailabilityError):
                found = await self.directory.find_peer(contact.peer_id)
        if found is None or set(found.addresses) <= set(contact.addresses):
            self._note_absent(contact.peer_id)
            return None
        return found

    def _note_absent(self, peer_id: PeerId) -> None:
        now = trio.current_time()
        known = self._absent.get(peer_id)
        self._absent[peer_id] = _Absence(now if known is None else known.since, now)
        self._absent.move_to_end(peer_id)
        if len(self._absent) > limits.ABSENT_PEERS_MAX:
            self._absent.popitem(last=False)

    @asynccontextmanager
    async def session(
        self, contact: Contact, *, on_stale: Callable[[], None] | None = None
    ) -> AsyncIterator[HolderSession]:
        """A session for some requests, as `open` gives it; it ends with the context, whatever happens."""
        session = await self.open(contact, on_stale=on_stale)
        clean = False
        try:
            yield session
            clean = True
        finally:
            await end(session, clean=clean)

    def blame(self, peer_id: PeerId, error: RemoteError) -> None:
        """Score a peer's failure; declining in words is none."""
        if isinstance(error, PeerMisbehavedError):
            self.scores.misbehaved(peer_id, now_s=self.clock.now_s())
        elif not isinstance(error, RefusedError):
            self.scores.failed(peer_id, now_s=self.clock.now_s())


async def end(session: HolderSession, *, clean: bool) -> None:
    """Close a session, or drop one in which answers are still on their way."""
    with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_TIMEOUT_S):
        if clean:
            await session.aclose()
        else:
            await session.reset()


@contextmanager
def blaming(peer_id: PeerId) -> Iterator[None]:
    """What is illegal in the bytes that came is the peer's fault; a contradiction of the owner's is not."""
    try:
        yield
    except OwnerInconsistentError:
        raise
    except (ProtocolError, CryptoError) as error:
        raise PeerMisbehavedError(peer_id_text(peer_id), str(error)) from error


Ask = Callable[[Contact, Callable[[], None]], Awaitable[T | None]]
"""Asks one peer of a race; calls what it is given when it goes on to look stale addresses up."""


async def first_answer(
    candidates: trio.MemoryReceiveChannel[Contact],
    ask: Ask[T],
    *,
    blame: Callable[[PeerId, RemoteError], None],
) -> T | None:
    """The first answer that is not None from peers asked in a staggered race; None if no peer gives one.

    Nobody is kept out by a peer that is silent or being looked up: where most holders are dead, the living
    ones would come up only after as many fruitless dials and look-ups. `ask` may raise `RemoteError`, which
    is handed to `blame`, and `OwnerInconsistentError`, which ends the race and passes through.
    """
    answers: list[T] = []
    errors: list[OwnerInconsistentError] = []
    failed = trio.Event()

    def make_way() -> None:
        nonlocal failed
        failed.set()
        failed = trio.Event()

    async def attempt(contact: Contact) -> None:
        try:
            answer = await ask(contact, make_way)
        except RemoteError as error:
            blame(contact.peer_id, error)
            answer = None
        except OwnerInconsistentError as error:
            errors.append(error)
            nursery.cancel_scope.cancel()
            return
        if answer is not None:
            answers.append(answer)
            nursery.cancel_scope.cancel()
        make_way()

    seen: set[PeerId] = set()
    async with trio.open_nursery() as nursery:
        async for contact in candidates:
            if contact.peer_id in seen:
                continue
            seen.add(contact.peer_id)
            nursery.start_soon(attempt, contact)
            with trio.move_on_after(STAGGER_S):
                await failed.wait()
    if errors:
        raise errors[0]
    return answers[0] if answers else None
