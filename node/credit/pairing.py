"""What two accounts tell each other: what is accepted, what is signed. Layer 3, over the ledger.

Invariants: nothing enters a pair's set that is not signed by whom it names, of this network and about these
two accounts, within what a pair may have; what is refused changes nothing, and the rest of what came with it
counts. Nothing is signed for a pair before the other side's states have been seen in this life of the node,
nor twice for one number, and a signature is durable before it leaves. A fork is kept as a proof, and freezes
its signer's unsecured credit for a period, once. A period is closed where both have signed a state that names
its fold; the records go in the transaction that keeps the fold. Source: credit.md, "Records".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from node import limits
from node.credit.closing import check_fold, is_over, last_closed
from node.credit.fold import FOLD_TAG, Fold
from node.credit.ledger import Ledger
from node.credit.ledger_store import GIFT_TAG, KINDS, LedgerChange, LedgerView
from node.credit.messages import EntryData
from node.credit.pair_chain import Chain
from node.credit.pair_ledger import payer_by_grant
from node.credit.pair_records import PairRecord
from node.credit.pair_set import Gift
from node.credit.reconcile import ID_BYTES
from node.credit.units import PERIOD_DAYS, period_of
from node.crypto.identity import peer_id_of
from node.crypto.signing import KeyPair
from node.errors import CreditError, CryptoError, ProtocolError
from node.records.charge import Charge
from node.records.clear import Clear
from node.records.lease import Lease, Release
from node.records.pair_state import Equivocation, PairState
from node.records.receipt import AuditReceipt, Outcome, ServeReceipt
from node.units import AccountId, PeerId


class Pairing:
    """Exchanges of one account's ledger, seen from the disk. Synchronous; calls take turns."""

    def __init__(self, ledger: Ledger, account: KeyPair) -> None:
        self._ledger = ledger
        self._account = account
        self._synced: set[AccountId] = set()
        self._close_tried: dict[AccountId, int] = {}
        """The day on which closing was last tried: once a day is enough for either answer."""
        self.on_clear: Callable[[LedgerChange, Clear], None] = lambda *_: None
        """Called with complete clears, maybe more than once, within the change that keeps them."""

    # --- sets ---------------------------------------------------------------------------------------------

    def ids(self, other: AccountId, *, day: int) -> list[bytes]:
        """The ids of the pair's set as it is told to the other side: proofs of forks are in every set."""

        def look(view: LedgerView) -> list[bytes]:
            return [*self._ledger.ids(view, other), *self._proofs(view, day)]

        return self._ledger.store.read(look)

    def entries(self, other: AccountId, ids: Iterable[bytes], *, day: int) -> list[EntryData]:
        """Those of the entries that there are."""

        def look(view: LedgerView) -> list[EntryData]:
            proofs = self._proofs(view, day)
            found: list[EntryData] = []
            for name in ids:
                entry = view.entry(other, name)
                if entry is not None:
                    found.append((entry.tag, entry.data))
                elif name in proofs:
                    found.append((Equivocation.TYPE, proofs[name].encode()))
            return found

        return self._ledger.store.read(look)

    def take(self, other: AccountId, entries: Sequence[EntryData], *, day: int) -> int:
        """Take in what the other side sent: what holds counts; how many entries were news."""
        records: list[PairRecord] = []
        gifts: list[Gift] = []
        proofs: list[Equivocation] = []
        folds: list[Fold] = []
        for tag, data in entries:
            try:
                if tag == GIFT_TAG:
                    if len(data) == ID_BYTES:
                        gifts.append(Gift(data))
                elif tag == Equivocation.TYPE:
                    proof = Equivocation.decode(data, network=self._ledger.store.network)
                    proof.verify()
                    proofs.append(proof)
                elif tag == FOLD_TAG:
                    folds.append(Fold.decode(data, network=self._ledger.store.network))
                elif tag in KINDS:
                    records.append(self._checked(other, tag, data))
            except (ProtocolError, CryptoError):
                continue  # whoever sends it gains nothing by it

        def change(ledger: LedgerChange) -> int:
            fitting = self._fitting(ledger, other, records, gifts, day)
            new = self._ledger.add(ledger, other, fitting, day=day)
            for record in fitting:
                if isinstance(record, Clear):
                    self.spread_clear(ledger, record, day=day)
            has_states = any(isinstance(record, PairState) for record in fitting)
            forks = self._forks(ledger, other) if has_states else []
            new += sum(self._close(ledger, other, fold, day) for fold in folds)
            return new + sum(self._freeze(ledger, proof, day) for proof in (*proofs, *forks))

        return self._ledger.update(change)

    def add(self, other: AccountId, records: Sequence[PairRecord], *, day: int) -> int:
        """Put this node's own records into a pair's set, under the same checks."""
        return self.take(other, [(record.TYPE, record.encode()) for record in records], day=day)

    def spread_clear(self, change: LedgerChange, clear: Clear, *, day: int) -> None:
        """A complete clear counts with both of this account's neighbours in its cycle."""
        me = self._ledger.me
        for neighbour in (clear.creditor_of(me), clear.debtor_of(me)):
            self._ledger.add(change, neighbour, [clear], day=day)
        change.set_clear(clear)
        self.on_clear(change, clear)

    # --- states -------------------------------------------------------------------------------------------

    def note_synced(self, other: AccountId) -> None:
        """All that the other side has is here."""
        if not self._only_reads(other):
            self._synced.add(other)

    def _only_reads(self, other: AccountId) -> bool:
        """Whether there is nothing of the other side but what it read here: it may be forgotten at any time.

        Nothing is signed for such a pair, or what was signed would be forgotten with it.
        """
        return self._ledger.store.read(lambda view: view.is_reader(other))

    def propose(self, other: AccountId, *, day: int) -> list[PairState]:
        """States for the other side to sign, signed and durable; none where nothing has changed."""
        if self._only_reads(other):
            return []
        proposed = []
        for period in self._unsigned_periods(other, day=day):
            given, received = self._totals(other, period, day=day)
            state = self._chain(other).propose(
                network=self._ledger.store.network, period=period, given=given, received=received
            )
            proposed.append(self._sign(other, state, day=day))
        return proposed

    def countersign(
        self, other: AccountId, state: PairState, *, fold: Fold | None = None, day: int
    ) -> PairState:
        """The state with both signatures, durable; with a fold that it names, the periods are closed then.

        Raises `CreditError`, `ProtocolError`, `CryptoError`.
        """
        if state.period > period_of(self._ledger.today(day)) + 1:
            raise CreditError("a state of a period that has not come")
        if self._only_reads(other):
            raise CreditError("nothing is signed for what was only read: the receipts do")
        chain = self._chain(other)
        if fold is not None:
            own = self._fold_due(other, chain, fold.period, day=day)
            if own is None:
                raise CreditError("a fold of periods that are closed, empty or to come")
            check_fold(fold, own, self._ledger.me)
        _, received = self._totals(other, state.period, day=day)
        chain.check_countersign(state, received=received, fold_id=b"" if fold is None else fold.fold_id())
        return self._sign(other, state, fold=fold, day=day)

    def propose_close(self, other: AccountId, *, day: int) -> tuple[PairState, Fold] | None:
        """A state that closes all periods that may be closed, signed and durable, and its fold; None where
        no record would go by it."""
        today = self._ledger.today(day)
        if self._close_tried.get(other) == today or self._only_reads(other):
            return None
        self._close_tried[other] = today
        chain = self._chain(other)
        agreed = chain.newest_agreed()
        fold = self._fold_due(other, chain, last_closed(today), day=day)
        if fold is None:
            return None
        period = max(period_of(today), 0 if agreed is None else agreed.period)
        given, received = self._totals(other, period, day=day)
        state = chain.propose(
            network=self._ledger.store.network, period=period, given=given, received=received,
            fold_id=fold.fold_id(),
        )  # fmt: skip
        return self._sign(other, state, day=day), fold

    def _fold_due(self, other: AccountId, chain: Chain, period: int, *, day: int) -> Fold | None:
        agreed = chain.newest_agreed()
        last_state = b"" if agreed is None else agreed.record_id()
        return self._ledger.store.read(
            lambda view: self._ledger.fold_due(view, other, period=period, last_state=last_state, day=day)
        )

    def agreed(self, other: AccountId) -> PairState | None:
        """The last state that both have signed."""
        return self._chain(other).newest_agreed()

    def _unsigned_periods(self, other: AccountId, *, day: int) -> list[int]:
        """Periods whose totals at hand are beyond what both have signed, none before the last one signed."""
        agreed = self.agreed(other)
        ours, theirs = self._by_period(other, day=day)
        last = period_of(self._ledger.today(day))
        first = last if agreed is None else agreed.period
        periods = sorted(period for period in {*ours, *theirs} if period <= last)
        if agreed is not None:
            periods = [period for period in periods if period >= first]
        low = self._ledger.me < other
        signed: dict[int, tuple[int, int]] = {}
        for state in self._ledger.store.read(lambda view: self._ledger.states(view, other)):
            if state.low_signature and state.high_signature:
                totals = (state.low_to_high, state.high_to_low)
                mine = totals if low else totals[::-1]
                known = signed.get(state.period, (0, 0))
                signed[state.period] = (max(known[0], mine[0]), max(known[1], mine[1]))
        return [
            period
            for period in periods
            if ours.get(period, 0) > signed.get(period, (0, 0))[0]
            or theirs.get(period, 0) > signed.get(period, (0, 0))[1]
        ]

    def _by_period(self, other: AccountId, *, day: int) -> tuple[dict[int, int], dict[int, int]]:
        def look(view: LedgerView) -> tuple[dict[int, int], dict[int, int]]:
            balance = self._ledger.book(view, other).balance(today=self._ledger.today(day))
            ours, theirs = balance.given_by(self._ledger.me), balance.given_by(other)
            return dict(ours.by_period), dict(theirs.by_period)

        return self._ledger.store.read(look)

    def _totals(self, other: AccountId, period: int, *, day: int) -> tuple[int, int]:
        ours, theirs = self._by_period(other, day=day)
        return ours.get(period, 0), theirs.get(period, 0)

    def _chain(self, other: AccountId) -> Chain:
        states = self._ledger.store.read(lambda view: self._ledger.states(view, other))
        return Chain(self._ledger.me, other, states, other in self._synced)

    def _sign(self, other: AccountId, state: PairState, *, fold: Fold | None = None, day: int) -> PairState:
        signed = state.sign(self._account)

        def change(ledger: LedgerChange) -> None:
            self._ledger.add(ledger, other, [signed], day=day)
            if fold is not None:
                self._ledger.close(ledger, other, fold, day=day)

        self._ledger.update(change)
        return signed

    def _close(self, change: LedgerChange, other: AccountId, fold: Fold, day: int) -> bool:
        """Take in a fold that a state names which both have signed; whether it was news."""
        if {fold.low, fold.high} != {self._ledger.me, other}:
            return False
        fold_id = fold.fold_id()
        states = self._ledger.states(change, other)
        is_signed = any(s.previous == fold_id and s.low_signature and s.high_signature for s in states)
        return is_signed and self._ledger.close(change, other, fold, day=day)

    # --- forks --------------------------------------------------------------------------------------------

    def _forks(self, view: LedgerView, other: AccountId) -> list[Equivocation]:
        chain = Chain(self._ledger.me, other, self._ledger.states(view, other), True)
        return [proof for proof in chain.forks() if proof.signer != self._ledger.me]

    def _freeze(self, change: LedgerChange, proof: Equivocation, day: int) -> bool:
        """Keep a proof, and freeze its signer once for each fork."""
        today = self._ledger.today(day)
        if proof.signer == self._ledger.me or not change.add_proof(proof, today):
            return False
        self._ledger.freeze(change, proof.signer, until=today + PERIOD_DAYS)
        return True

    def _proofs(self, view: LedgerView, day: int) -> dict[bytes, Equivocation]:
        """Proofs that still freeze somebody, the newest, by id."""
        today = self._ledger.today(day)
        live = [(seen, proof) for seen, proof in view.proofs() if today < seen + PERIOD_DAYS]
        live.sort(key=lambda item: (-item[0], item[1].record_id()))
        return {proof.record_id(): proof for _, proof in live[: limits.PROOFS_SPREAD_MAX]}

    # --- what is accepted ---------------------------------------------------------------------------------

    def _checked(self, other: AccountId, tag: str, data: bytes) -> PairRecord:
        """A record whose signatures hold. Raises `ProtocolError`, `CryptoError`."""
        record = KINDS[tag].decode(data, network=self._ledger.store.network)
        if isinstance(record, PairState):
            if {record.low, record.high} != {self._ledger.me, other}:
                raise ProtocolError("a state of another pair")
            signed = [a for a in (record.low, record.high) if record.is_signed_by(a)]
            if not signed:
                raise ProtocolError("a state that nobody signed")
            for account in signed:
                record.verify_half(account)
            return record
        record.verify()
        return record

    def _fitting(
        self,
        view: LedgerView,
        other: AccountId,
        records: Sequence[PairRecord],
        gifts: Sequence[Gift],
        day: int,
    ) -> list[PairRecord | Gift]:
        """What is about these two accounts, and within what a pair may have."""
        known = self._ledger.ids(view, other)
        fold = self._ledger.fold(view, other)
        records = [record for record in records if not is_over(record, fold)]
        room = limits.CREDIT_ENTRIES_PER_PAIR_MAX - len(known)
        may_read = len(known) < limits.READER_RECEIPTS_MAX or not view.is_reader(other)
        mine, theirs = self._ledger.peers(view, other)
        leases = {record.record_id(): record for record in records if isinstance(record, Lease)}
        charges = {record.lease_record: record for record in records if isinstance(record, Charge)}
        fitting: list[PairRecord | Gift] = []
        for name, lease in leases.items():
            charge = charges.get(name)
            payer = payer_by_grant(lease)
            if payer is None and charge is not None:
                payer = charge.account
            keeper = self._ledger.me if lease.holder in mine else other if lease.holder in theirs else None
            if name in known or (payer in (self._ledger.me, other) and keeper not in (None, payer)):
                fitting.append(lease)
                if charge is not None:
                    fitting.append(charge)
        # Whose peer holds the lease may say that nothing is owed for it.
        held = {name for name, lease in leases.items() if lease.holder in theirs}
        fitting.extend(
            gift for gift in gifts if gift.lease_record in held or self._is_held(view, other, gift, theirs)
        )
        reader_of = dict.fromkeys(mine, other) | dict.fromkeys(theirs, self._ledger.me)
        for record in records:
            match record:
                case Release():
                    fits = self._fits_release(view, other, record, leases, theirs)
                case AuditReceipt():
                    fits = self._fits_audit(view, other, record, leases, day)
                case ServeReceipt():
                    fits = reader_of.get(record.donor) == record.reader and record.day <= day + 1
                    fits = fits and (may_read or record.reader != other)
                case PairState():
                    fits = record.period <= period_of(day) + 1
                case Clear():
                    fits = any({a, b} == {self._ledger.me, other} for a, b in record.debts())
                    fits = fits and record.record_id() not in known
                case _:
                    fits = False
            if fits:
                fitting.append(record)
        return fitting[: max(0, room)]

    def _is_held(self, view: LedgerView, other: AccountId, gift: Gift, theirs: frozenset[PeerId]) -> bool:
        entry = view.entry(other, gift.lease_record)
        record = None if entry is None else entry.record(self._ledger.store.network)
        return isinstance(record, Lease) and record.holder in theirs

    def _fits_release(
        self,
        view: LedgerView,
        other: AccountId,
        release: Release,
        news: dict[bytes, Lease],
        theirs: frozenset[PeerId],
    ) -> bool:
        """The release of a lease of this pair, by its signer; by the file's owner, if its holder says so.

        Whether somebody owns a file the holder alone has looked up, and it only loses by it.
        """
        leases = [e for e in news.values() if (e.lease_id, e.holder) == (release.lease_id, release.holder)]
        place = view.lease_place(release.lease_id, release.holder)
        entry = None if place is None or place[0] != other else view.entry(other, place[1])
        known = None if entry is None else entry.record(self._ledger.store.network)
        if isinstance(known, Lease):
            leases.append(known)
        return any(lease.owner_key == release.signer or lease.holder in theirs for lease in leases)

    def _fits_audit(
        self, view: LedgerView, other: AccountId, receipt: AuditReceipt, news: dict[bytes, Lease], day: int
    ) -> bool:
        """A pass or a failure of a lease of this pair, by its owner, its payer or whoever was due."""
        if receipt.outcome not in (Outcome.PASSED, Outcome.FAILED) or receipt.day > day + 1:
            return False
        own = {peer_id_of(self._ledger.me), peer_id_of(other)}
        for lease_id in receipt.lease_ids():
            place = view.lease_place(lease_id, receipt.donor)
            lease = next(
                (e for e in news.values() if (e.lease_id, e.holder) == (lease_id, receipt.donor)), None
            )
            if lease is None and place is not None and place[0] == other:
                entry = view.entry(other, place[1])
                found = None if entry is None else entry.record(self._ledger.store.network)
                lease = found if isinstance(found, Lease) else None
            if lease is None:
                continue
            if receipt.auditor in {*own, peer_id_of(lease.owner_key)} or self._ledger.is_assigned(
                receipt, lease
            ):
                return True
        return False
