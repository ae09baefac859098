"""Who keeps what: rosters of leases, and the owner's placement of a whole file. Layer 2, pure.

A roster is the set of valid leases known of one segment. It merges by union, so the order of news does not
matter; it is bounded by keeping, of each shard, the leases that end last, of those that the segment's owner
signed, of those under its grant and of those that somebody else pays for separately, so that none evicts
another. A placement is the owner's signed table of holders for all segments that fit in 256 KiB: one live
holder of segment 0 is enough to find the holders of every segment of an ordinary file. Both are hints where
to ask; only proofs count (design.md, section 8, invariant 6).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Self

from node import limits, wire
from node.chunks.manifest import SegmentManifest
from node.crypto.hashing import blake3_256
from node.crypto.signing import KeyPair
from node.errors import CryptoError, ProtocolError
from node.records.base import Record, expect_peer_id
from node.records.lease import Lease
from node.records.repair import Handover, RepairGrant
from node.units import DAY_S, Contact, FileHash, LeaseId, Multiaddr, OwnerKey, PeerId, SegmentId
from node.wire import Value

ANNOUNCERS: Final = 5
"""Holders of a segment that announce it (design.md, section 5)."""
WEEK_S: Final = 7 * DAY_S
_NOBODY = 0xFFFF
_ENTRY_BYTES = 2


def check_lease(lease: Lease, manifest: SegmentManifest) -> None:
    """Accept a lease into the roster of the segment with this manifest.

    Raises:
        ProtocolError: it is about another segment, shard, root or length.
        CryptoError: a signature does not hold.
    """
    if lease.segment_id != manifest.segment_id or lease.shard_index >= manifest.code.total_shards:
        raise ProtocolError("a lease of another segment")
    if lease.root != manifest.root(lease.shard_index) or lease.byte_count != manifest.geometry.shard_bytes:
        raise ProtocolError("a lease of another shard than the manifest describes")
    if lease.is_granted and lease.owner_key != manifest.owner_key:
        raise ProtocolError("a lease under the grant of another owner than the segment's")
    lease.verify()


def check_grant_of(grant: RepairGrant, manifest: SegmentManifest) -> None:
    """Accept an owner's repair grant for the segment with this manifest.

    Raises:
        ProtocolError: it is for another segment, owner or code.
        CryptoError: a signature does not hold.
    """
    if (grant.segment_id, grant.owner_key) != (manifest.segment_id, manifest.owner_key):
        raise ProtocolError("a repair grant of another segment or owner")
    if (grant.data_shards, grant.total_shards) != (manifest.code.data_shards, manifest.code.total_shards):
        raise ProtocolError("a repair grant for another code")
    grant.verify()


def merge_leases(leases: Iterable[Lease], owner_key: OwnerKey) -> tuple[Lease, ...]:
    """The union, each lease once, of each shard those that end last: at most `ROSTER_SIGNED_PER_SHARD_MAX`
    signed by the segment's owner, whose key is `owner_key`, `ROSTER_GRANTED_PER_SHARD_MAX` under its grant,
    and `ROSTER_FURTHER_PER_SHARD_MAX` signed by any other key.

    Of several records of one lease that with the latest handover counts. The result depends on the set alone:
    it is the same for any order and grouping.
    """
    by_id: dict[LeaseId, Lease] = {}
    for lease in leases:
        known = by_id.get(lease.lease_id)
        if known is None or _version(lease) > _version(known):
            by_id[lease.lease_id] = lease
    by_shard: dict[int, list[Lease]] = {}
    for lease in by_id.values():
        by_shard.setdefault(lease.shard_index, []).append(lease)
    kept: list[Lease] = []
    for shard_index in sorted(by_shard):
        ranked = sorted(by_shard[shard_index], key=_rank)
        granted = [lease for lease in ranked if lease.is_granted]
        signed = [lease for lease in ranked if not lease.is_granted and lease.owner_key == owner_key]
        further = [lease for lease in ranked if not lease.is_granted and lease.owner_key != owner_key]
        kept.extend(signed[: limits.ROSTER_SIGNED_PER_SHARD_MAX])
        kept.extend(granted[: limits.ROSTER_GRANTED_PER_SHARD_MAX])
        kept.extend(further[: limits.ROSTER_FURTHER_PER_SHARD_MAX])
    return tuple(kept)


def live_leases(leases: Iterable[Lease], *, today: int) -> tuple[Lease, ...]:
    """Those that have not ended, and that their holder has not given up in favour of another one's."""
    known = tuple(leases)
    given_up: dict[tuple[int, PeerId], list[tuple[Handover, int]]] = {}
    for lease in known:
        half = lease.half
        if half is not None and half.handover is not None:
            key = (half.handover.shard_index, half.handover.holder)
            given_up.setdefault(key, []).append((half.handover, lease.generation))

    def is_given_up(lease: Lease) -> bool:
        """By its name, or as a sister of the one named: whoever gives a shard up keeps no lease of it."""
        return any(
            handover.lease_id == lease.lease_id
            or (lease.start_day <= handover.day and lease.generation < generation)
            for handover, generation in given_up.get((lease.shard_index, lease.holder), ())
        )

    return tuple(lease for lease in known if lease.end_day > today and not is_given_up(lease))


def begun_leases(leases: Iterable[Lease], *, today: int) -> tuple[Lease, ...]:
    """Those that live and have begun: a renewal begins when its forerunner ends, and nobody audits it before.

    One of tomorrow is among them, as clocks may differ by a day; and, where a holder's present lease of a
    shard is not known, the first of those that are.
    """
    live = live_leases(leases, today=today)
    first: dict[tuple[int, PeerId], int] = {}
    for lease in live:
        key = (lease.shard_index, lease.holder)
        first[key] = min(lease.start_day, first.get(key, lease.start_day))
    return tuple(
        lease for lease in live if lease.start_day <= max(today + 1, first[lease.shard_index, lease.holder])
    )


def newest_holders(leases: Iterable[Lease], *, today: int) -> set[PeerId]:
    """Holders of each shard's latest live lease: those that a repair replaced are not among them."""
    newest: dict[int, Lease] = {}
    for lease in live_leases(leases, today=today):
        known = newest.get(lease.shard_index)
        if known is None or _rank(lease) < _rank(known):
            newest[lease.shard_index] = lease
    return {lease.holder for lease in newest.values()}


def announcers(segment_id: SegmentId, holders: Iterable[PeerId], *, now_s: int) -> list[PeerId]:
    """Holders in the order of H(segment id, week, holder): the first `ANNOUNCERS` announce the segment."""
    week = (now_s // WEEK_S).to_bytes(4, "big")
    return sorted(set(holders), key=lambda holder: blake3_256(segment_id + week + holder))


def _version(lease: Lease) -> tuple[int, bytes]:
    """Of two records of one lease the greater counts: the later handover, else that with the larger bytes."""
    half = lease.half
    return (-1 if half is None or half.handover is None else half.handover.day), lease.encode()


def _rank(lease: Lease) -> tuple[int, int, LeaseId]:
    return -lease.end_day, -lease.generation, lease.lease_id


@dataclass(frozen=True, slots=True)
class Placement(Record):
    """Holders of the first `segment_count` segments of a file, as its owner knows them."""

    TYPE: ClassVar[str] = "placement"
    BYTES_MAX: ClassVar[int] = limits.PLACEMENT_BYTES_MAX
    FIELD_COUNT: ClassVar[int] = 6
    SIGNATURE_COUNT: ClassVar[int] = 1

    network: str
    file_hash: FileHash
    owner_key: OwnerKey
    sequence: int
    """Of two placements of a file the one with the larger sequence counts."""
    total_shards: int
    holders: tuple[Contact, ...]
    table: bytes
    """Two bytes for each shard of each segment: index into `holders`, 0xFFFF for none."""
    signature: bytes = b""

    @classmethod
    def make(
        cls,
        *,
        network: str,
        file_hash: FileHash,
        owner: KeyPair,
        sequence: int,
        total_shards: int,
        contacts: Mapping[PeerId, Sequence[Multiaddr]],
        segments: Iterable[Mapping[int, PeerId]],
    ) -> Placement:
        """The signed placement of as many of `segments` (shard index to holder), first ones first, as fit.

        `contacts` gives the holders' addresses, best first.
        """
        builder = _Builder(total_shards, contacts)
        for segment in segments:
            if not builder.add(segment):
                break
        unsigned = cls(
            network, file_hash, OwnerKey(owner.public), sequence, total_shards, tuple(builder.holders),
            bytes(builder.table),
        )  # fmt: skip
        return replace(unsigned, signature=unsigned.sign_body(owner))

    @property
    def segment_count(self) -> int:
        """How many segments the table covers."""
        return len(self.table) // (_ENTRY_BYTES * self.total_shards)

    def holders_of(self, segment_index: int) -> Iterator[tuple[int, Contact]]:
        """(shard index, holder) of a segment; nothing for one that the table does not cover."""
        if not 0 <= segment_index < self.segment_count:
            return
        row = segment_index * self.total_shards * _ENTRY_BYTES
        for shard_index in range(self.total_shards):
            start = row + shard_index * _ENTRY_BYTES
            holder = int.from_bytes(self.table[start : start + _ENTRY_BYTES], "big")
            if holder != _NOBODY:
                yield shard_index, self.holders[holder]

    def verify(self) -> None:
        """Raises `CryptoError` unless the owner's signature holds."""
        self.verify_body(self.owner_key, self.signature)

    def check_file(self, file_hash: FileHash, owner_key: OwnerKey) -> None:
        """Accept it for this file only. Raises `CryptoError`."""
        if self.file_hash != file_hash or self.owner_key != owner_key:
            raise CryptoError("a placement of another file")
        self.verify()

    def _fields(self) -> list[Value]:
        return [
            self.file_hash, self.owner_key, self.sequence, self.total_shards,
            [[holder.peer_id, list(holder.addresses)] for holder in self.holders], self.table,
        ]  # fmt: skip

    def _signatures(self) -> Sequence[bytes]:
        return (self.signature,)

    @classmethod
    def _from_fields(cls, network: str, fields: Sequence[Value], signatures: Sequence[bytes]) -> Self:
        holders = tuple(
            _contact(item) for item in wire.expect_list(fields[4], count_max=limits.PLACEMENT_HOLDERS_MAX)
        )
        total_shards = wire.expect_int(fields[3], low=1, high=limits.TOTAL_SHARDS_MAX)
        table = wire.expect_bytes(fields[5], size_max=limits.PLACEMENT_BYTES_MAX)
        if len(table) % (_ENTRY_BYTES * total_shards):
            raise ProtocolError("a placement with half a segment")
        for start in range(0, len(table), _ENTRY_BYTES):
            holder = int.from_bytes(table[start : start + _ENTRY_BYTES], "big")
            if holder != _NOBODY and holder >= len(holders):
                raise ProtocolError("a placement that names a holder it does not list")
        return cls(
            network=network,
            file_hash=FileHash(wire.expect_bytes(fields[0], size=32)),
            owner_key=OwnerKey(wire.expect_bytes(fields[1], size=32)),
            sequence=wire.expect_int(fields[2], low=0, high=2**53),
            total_shards=total_shards,
            holders=holders,
            table=table,
            signature=signatures[0],
        )


class _Builder:
    """Grows a placement's table while it fits."""

    def __init__(self, total_shards: int, contacts: Mapping[PeerId, Sequence[Multiaddr]]) -> None:
        self.holders: list[Contact] = []
        self.table = bytearray()
        self._total_shards = total_shards
        self._contacts = contacts
        self._indexes: dict[PeerId, int] = {}
        self._bytes = 512  # the other fields and the signature

    def add(self, segment: Mapping[int, PeerId]) -> bool:
        """Whether one more segment fitted."""
        new = [
            Contact(peer, tuple(self._contacts.get(peer, ()))[: limits.PLACEMENT_ADDRESSES_MAX])
            for peer in dict.fromkeys(segment.values())
            if peer not in self._indexes
        ]
        row_bytes = self._total_shards * _ENTRY_BYTES
        cost = row_bytes + sum(len(wire.encode(_contact_value(contact))) for contact in new)
        if (
            self._bytes + cost > limits.PLACEMENT_BYTES_MAX
            or len(self.holders) + len(new) > limits.PLACEMENT_HOLDERS_MAX
        ):
            return False
        self._bytes += cost
        for contact in new:
            self._indexes[contact.peer_id] = len(self.holders)
            self.holders.append(contact)
        for shard_index in range(self._total_shards):
            holder = segment.get(shard_index)
            entry = _NOBODY if holder is None else self._indexes[holder]
            self.table += entry.to_bytes(_ENTRY_BYTES, "big")
        return True


def _contact_value(contact: Contact) -> Value:
    return [contact.peer_id, list(contact.addresses)]


def _contact(value: Value) -> Contact:
    peer_id, addresses = wire.expect_list(value, count=2)
    return Contact(
        expect_peer_id(peer_id),
        tuple(
            Multiaddr(wire.expect_str(address, bytes_max=limits.ADDRESS_BYTES_MAX))
            for address in wire.expect_list(addresses, count_max=limits.PLACEMENT_ADDRESSES_MAX)
        ),
    )
