"""One iterative lookup: whom to ask next, and when it is over. Layer 2, pure.

The service sends what `next_queries` returns and reports each outcome; the lookup never waits. Contacts are
spread over disjoint paths: what a peer tells is followed only within the path that asked it, and no peer is
asked by two paths, so that whoever controls one path does not choose what the others see.

Invariants: at most `DHT_LOOKUP_QUERIES_MAX` requests are made, one to each contact (a second one only to
where another peer says that it listens, after the first place was no good): every lookup ends. It ends when
on each path the nearest `DHT_BUCKET_CONTACTS` live contacts, and all others within the radius, have
answered. Source: Kademlia (2002), section 2.3; S/Kademlia (2007), section 4.4.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence
from enum import Enum, auto
from itertools import islice, zip_longest

from node import limits
from node.dht.distance import key_of, nearest
from node.units import Contact, Multiaddr, PeerId


class _State(Enum):
    WAITING = auto()
    ASKED = auto()
    SLOW = auto()  # asked, and no longer waited for
    ANSWERED = auto()
    FAILED = auto()


class _Candidate:
    __slots__ = ("addresses", "distance", "peer_id", "state", "tries")

    def __init__(self, contact: Contact, distance: int) -> None:
        self.peer_id = contact.peer_id
        self.addresses = contact.addresses[: limits.DHT_CONTACT_ADDRESSES_MAX]
        self.distance = distance
        self.state = _State.WAITING
        self.tries = 0

    def learn(self, addresses: tuple[Multiaddr, ...]) -> None:
        """Add what another peer tells. Half the room is kept for the newest: a liar who was first can't
        keep the right address out, and a contact that failed at the old ones gets one more chance."""
        fresh = [address for address in addresses if address not in self.addresses]
        if not fresh:
            return
        half = limits.DHT_CONTACT_ADDRESSES_MAX // 2
        if self.state is _State.FAILED and self.tries == 1:
            self.state = _State.WAITING
            self.addresses = tuple(fresh[: limits.DHT_CONTACT_ADDRESSES_MAX])
        else:
            merged = (*self.addresses[:half], *fresh, *self.addresses[half:])
            self.addresses = merged[: limits.DHT_CONTACT_ADDRESSES_MAX]

    def __lt__(self, other: _Candidate) -> bool:
        return self.distance < other.distance


class _Path:
    """What one path was told, nearest first."""

    __slots__ = ("_known", "candidates")

    def __init__(self) -> None:
        self.candidates: list[_Candidate] = []
        self._known: set[PeerId] = set()

    def add(self, candidate: _Candidate) -> None:
        if candidate.peer_id not in self._known:
            self._known.add(candidate.peer_id)
            insort(self.candidates, candidate)

    def wanted(self, radius: int) -> Iterable[_Candidate]:
        """The live candidates whose answers this path needs, nearest first."""
        count = 0
        for candidate in self.candidates:
            if candidate.state in (_State.FAILED, _State.SLOW):
                continue
            count += 1
            if count > limits.DHT_LOOKUP_WIDTH_MAX:
                return
            if count > limits.DHT_BUCKET_CONTACTS and candidate.distance > radius:
                return
            yield candidate


class Lookup:
    """The search for the live contacts nearest to a key."""

    def __init__(self, target: int, seeds: Sequence[Contact], *, own_id: PeerId, radius: int = 0) -> None:
        """`seeds` are dealt to the paths in turn; `radius` is the distance to search completely."""
        self.target = target
        self._own_id = own_id
        self._radius = radius
        self._candidates: dict[PeerId, _Candidate] = {}
        self._paths = [_Path() for _ in range(limits.DHT_LOOKUP_PATHS)]
        self._path_of: dict[PeerId, _Path] = {}  # of those asked
        self._in_flight = 0
        self._asked_count = 0
        self._stopped = False
        unique = {contact.peer_id: contact for contact in seeds if contact.peer_id != own_id}
        ordered = nearest(unique.values(), target, len(unique), key=lambda contact: key_of(contact.peer_id))
        for turn, contact in enumerate(ordered):
            self._paths[turn % len(self._paths)].add(self._candidate(contact))

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to ask or to wait for."""
        return self._stopped or (self._in_flight == 0 and self._next() is None)

    @property
    def asked_count(self) -> int:
        """Requests so far."""
        return self._asked_count

    def next_queries(self) -> list[Contact]:
        """The contacts to ask now; each is given out once and its outcome must be reported."""
        queries = []
        while not self._stopped and self._in_flight < limits.DHT_LOOKUP_PARALLEL:
            choice = self._next()
            if choice is None:
                break
            candidate, path = choice
            candidate.state = _State.ASKED
            candidate.tries += 1
            self._path_of[candidate.peer_id] = path
            self._asked_count += 1
            self._in_flight += 1
            queries.append(Contact(candidate.peer_id, candidate.addresses))
            self._paths.append(self._paths.pop(0))  # each path in turn
        return queries

    def on_reply(self, peer_id: PeerId, closer: Iterable[Contact]) -> None:
        """A contact answered. Ignored unless it was asked and has not answered; so are surplus contacts."""
        candidate = self._candidates.get(peer_id)
        if candidate is None or candidate.state not in (_State.ASKED, _State.SLOW):
            return
        self._leave_flight(candidate)
        candidate.state = _State.ANSWERED
        # While there are fewer seeds than paths, a reply begins the paths that are still empty.
        paths = [self._path_of[peer_id], *(path for path in self._paths if not path.candidates)]
        for count, contact in enumerate(islice(closer, limits.DHT_REPLY_CONTACTS_MAX)):
            if contact.peer_id != self._own_id:
                paths[count % len(paths)].add(self._candidate(contact))

    def on_slow(self, peer_id: PeerId) -> bool:
        """A contact takes long: ask others meanwhile, and end without it if nothing else is missing.

        False if it has answered or failed, so that nothing changes.
        """
        candidate = self._candidates.get(peer_id)
        if candidate is None or candidate.state is not _State.ASKED:
            return False
        self._leave_flight(candidate)
        candidate.state = _State.SLOW
        return True

    def on_failure(self, peer_id: PeerId) -> None:
        """A contact did not answer, or answered what no honest peer does."""
        candidate = self._candidates.get(peer_id)
        if candidate is not None and candidate.state in (_State.ASKED, _State.SLOW):
            self._leave_flight(candidate)
            candidate.state = _State.FAILED

    def stop(self) -> None:
        """Enough is known: ask nobody else."""
        self._stopped = True

    def contact_of(self, peer_id: PeerId) -> Contact | None:
        """What was told of a peer, live or not."""
        candidate = self._candidates.get(peer_id)
        return Contact(candidate.peer_id, candidate.addresses) if candidate else None

    def answered(self) -> list[Contact]:
        """Everyone who answered, nearest first."""
        live = sorted(c for c in self._candidates.values() if c.state is _State.ANSWERED)
        return [Contact(candidate.peer_id, candidate.addresses) for candidate in live]

    def closest(self) -> list[Contact]:
        """The contacts that should hold what belongs to the target, nearest first.

        The nearest `DHT_BUCKET_CONTACTS` that answered, then others within the radius up to
        `DHT_LOOKUP_WIDTH_MAX`, from each path in turn, so that a crowd on one leaves room for the rest.
        """
        live = sorted(c for c in self._candidates.values() if c.state is _State.ANSWERED)
        chosen = live[: limits.DHT_BUCKET_CONTACTS]
        within = [c for c in live[len(chosen) :] if c.distance <= self._radius]
        by_path = [[c for c in within if self._path_of[c.peer_id] is path] for path in self._paths]
        in_turn = (c for turn in zip_longest(*by_path) for c in turn if c is not None)
        chosen += islice(in_turn, limits.DHT_LOOKUP_WIDTH_MAX - len(chosen))
        return [Contact(candidate.peer_id, candidate.addresses) for candidate in sorted(chosen)]

    def _candidate(self, contact: Contact) -> _Candidate:
        """The one candidate of a peer, whoever told it."""
        known = self._candidates.get(contact.peer_id)
        if known is None:
            known = _Candidate(contact, key_of(contact.peer_id) ^ self.target)
            self._candidates[contact.peer_id] = known
        elif contact.addresses != known.addresses:
            known.learn(contact.addresses)
        return known

    def _next(self) -> tuple[_Candidate, _Path] | None:
        if self._asked_count >= limits.DHT_LOOKUP_QUERIES_MAX:
            return None
        for path in self._paths:
            for candidate in path.wanted(self._radius):
                if candidate.state is _State.WAITING:
                    return candidate, path
        return None

    def _leave_flight(self, candidate: _Candidate) -> None:
        if candidate.state is _State.ASKED:
            self._in_flight -= 1
