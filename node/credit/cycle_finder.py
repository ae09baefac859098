"""Finding cycles that a clear can go around: asking a donor, and answering. Layer 4.

Invariants: no account is named to anybody but in a Bloom filter of a capped size or as a cycle's member; a
search costs a bounded walk through the accounts and a bounded number of questions to others, and a peer has
so many a day. Source: credit.md, "Clearing".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from node import limits
from node.credit import messages
from node.credit.admitting import CreditAdmission
from node.credit.bloom import SALT_BYTES, BloomFilter
from node.credit.clearing import Cycle, Debts, four_cycles, three_cycles
from node.credit.ledger import Ledger
from node.credit.ledger_store import LedgerView
from node.credit.members import Members
from node.errors import CreditError, RemoteError
from node.framing import FramedStream
from node.ports import Entropy
from node.units import AccountId, Contact, PeerId


@dataclass(frozen=True, slots=True)
class Found:
    """A cycle and a peer for each of its accounts."""

    cycle: Cycle
    peers: tuple[PeerId, ...]


class CycleFinder:
    """Searches for one account, and answers the searches of others."""

    def __init__(
        self, ledger: Ledger, admission: CreditAdmission, members: Members, peer_id: PeerId, entropy: Entropy
    ) -> None:
        self._ledger = ledger
        self._admission = admission
        self._members = members
        self._peer_id = peer_id
        self._entropy = entropy
        self._finds: Counter[PeerId] = Counter()
        self._finds_day = 0

    def debtors(self, donor: AccountId) -> list[AccountId]:
        """Accounts that owe this one, the donor aside. Blocks on the disk."""

        def look(view: LedgerView) -> list[AccountId]:
            return [
                account
                for account, row in islice(view.accounts(), limits.CLEAR_SCAN_ACCOUNTS_MAX)
                if row.standing.owes > 0 and account != donor
            ]

        return self._ledger.store.read(look)

    async def find(
        self, contact: Contact, donor: AccountId, amount: int, debtors: Sequence[AccountId]
    ) -> list[Found]:
        """Cycles through a donor, as it knows them. Raises `RemoteError`."""
        owes_me = BloomFilter.of(debtors, self._entropy.random_bytes(SALT_BYTES))
        request = messages.FindCycle(self._ledger.me, amount, owes_me.encode())
        reply = await self._members.ask(contact, donor, request, messages.Cycles)
        assert isinstance(reply, messages.Cycles)
        known = set(debtors)
        return [
            found
            for found in _found(reply)
            if found.cycle.accounts[:2] == (self._ledger.me, donor) and found.cycle.accounts[-1] in known
        ]

    async def answer(
        self, request: messages.Message, other: AccountId, framed: FramedStream
    ) -> messages.Message:
        """The cycles that this account knows. Raises `CreditError` after too many searches of a peer."""
        assert isinstance(request, messages.FindCycle)
        self._count_find(framed.peer_id)
        owes_asker = BloomFilter.decode(request.owes_me)
        asker, me = AccountId(request.asker), self._ledger.me
        debts = await self._admission.run(self.creditors)
        if asker != other:  # `other` is the donor, and this account the second of a cycle of four
            cycles = four_cycles(
                other, {me: max(request.amount, limits.CLEAR_MICROS_MIN)}, me, debts, asker, owes_asker
            )
            return await self._cycles(cycles, framed.peer_id)
        cycles = three_cycles(me, debts, asker, owes_asker)
        found = [*_found(await self._cycles(cycles, framed.peer_id))]
        if not found:
            found = await self._ask_seconds(request, debts, framed.peer_id)
        return messages.Cycles(
            tuple(
                (each.cycle.accounts, each.cycle.amount, each.peers)
                for each in found[: limits.CLEAR_CANDIDATES_MAX]
            )
        )

    def _count_find(self, peer_id: PeerId) -> None:
        """A search costs a walk through the accounts, and questions to others. Raises `CreditError`."""
        if self._finds_day != self._admission.day:
            self._finds_day, self._finds = self._admission.day, Counter()
        self._finds[peer_id] += 1
        if self._finds[peer_id] > limits.CLEAR_FINDS_PER_PEER_MAX:
            raise CreditError("too many searches for cycles today")

    async def _ask_seconds(
        self, request: messages.FindCycle, debts: Debts, asker_peer: PeerId
    ) -> list[Found]:
        """Cycles of four, from the creditors that this donor owes most."""
        ranked = sorted(debts, key=lambda account: -debts[account])
        found: list[Found] = []
        for second in ranked[: limits.CLEAR_SECONDS_ASKED_MAX]:
            peer_id = await self._admission.run(lambda second=second: self._peer_of(second))  # type: ignore[misc]
            if peer_id is None or second == request.asker:
                continue
            ask = messages.FindCycle(request.asker, min(request.amount, debts[second]), request.owes_me)
            try:
                reply = await self._members.ask(
                    await self._members.contact(peer_id), second, ask, messages.Cycles
                )
            except RemoteError:
                continue
            assert isinstance(reply, messages.Cycles)
            for each in _found(reply):
                if each.cycle.accounts[:3] == (request.asker, self._ledger.me, second):
                    amount = min(each.cycle.amount, debts[second])
                    peers = (asker_peer, self._peer_id, *each.peers[2:])
                    found.append(Found(Cycle(each.cycle.accounts, amount), peers))
        return found

    def creditors(self) -> dict[AccountId, int]:
        """Whom this account owes, and how much of that is free to be cleared. Blocks on the disk."""

        def look(view: LedgerView) -> dict[AccountId, int]:
            return {
                account: -row.standing.position
                for account, row in islice(view.accounts(), limits.CLEAR_SCAN_ACCOUNTS_MAX)
                if row.standing.position < 0
            }

        return self._ledger.store.read(look)

    def _peer_of(self, account: AccountId) -> PeerId | None:
        certs = self._ledger.store.read(lambda view: view.certs(account))
        return certs[0].peer_id if certs else None

    async def _cycles(self, cycles: Sequence[Cycle], asker_peer: PeerId) -> messages.Cycles:
        """Cycles with a peer for each account that this node knows one of."""

        def place() -> list[tuple[tuple[bytes, ...], int, tuple[bytes, ...]]]:
            placed: list[tuple[tuple[bytes, ...], int, tuple[bytes, ...]]] = []
            for cycle in cycles:
                peers: list[bytes] = []
                for position, account in enumerate(cycle.accounts):
                    if account == self._ledger.me:
                        peers.append(self._peer_id)
                    elif position < 2 and len(cycle.accounts) == limits.CLEAR_MEMBERS_MAX:
                        peers.append(asker_peer)  # the donor fills these in
                    elif position == 0:
                        peers.append(asker_peer)
                    else:
                        peers.append(self._peer_of(account) or b"")
                if all(peers):
                    placed.append((cycle.accounts, cycle.amount, tuple(peers)))
            return placed

        return messages.Cycles(tuple(await self._admission.run(place)))


def _found(reply: messages.Cycles) -> list[Found]:
    return [
        Found(
            Cycle(tuple(AccountId(account) for account in accounts), amount),
            tuple(PeerId(peer_id) for peer_id in peers),
        )
        for accounts, amount, peers in reply.cycles
        if 3 <= len(accounts) <= limits.CLEAR_MEMBERS_MAX
    ]
