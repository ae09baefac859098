"""Whom this node knows: buckets of verified contacts by distance, with replacements. Layer 2, pure.

Invariants: only a peer that answered this node enters, as an entry or as a replacement; a bucket holds at
most `DHT_BUCKET_CONTACTS` entries and as many replacements; an entry that answers is never displaced
(long-lived peers stay longest, and a flood of newcomers changes nothing); no more than
`DHT_SUBNET_BUCKET_MAX` entries of a bucket and `DHT_SUBNET_TABLE_MAX` of the table share a subnet. Source:
Kademlia (2002), sections 2.2 and 4.1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from node import limits
from node.dht.distance import KEY_BITS, Prefix, common_prefix_bits, key_of, nearest
from node.units import Contact, PeerId

RETRY_S = 60.0
RETRY_DOUBLINGS_MAX = 6


@dataclass(slots=True)
class Entry:
    """A verified contact. Times are of the caller's monotonic clock."""

    contact: Contact
    key: int
    subnet: str | None
    """Group for the diversity rules; None is exempt."""
    seen_s: float
    """When it last answered."""
    failures: int = 0
    """Requests in a row that it did not answer."""
    tried_s: float = 0.0
    """When it last failed to answer."""

    @property
    def is_failing(self) -> bool:
        """One lost request is bad luck; a second makes the peer unfit to be passed on."""
        return self.failures >= limits.DHT_CONTACT_FAILURES_PASSED_ON


@dataclass(slots=True)
class _Bucket:
    entries: dict[PeerId, Entry] = field(default_factory=dict)
    replacements: dict[PeerId, Entry] = field(default_factory=dict)  # the longest unseen first
    refreshed_s: float = float("-inf")


class RoutingTable:
    """Bucket `i` holds the peers whose key shares exactly `i` leading bits with this node's."""

    def __init__(self, own_key: int) -> None:
        self.own_key = own_key
        self._buckets: dict[int, _Bucket] = {}
        self._subnets: Counter[str] = Counter()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, peer_id: object) -> bool:
        return isinstance(peer_id, bytes) and self.entry(PeerId(peer_id)) is not None

    @property
    def replacement_count(self) -> int:
        """Verified contacts that wait for a place."""
        return sum(len(bucket.replacements) for bucket in self._buckets.values())

    def entries(self) -> Iterator[tuple[int, Entry]]:
        """(bucket index, entry) of all, farthest bucket first."""
        for index in sorted(self._buckets):
            for entry in self._buckets[index].entries.values():
                yield index, entry

    def entry(self, peer_id: PeerId) -> Entry | None:
        """The entry of a peer, if it has one."""
        bucket = self._buckets.get(self._index(key_of(peer_id)))
        return bucket.entries.get(peer_id) if bucket else None

    def nearest(self, target: int, count: int, *, with_failing: bool = False) -> list[Contact]:
        """The `count` known contacts nearest to `target`, nearest first.

        Walks the buckets in order of distance: the target's own, then all nearer to this node (they are
        equally far from the target's bucket), then the others outwards.
        """
        found: list[Entry] = []
        index = self._index(target)
        nearer = [i for i in self._buckets if i > index]
        outwards = [[i] for i in sorted((i for i in self._buckets if i < index), reverse=True)]
        for group in [[index], nearer, *outwards]:
            usable = [
                entry
                for i in group
                if i in self._buckets
                for entry in self._buckets[i].entries.values()
                if with_failing or not entry.is_failing
            ]
            found += nearest(usable, target, count - len(found), key=lambda entry: entry.key)
            if len(found) >= count:
                break
        return [entry.contact for entry in found]

    def answered(self, contact: Contact, *, subnet: str | None, now_s: float) -> bool:
        """A peer answered a request that this node sent to it; whether it is in the table now.

        A peer that finds no place, because its bucket is full or its subnet has its share, waits as a
        replacement. A newcomer takes the place of an entry that no longer answers.
        """
        key = key_of(contact.peer_id)
        if key == self.own_key:
            return False
        bucket = self._buckets.setdefault(self._index(key), _Bucket())
        known = bucket.entries.get(contact.peer_id)
        if known is not None:
            if contact.addresses:
                known.contact = contact
            known.seen_s, known.failures = now_s, 0
            return True
        entry = Entry(contact, key, subnet, now_s)
        bucket.replacements.pop(contact.peer_id, None)
        if len(bucket.entries) >= limits.DHT_BUCKET_CONTACTS:
            self._evict_failing(bucket, for_entry=entry)
        if self._has_place(bucket, entry):
            self._insert(bucket, entry)
            return True
        bucket.replacements[contact.peer_id] = entry
        if len(bucket.replacements) > limits.DHT_BUCKET_CONTACTS:
            del bucket.replacements[next(iter(bucket.replacements))]
        return False

    def failed(self, peer_id: PeerId, *, now_s: float) -> None:
        """A peer did not answer: it goes if a replacement can take its place, or after many failures."""
        bucket = self._buckets.get(self._index(key_of(peer_id)))
        if bucket is None:
            return
        bucket.replacements.pop(peer_id, None)
        entry = bucket.entries.get(peer_id)
        if entry is None:
            return
        entry.failures += 1
        entry.tried_s = now_s
        if not entry.is_failing:
            return
        self._take_out(bucket, entry)
        if self._promote(bucket) or entry.failures >= limits.DHT_CONTACT_FAILURES_MAX:
            return
        self._insert(bucket, entry)

    def remove(self, peer_id: PeerId) -> None:
        """Forget a peer, for example one that no longer serves the DHT."""
        bucket = self._buckets.get(self._index(key_of(peer_id)))
        if bucket is None:
            return
        bucket.replacements.pop(peer_id, None)
        if peer_id in bucket.entries:
            self._take_out(bucket, bucket.entries[peer_id])
            self._promote(bucket)

    def peer_in(self, subtree: Prefix) -> PeerId | None:
        """Someone known within a subtree."""
        return next((entry.contact.peer_id for _, entry in self.entries() if entry.key in subtree), None)

    def doubtful(self, *, now_s: float, unseen_s: float) -> list[Contact]:
        """Entries to ask for a sign of life: silent for `unseen_s`, or failing and due for another try."""
        return [
            entry.contact
            for _, entry in self.entries()
            if (
                now_s - entry.tried_s >= RETRY_S * 2 ** min(entry.failures, RETRY_DOUBLINGS_MAX)
                if entry.failures
                else now_s - entry.seen_s >= unseen_s
            )
        ]

    def refreshed(self, target: int, *, now_s: float) -> None:
        """A lookup of `target` ended: its bucket has seen what there is."""
        index = self._index(target)
        if index < KEY_BITS:
            self._buckets.setdefault(index, _Bucket()).refreshed_s = now_s

    def refreshed_from(self, index: int, *, now_s: float) -> None:
        """Everyone in the buckets from `index` on is known: a lookup of the own key has shown it."""
        for deeper in range(index, self._depth() + 2):
            self._buckets.setdefault(deeper, _Bucket()).refreshed_s = now_s

    def stale(self, *, now_s: float, age_s: float) -> list[Prefix]:
        """Subtrees, farthest first, that no lookup went to for `age_s`.

        Down to one below the deepest bucket that has an entry: deeper ones are this node's own
        neighbourhood, which a lookup of its own key refreshes.
        """
        return [
            Prefix.of(self.own_key, index + 1).sibling()
            for index in range(min(self._depth() + 2, KEY_BITS))
            if now_s - self._buckets.get(index, _Bucket()).refreshed_s >= age_s
        ]

    def _index(self, key: int) -> int:
        return common_prefix_bits(self.own_key, key)

    def _depth(self) -> int:
        """The deepest bucket with an entry, or -1."""
        return max((i for i, bucket in self._buckets.items() if bucket.entries), default=-1)

    def _has_place(self, bucket: _Bucket, entry: Entry) -> bool:
        if len(bucket.entries) >= limits.DHT_BUCKET_CONTACTS:
            return False
        if entry.subnet is None:
            return True
        in_bucket = sum(other.subnet == entry.subnet for other in bucket.entries.values())
        return (
            in_bucket < limits.DHT_SUBNET_BUCKET_MAX
            and self._subnets[entry.subnet] < limits.DHT_SUBNET_TABLE_MAX
        )

    def _insert(self, bucket: _Bucket, entry: Entry) -> None:
        bucket.entries[entry.contact.peer_id] = entry
        self._count += 1
        if entry.subnet is not None:
            self._subnets[entry.subnet] += 1

    def _take_out(self, bucket: _Bucket, entry: Entry) -> None:
        del bucket.entries[entry.contact.peer_id]
        self._count -= 1
        if entry.subnet is not None:
            self._subnets[entry.subnet] -= 1
            if not self._subnets[entry.subnet]:
                del self._subnets[entry.subnet]

    def _evict_failing(self, bucket: _Bucket, *, for_entry: Entry) -> None:
        worst = max(bucket.entries.values(), key=lambda entry: entry.failures)
        if not worst.is_failing:
            return
        self._take_out(bucket, worst)
        if not self._has_place(bucket, for_entry):
            self._insert(bucket, worst)

    def _promote(self, bucket: _Bucket) -> bool:
        """Move the replacement seen last, of those that have a place, into the bucket."""
        for peer_id in reversed(bucket.replacements):
            entry = bucket.replacements[peer_id]
            if self._has_place(bucket, entry):
                del bucket.replacements[peer_id]
                self._insert(bucket, entry)
                return True
        return False
