"""What there is to audit in a round: from the shards kept here, and from this account's own files. Layer 4.

Invariants: the plan is made off the loop, a page at a time, and bounded: beyond `AUDIT_PLAN_LEASES_MAX`
leases a round begins at another segment each time, so that all have their turn. The owner's node plans for
its files by the leases in its catalogue. Source: credit.md, "Audits".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from node import limits
from node.chunks.audits.duties import Duty, co_holder_duty, owner_duty
from node.chunks.audits.server import current_holders
from node.chunks.audits.session import AuditItem, Auditor
from node.chunks.catalogue import Catalogue, CatalogueEntry
from node.chunks.geometry import Code, FileGeometry, SegmentGeometry
from node.chunks.manifest import SegmentManifest
from node.chunks.roster import merge_leases
from node.chunks.serve.incoming import RefusalError
from node.chunks.serve.rosters import Rosters
from node.chunks.store.shard_store import ShardStore
from node.crypto.hashing import blake3_256
from node.crypto.sealing import owner_key
from node.crypto.signing import KeyPair
from node.errors import NotFoundError
from node.records.lease import Lease
from node.units import DAY_S, FileHash, LeaseId, OwnerKey, PeerId, SegmentId

_PAGE_SEGMENTS: Final = 64


@dataclass(slots=True)
class PairWork:
    """What one auditor has to do about one donor in a round."""

    donor: PeerId
    file_hash: FileHash | None = None
    """The file that is audited as its owner; None for a co-holder's work."""
    sample: dict[LeaseId, tuple[SegmentId, int]] = field(default_factory=dict)
    """Leases to sample, with segment and (of a file) segment index."""
    watch: dict[LeaseId, tuple[SegmentId, int]] = field(default_factory=dict)
    """Leases whose donor is only to be reachable."""

    is_told: bool = False
    """Somebody else got no answer: see for oneself whether the donor is there, and audit nothing."""
    is_return: bool = False
    """Only see whether a donor that was away has returned."""

    @property
    def count(self) -> int:
        """Leases in all."""
        return len(self.sample) + len(self.watch)

    def all(self) -> dict[LeaseId, tuple[SegmentId, int]]:
        """Both."""
        return {**self.watch, **self.sample}


class WorkPlanner:
    """Plans a round, and loads what a pair's work needs. Blocks on the disk: call it through `Offload`."""

    def __init__(
        self,
        *,
        store: ShardStore,
        rosters: Rosters,
        catalogue: Catalogue,
        identity: KeyPair,
        me: PeerId,
        account_seed: bytes,
        interval_s: int,
        is_away: Callable[[PeerId], bool] = lambda peer_id: False,
    ) -> None:
        """`is_away` says who gave no answer when last asked; called on any thread."""
        self._is_away = is_away
        self._store = store
        self._rosters = rosters
        self._catalogue = catalogue
        self._identity = identity
        self._me = me
        self._account_seed = account_seed
        self._interval_s = interval_s

    def auditor(self, work: PairWork) -> Auditor | None:
        """In whose name; None where the file is gone."""
        if work.file_hash is None:
            return Auditor(self._identity)
        owner = self._owner(work.file_hash)
        return None if owner is None else Auditor(owner, is_owner=True)

    def _owner(self, file_hash: FileHash) -> KeyPair | None:
        """The owner key of a file of this node's; None where the file is gone."""
        entry = self._catalogue.get(file_hash)
        return None if entry is None else owner_key(self._account_seed, entry.owner_salt)

    # --- planning ---------------------------------------------------------------------------------------

    def plan(self, round_number: int, now_s: int) -> list[PairWork]:
        """All work of a round."""
        pairs: dict[tuple[PeerId, FileHash | None], PairWork] = {}
        left = limits.AUDIT_PLAN_LEASES_MAX

        def add(lease: Lease, duty: Duty, file_hash: FileHash | None, index: int) -> None:
            nonlocal left
            if duty is Duty.NONE or not left or lease.holder == self._me:
                return
            left -= 1
            work = pairs.setdefault((lease.holder, file_hash), PairWork(lease.holder, file_hash))
            leases = work.sample if duty is Duty.SAMPLE else work.watch
            leases[lease.lease_id] = (lease.segment_id, index)

        self._plan_files(round_number, now_s, add)
        self._plan_segments(round_number, now_s, add, lambda: left > 0)
        return list(pairs.values())

    def _plan_segments(self, round_number: int, now_s: int, add: _Add, has_room: Callable[[], bool]) -> None:
        first = blake3_256(self._me + round_number.to_bytes(8, "big"))
        for segment_id in self._turned(first):
            if not has_room():
                return
            roster = self._rosters.known_leases(segment_id)
            holders = current_holders(roster, now_s)
            for lease in current(roster, now_s):
                duty = co_holder_duty(
                    self._me,
                    lease,
                    holders,
                    round_number=round_number,
                    interval_s=self._interval_s,
                    is_away=self._is_away,
                )
                add(lease, duty, None, 0)

    def watch_for(self, donor: PeerId, segment_ids: Sequence[SegmentId], now_s: int) -> PairWork:
        """A donor's leases in some segments, to see whether it is there."""
        work = PairWork(donor)
        for segment_id in segment_ids:
            for lease in current(self._rosters.known_leases(segment_id), now_s):
                if lease.holder == donor and len(work.watch) < limits.AUDIT_SAMPLES_MAX:
                    work.watch[lease.lease_id] = (segment_id, 0)
        return work

    def _turned(self, first: bytes) -> Iterable[SegmentId]:
        """Every segment held, from a place in the order on and round to it."""
        start = first
        wrapped = False
        while True:
            page = self._store.segments(start, limit=_PAGE_SEGMENTS)
            for segment_id in page:
                if wrapped and segment_id >= first:
                    return
                yield segment_id
            if len(page) == _PAGE_SEGMENTS:
                start = page[-1] + b"\0"
            elif wrapped:
                return
            else:
                start, wrapped = b"", True

    def _plan_files(self, round_number: int, now_s: int, add: _Add) -> None:
        for entry in self._entries():
            for segment in self._catalogue.segments(entry.file_hash):
                holders = current_holders(segment.leases, now_s)
                for lease in current(segment.leases, now_s):
                    duty = owner_duty(lease, holders, round_number=round_number)
                    add(lease, duty, entry.file_hash, segment.segment_index)

    def _entries(self) -> list[CatalogueEntry]:
        """My files, and the indexes of large folders among them."""
        files = list(self._catalogue.files())
        indexes = [self._catalogue.get(entry.index_hash) for entry in files if entry.index_hash is not None]
        return [*files, *(entry for entry in indexes if entry is not None)]

    # --- loading ----------------------------------------------------------------------------------------

    def load(self, work: PairWork, wanted: Iterable[LeaseId], now_s: int) -> list[AuditItem]:
        """Leases of a pair's work that still live, with their geometry, ascending by id."""
        by_segment: dict[tuple[SegmentId, int], set[LeaseId]] = {}
        places = work.all()
        for lease_id in wanted:
            by_segment.setdefault(places[lease_id], set()).add(lease_id)
        items: list[AuditItem] = []
        for (segment_id, index), lease_ids in by_segment.items():
            geometry = self.geometry(work, segment_id, index)
            if geometry is None:
                continue
            for lease in current(self.roster(work, segment_id), now_s):
                if lease.lease_id in lease_ids and lease.byte_count == geometry.shard_bytes:
                    items.append(AuditItem(lease, geometry))
        return sorted(items, key=lambda item: item.lease.lease_id)

    def geometry(self, work: PairWork, segment_id: SegmentId, index: int) -> SegmentGeometry | None:
        """The geometry of a segment of the work."""
        if work.file_hash is None:
            encoded = self._store.segment_manifest(segment_id)
            return None if encoded is None else SegmentManifest.decode(encoded).geometry
        entry = self._catalogue.get(work.file_hash)
        if entry is None:
            return None
        code = Code(entry.data_shards, entry.total_shards)
        return FileGeometry.of(entry.size_bytes, code).segment(index)

    def roster(self, work: PairWork, segment_id: SegmentId) -> tuple[Lease, ...]:
        """All leases known of a segment."""
        if work.file_hash is None:
            return self._rosters.known_leases(segment_id)
        index = next((index for each, index in work.all().values() if each == segment_id), None)
        segment = None if index is None else self._catalogue.segment(work.file_hash, index)
        owner = self._owner(work.file_hash)
        if owner is None or segment is None or segment.segment_id != segment_id:
            return ()
        return merge_leases(segment.leases, OwnerKey(owner.public))

    def learn(self, work: PairWork, segment_id: SegmentId, news: Sequence[Lease]) -> None:
        """Take verified leases into what is known of a segment, if it is still here."""
        if work.file_hash is None:
            with suppress(RefusalError, NotFoundError):  # its last shard has left this node meanwhile
                self._rosters.learn_leases(segment_id, news)
            return
        index = next(index for each, index in work.all().values() if each == segment_id)
        owner = self._owner(work.file_hash)
        if owner is not None:
            self._catalogue.learn_leases(work.file_hash, index, news, OwnerKey(owner.public))


_Add = Callable[[Lease, Duty, FileHash | None, int], None]


def current(leases: Iterable[Lease], now_s: int) -> list[Lease]:
    """Leases that bind today."""
    today = now_s // DAY_S
    return [lease for lease in leases if lease.start_day <= today + 1 and lease.end_day > today]
