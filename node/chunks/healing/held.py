"""What this holder knows of the segments it keeps, as repair wants it. Layer 4.

Invariant: every lease in a view was verified when it entered the roster or the store. Blocks on the disk;
services call it through `Offload`. Source: credit.md, "Repair".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from node import limits
from node.chunks import messages
from node.chunks.evidence import Evidence
from node.chunks.findings import SegmentEvidence
from node.chunks.geometry import Code
from node.chunks.healing.healer import Attachments, SegmentView, Survey
from node.chunks.healing.journal import HealingJournal
from node.chunks.healing.prober import Seen
from node.chunks.manifest import SegmentManifest
from node.chunks.repair import Copy, Standing, patience_s, standing, surplus
from node.chunks.roster import begun_leases, live_leases
from node.chunks.serve.keeping import Keeper
from node.chunks.serve.rosters import Rosters
from node.chunks.store.shard_store import AttachmentKind, ShardStore
from node.errors import CorruptBlockError
from node.ports import Clock
from node.records.lease import Lease
from node.records.repair import RepairGrant
from node.units import DAY_S, LeaseId, PeerId, SegmentId

PROBED_MAX: Final = 20_000
"""Leases whose own probes are remembered: 3 MB."""
SILENT_MAX: Final = 100_000
"""Leases of which is remembered since when their holder is silent: 15 MB; of others receipts say it."""
_KINDS: Final = (
    (messages.ATTACHED_PLACEMENT, AttachmentKind.PLACEMENT),
    (messages.ATTACHED_MANIFEST, AttachmentKind.FILE_MANIFEST),
    (messages.ATTACHED_BUNDLE, AttachmentKind.SEGMENT_MANIFESTS),
)


@dataclass(frozen=True, slots=True)
class Redundancy:
    """How well a segment would do without this holder."""

    own: frozenset[int]
    """Shards that are here under a lease of this holder's that lives."""
    surplus: frozenset[int]
    """Those that another holder was shown to have as well, so that this one's copy goes."""
    spare: int
    """Shards beyond `data_shards` whose holders are neither silent nor contradicted, this one among them."""


class HeldSegments:
    """Segments of this holder's store, with what audits and probes showed of them."""

    def __init__(
        self,
        *,
        store: ShardStore,
        keeper: Keeper,
        rosters: Rosters,
        evidence: Evidence,
        clock: Clock,
        network: str,
        dead_after_s: int,
        urgent_after_s: int,
        journal: HealingJournal,
        away_s: int,
        absent_since: Callable[[PeerId], int | None] = lambda peer_id: None,
    ) -> None:
        """`away_s` is how long this node was not running before its start; `absent_since` says since when it
        knows that a peer can't be reached, called on any thread. Reads rows of the state."""
        self.store = store
        self.keeper = keeper
        self.rosters = rosters
        self._evidence = evidence
        self._clock = clock
        self.network = network
        self._dead_after_s = dead_after_s
        self._urgent_after_s = urgent_after_s
        self._absent_since = absent_since
        self._started_s = clock.now_s()
        self._probed: OrderedDict[LeaseId, int] = OrderedDict()
        self._heard: OrderedDict[LeaseId, int] = OrderedDict()
        self._missed: OrderedDict[LeaseId, int] = OrderedDict()
        self._journal = journal
        self._silent_since_s = journal.silences(now_s=self._started_s, away_s=away_s)
        """Receipts say it too, but of each auditor the newest counts, and those who look daily sign daily.
        What is of an earlier run counts from the first time on that the holder is missed in this one."""
        self._unsaved: set[LeaseId] = set()

    def view(self, segment_id: SegmentId, *, whole: bool = True) -> SegmentView | None:
        """The segment; None where nothing of it is here, or its owner left no grant. `whole`: attachments."""
        encoded, record = self.store.segment_manifest(segment_id), self.store.grant(segment_id)
        if encoded is None or record is None:
            return None
        grant = RepairGrant.decode(record, network=self.network)
        attachments = self._attachments(segment_id) if whole else ()
        leases = self.rosters.known_leases(segment_id)
        return SegmentView(SegmentManifest.decode(encoded), grant, leases, attachments)

    def _attachments(self, segment_id: SegmentId) -> tuple[Attachments, ...]:
        found = []
        for file_hash in self.store.attached_files(segment_id):
            items = []
            for name, kind in _KINDS:
                try:
                    content = self.store.attachment(file_hash, kind)
                except CorruptBlockError:
                    continue  # what has rotted is as good as never set
                if content is not None:
                    items.append((name, content))
            found.append(Attachments(file_hash, tuple(items)))
        return tuple(found)

    def last_proof_s(self, segment_id: SegmentId, lease: Lease) -> int:
        """When a leased shard was last proved to this node, or could not yet have been."""
        return self._proved_s(lease, self._evidence.of_segment(segment_id))

    def note(self, survey: Survey) -> None:
        """Remember what this node saw itself."""
        now_s = self._clock.now_s()
        for lease, state in survey.seen.items():
            if state is Seen.UNKNOWN:
                _remember(self._heard, lease.lease_id, now_s)
            seen, other = self._probed, self._missed
            if state is not Seen.PROVED:
                seen, other = other, seen
            _remember(seen, lease.lease_id, now_s)
            if state is Seen.PROVED:
                other.pop(lease.lease_id, None)

    def heard(self, lease_ids: Iterable[LeaseId]) -> None:
        """Their holder has returned and says that it has them: no silence of before counts."""
        for lease_id in lease_ids:
            _remember(self._heard, lease_id, self._clock.now_s())

    def redundancy(self, segment_id: SegmentId) -> Redundancy:
        """By the evidence on every live lease. What can't be known does not count. Blocks on the disk."""
        encoded = self.store.segment_manifest(segment_id)
        if encoded is None:
            return Redundancy(frozenset(), frozenset(), -limits.TOTAL_SHARDS_MAX)
        code = SegmentManifest.decode(encoded).code
        copies = self._copies(segment_id, self.rosters.known_leases(segment_id))
        there = {
            copy.shard_index
            for copy in copies.values()
            if copy.silent_since_s is None and not copy.is_contradicted
        }
        view = self.view(segment_id, whole=False)
        pairs = [] if view is None else self.surplus(view)
        me = self.keeper.peer_id
        return Redundancy(
            own=frozenset(lease.shard_index for lease in copies if self.store_has(lease)),
            surplus=frozenset(going.shard_index for going, _ in pairs if going.holder == me),
            spare=len(there) - code.data_shards,
        )

    def copies(self, view: SegmentView) -> dict[Lease, Copy]:
        """The evidence on every live lease."""
        return self._copies(view.manifest.segment_id, view.leases)

    def patience_s(self, code: Code, copies: Iterable[Copy]) -> int:
        """How long a holder of the segment may be silent: less where much of it fell silent together."""
        return patience_s(
            code,
            copies,
            now_s=self._clock.now_s(),
            dead_after_s=self._dead_after_s,
            urgent_after_s=self._urgent_after_s,
        )

    def silent(self, segment_id: SegmentId, leases: Iterable[Lease]) -> list[Lease]:
        """Those leases whose holders are missed now. Blocks on the disk."""
        copies = self._copies(segment_id, leases)
        return [lease for lease, copy in copies.items() if copy.silent_since_s is not None]

    def unproved(self, segment_id: SegmentId, leases: Iterable[Lease]) -> set[LeaseId]:
        """Leases that nobody proved to this node for `dead_after_s`. Blocks on the disk."""
        now_s, evidence = self._clock.now_s(), self._evidence.of_segment(segment_id)
        return {
            lease.lease_id
            for lease in leases
            if now_s - self._proved_s(lease, evidence) >= self._dead_after_s
        }

    def lost(self, code: Code, segment_id: SegmentId, leases: Iterable[Lease]) -> set[LeaseId]:
        """Leases whose holder has been silent for as long as the segment allows. Blocks on the disk."""
        now_s, copies = self._clock.now_s(), self._copies(segment_id, leases)
        allowed_s = self.patience_s(code, copies.values())
        return {
            lease.lease_id
            for lease, copy in copies.items()
            if standing(copy, now_s=now_s, dead_after_s=allowed_s) is Standing.LOST
        }

    def _copies(self, segment_id: SegmentId, leases: Iterable[Lease]) -> dict[Lease, Copy]:
        evidence = self._evidence.of_segment(segment_id)
        today = self._clock.now_s() // DAY_S
        found = {}
        for lease in begun_leases(leases, today=today):
            known = evidence.leases.get(lease.lease_id)
            found[lease] = (
                Copy(lease.shard_index, lease.holder)
                if self.store_has(lease)
                else Copy(
                    lease.shard_index,
                    lease.holder,
                    silent_since_s=self._silence(lease, evidence),
                    is_contradicted=known is not None and known.is_lost,
                )
            )
        return found

    def _silence(self, lease: Lease, evidence: SegmentEvidence) -> int | None:
        """Since when its holder is silent; None if nobody has missed it since the last sign of it.

        It must have been missed since this node started: it can't know who has returned meanwhile. Who is
        missed again, and has not been seen since, was silent all along.
        """
        lease_id, known = lease.lease_id, evidence.leases.get(lease.lease_id)
        seen_s = max(self._seen_s(lease, evidence), self._heard.get(lease_id, 0))
        since_s = self._silent_since_s.get(lease_id)
        if since_s is not None and since_s <= seen_s:
            del self._silent_since_s[lease_id]
            self._unsaved.add(lease_id)
            since_s = None
        there_s = max(self._started_s - 1, seen_s)
        absent_s = self._absent_since(lease.holder)
        if absent_s is not None and absent_s <= seen_s:
            absent_s = None
        missed = [each.time_s for each in known.no_answers] if known is not None else []
        missed = [time_s for time_s in (*missed, self._missed.get(lease_id, 0)) if time_s > there_s]
        if not missed:
            return absent_s
        first_s = min(missed) if since_s is None else min(since_s, *missed)
        if first_s != since_s and (since_s is not None or len(self._silent_since_s) < SILENT_MAX):
            self._silent_since_s[lease_id] = first_s
            self._unsaved.add(lease_id)
        return first_s if absent_s is None else min(first_s, absent_s)

    def save(self) -> None:
        """Write down what has changed of who is silent. Blocks on the disk. Raises `StoreError`."""
        changed, self._unsaved = self._unsaved, set()
        since_s = {
            lease_id: self._silent_since_s[lease_id]
            for lease_id in changed
            if lease_id in self._silent_since_s
        }
        if changed:
            self._journal.note_silences(since_s, changed - since_s.keys())

    def was_away(self, away_s: int) -> None:
        """This node did nothing for so long, and could hear of nobody: that is no silence of others. Blocks
        on the disk. Raises `StoreError`."""
        self.save()
        self._started_s = self._clock.now_s()
        self._silent_since_s = self._journal.silences(now_s=self._started_s, away_s=away_s)

    def surplus(self, view: SegmentView) -> list[tuple[Lease, Lease]]:
        """Copies that go, each with the one that stays: one of the two is this node's.

        Only among holders that were proved to have theirs, that nobody has asked yet, or that are back after
        they were missed: a small shard is sampled once a month, so the next proof may be far. Whoever lets go
        looks for itself first. Blocks on the disk.
        """
        evidence = self._evidence.of_segment(view.manifest.segment_id)
        now_s = self._clock.now_s()
        kept = self.own_leases(view.manifest.segment_id)
        found: list[tuple[Lease, Lease]] = []
        by_shard: dict[int, list[Lease]] = {}

        def is_news(lease: Lease) -> bool:
            """Nobody has audited it yet, and this node has not looked in vain."""
            return lease.lease_id not in evidence.leases and lease.lease_id not in self._missed

        def was_seen(lease: Lease) -> bool:
            """Lately, and its holder is not missed: an urgent repair may have had no more patience."""
            lately = now_s - self._seen_s(lease, evidence) < self._dead_after_s
            return lately and self._silence(lease, evidence) is None

        def is_there(lease: Lease) -> bool:
            known = evidence.leases.get(lease.lease_id)
            is_lost = known is not None and known.is_lost
            return not is_lost and self._silence(lease, evidence) is None

        def may_be_back(lease: Lease) -> bool:
            """Nobody has missed it for so long that this node looks again before it gives its own up."""
            known = evidence.leases.get(lease.lease_id)
            missed = [] if known is None else [each.time_s for each in known.no_answers]
            last_s = max([*missed, self._missed.get(lease.lease_id, 0)])
            return (known is None or not known.is_lost) and 0 < last_s <= now_s - self._dead_after_s

        for lease in begun_leases(view.leases, today=now_s // DAY_S):
            by_shard.setdefault(lease.shard_index, []).append(lease)
        for shard_index, leases in by_shard.items():
            for mine in leases:
                if len(leases) < 2 or mine.lease_id not in kept:
                    continue
                others = {
                    lease.holder: lease
                    for lease in leases
                    if lease.holder != mine.holder
                    and lease.owner_key == mine.owner_key
                    and (was_seen(lease) or is_news(lease) or is_there(lease) or may_be_back(lease))
                }
                copies = {mine.holder: mine, **others}
                going = surplus(shard_index, list(copies))
                (stays,) = copies.keys() - set(going)
                found += [
                    (copies[holder], copies[stays])
                    for holder in going
                    if mine.holder == holder or (mine.holder == stays and not may_be_back(copies[holder]))
                ]
        return found

    def left_behind(self, view: SegmentView) -> dict[Lease, list[Lease]]:
        """Shards that are here though rosters count this node's leases of them no more, by the one that ends
        last, each with the leases of others that may have it. Blocks on the disk.

        It signed the shard over, and nobody answered when it was to let go; or later leases of the owner's,
        or under its grant, have pushed this one out of the roster. What somebody else pays for waits for its
        end: any key could push that out.
        """
        me, segment_id, today = self.keeper.peer_id, view.manifest.segment_id, self._clock.now_s() // DAY_S
        kept = self.own_leases(segment_id)
        counted = {
            lease.shard_index for lease in live_leases(view.leases, today=today) if lease.lease_id in kept
        }
        known = {lease.lease_id for lease in view.leases}
        mine: dict[int, Lease] = {}
        for lease in kept.values():
            is_owners = lease.owner_key == view.manifest.owner_key
            if lease.shard_index in counted or not (is_owners or lease.lease_id in known):
                continue
            other = mine.get(lease.shard_index)
            if lease.end_day > today and (other is None or lease.end_day > other.end_day):
                mine[lease.shard_index] = lease
        # No handover may name a lease of later; and this node's own that it no longer has are no copies.
        begun = [lease for lease in begun_leases(view.leases, today=today) if lease.holder != me]
        return {
            lease: [
                each
                for each in begun
                if each.shard_index == lease.shard_index and each.owner_key == lease.owner_key
            ]
            for lease in mine.values()
        }

    def own_leases(self, segment_id: SegmentId) -> dict[LeaseId, Lease]:
        """This node's leases of the shards of a segment that are here, whether rosters know them or not.
        Blocks on the disk."""
        return {
            held.lease.lease_id: Lease.decode(held.lease.data, network=self.network)
            for held in self.store.leases(segment_id)
            if self.store.has_shard(segment_id, held.shard_index)
        }

    def store_has(self, lease: Lease) -> bool:
        """Whether the lease is this node's own and its shard is here."""
        return lease.holder == self.keeper.peer_id and self.store.has_shard(
            lease.segment_id, lease.shard_index
        )

    def lost_after(
        self, copies: Mapping[Lease, Copy], survey: Survey, code: Code, *, patiently: bool = True
    ) -> tuple[dict[int, Lease], int]:
        """Shards to be remade with the lease that each replaces, and how many are gone in all.

        A shard is gone if this node found no copy of it, and none is silent for too short a time to tell; not
        `patiently`, where a person asks for it: or if nobody has proved it for that time. Blocks on the disk.
        """
        now_s, allowed_s = self._clock.now_s(), self.patience_s(code, copies.values())
        kept = set(survey.proved_shards())
        candidates: dict[int, Lease] = {}
        for lease, state in survey.seen.items():
            copy = copies.get(lease)
            may_return = (
                copy is not None
                and standing(copy, now_s=now_s, dead_after_s=allowed_s) is not Standing.LOST
                and (patiently or now_s - self.last_proof_s(lease.segment_id, lease) < self._dead_after_s)
            )
            if state is Seen.UNKNOWN or (state is Seen.SILENT and may_return):
                kept.add(lease.shard_index)
            elif state is not Seen.PROVED:
                known = candidates.get(lease.shard_index)
                if known is None or lease.end_day > known.end_day:
                    candidates[lease.shard_index] = lease
        lost = {index: lease for index, lease in candidates.items() if index not in kept}
        return lost, code.total_shards - len(kept)

    def _proved_s(self, lease: Lease, evidence: SegmentEvidence) -> int:
        seen_s = max(self._seen_s(lease, evidence), self._heard.get(lease.lease_id, 0))
        silent_s = self._silent_since_s.get(lease.lease_id)
        if silent_s is not None and silent_s > seen_s:
            return silent_s  # missed then, perhaps before a restart, and not seen since
        return max(self._unproved_since_s(lease), seen_s)

    def _seen_s(self, lease: Lease, evidence: SegmentEvidence) -> int:
        """When somebody last had it proved; 0 for never."""
        known = evidence.leases.get(lease.lease_id)
        proved = None if known is None or known.is_lost else known.proved
        return max(self._probed.get(lease.lease_id, 0), 0 if proved is None else proved.time_s)

    def _unproved_since_s(self, lease: Lease) -> int:
        """From when on a proof could have come: a lease says its day, and nobody hears when it was made."""
        day_end_s = (lease.start_day + 1) * DAY_S
        first_s = day_end_s if self._dead_after_s >= DAY_S else 0
        return min(max(self._started_s, first_s), self._clock.now_s())


def _remember(times: OrderedDict[LeaseId, int], lease_id: LeaseId, now_s: int) -> None:
    times[lease_id] = now_s
    times.move_to_end(lease_id)
    if len(times) > PROBED_MAX:
        times.popitem(last=False)


def holders_of(leases: Iterable[Lease]) -> dict[bytes, set[int]]:
    """Shards by holder."""
    held: dict[bytes, set[int]] = {}
    for lease in leases:
        held.setdefault(lease.holder, set()).add(lease.shard_index)
    return held
