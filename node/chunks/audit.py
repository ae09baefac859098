"""Audits: one chained challenge over 1 KiB samples of many shards, its answer, its verdict. Layer 2, pure.

Invariants: c(0) = H(nonce) and c(i+1) = H(c(i) || chunk(i)), where c(i) picks block and chunk of sample i and
the leases take turns: each gets its samples, and nobody knows where sample i+1 lies without the bytes of
sample i, so a donor that fetches on demand needs a round trip a sample. A sample proves itself against the
shard's root in the segment manifest: the chunk by BLAKE3's tree within its block, the block's hash by the
shard's Merkle path. A donor that lacks a block says so with an empty sample and fails that sample only. The
signed answer holds a digest of every sample, so that one false sample convinces whoever has the lease.
Source: credit.md, "Audits".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from node import limits, wire
from node.chunks.geometry import BLOCK_BYTES, SegmentGeometry
from node.chunks.manifest import SegmentManifest
from node.chunks.merkle import leaf_of, leaf_path, root_of_path
from node.crypto.blake3_tree import CHUNK_BYTES, ChunkClaim, chunk_count, chunk_proofs, verify_chunks
from node.crypto.hashing import HASH_BYTES, blake3_256
from node.errors import ProtocolError
from node.records.lease import Lease
from node.records.receipt import AUDIT_NONCE_BYTES, AuditAnswer
from node.units import DAY_S, MIB, LeaseId, PeerId, SegmentId

DAILY_SHARD_BYTES: Final = 4 * MIB
"""A shard of this size is due every day, a smaller one as many times less often."""
DUE_DAYS_MAX: Final = 30
AUDITORS: Final = 3
"""Co-holders among which a week's auditor of a shard is."""
WEEK_S: Final = 7 * DAY_S
PATH_BYTES_MAX: Final = 8 * HASH_BYTES
"""Of either path of a sample: 64 chunks a block and 64 blocks a shard need 6 hashes."""
PROOFS_AT_ONCE: Final = 32
"""Blocks whose paths are made together: 2 MB of blocks, 10 MB of lanes."""
_BLOCK_CHUNKS: Final = chunk_count(BLOCK_BYTES)


@dataclass(frozen=True, slots=True)
class Target:
    """One shard to audit: what its lease and its segment manifest say."""

    lease_id: LeaseId
    root: bytes
    geometry: SegmentGeometry

    @classmethod
    def of(cls, lease: Lease, manifest: SegmentManifest) -> Target:
        """The target of a lease. Raises `ProtocolError` if it is of another segment or root."""
        if lease.segment_id != manifest.segment_id or lease.shard_index >= manifest.code.total_shards:
            raise ProtocolError("a lease of another segment")
        if lease.root != manifest.root(lease.shard_index):
            raise ProtocolError("a lease of another shard than the manifest describes")
        return cls(lease.lease_id, lease.root, manifest.geometry)

    @property
    def chunk_total(self) -> int:
        """How many chunks the shard has."""
        full = (self.geometry.stripe_count - 1) * _BLOCK_CHUNKS
        return full + chunk_count(self.geometry.last_block_bytes)


@dataclass(frozen=True, slots=True)
class Challenge:
    """`sample_count` samples of `targets` (ascending by lease id, each once).

    Raises `ProtocolError` unless there is something to sample, within the limits.
    """

    nonce: bytes
    targets: tuple[Target, ...]
    sample_count: int

    def __post_init__(self) -> None:
        wire.expect_bytes(self.nonce, size=AUDIT_NONCE_BYTES)
        wire.expect_int(self.sample_count, low=1, high=limits.AUDIT_SAMPLES_MAX)
        ids = [target.lease_id for target in self.targets]
        if not 0 < len(ids) <= limits.AUDIT_SAMPLES_MAX or ids != sorted(set(ids)):
            raise ProtocolError("a challenge names leases, each once, in ascending order")

    def first(self) -> bytes:
        """c(0)."""
        return blake3_256(self.nonce)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sample lies."""

    target: Target
    block_index: int
    chunk_index: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A chunk with its way to the shard's root; all empty where the donor lacks the block."""

    chunk: bytes = b""
    path: bytes = b""
    """From the chunk to its block's hash, lowest sibling first."""
    leaf: bytes = b""
    """The block's hash."""
    leaf_path: bytes = b""
    """From the block's hash to the shard's root."""

    def encode(self) -> bytes:
        """The canonical encoding."""
        return wire.encode([self.chunk, self.path, self.leaf, self.leaf_path])

    @classmethod
    def decode(cls, data: bytes) -> Sample:
        """Raises `ProtocolError` for one that is larger than any sample."""
        items = wire.expect_list(wire.decode(data, size_max=2 * CHUNK_BYTES), count=4)
        sizes = (CHUNK_BYTES, PATH_BYTES_MAX, HASH_BYTES, PATH_BYTES_MAX)
        return cls(*(wire.expect_bytes(item, size_max=size) for item, size in zip(items, sizes, strict=True)))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an answer showed, sample by sample."""

    places: tuple[Place, ...]
    missing: tuple[int, ...]
    """Samples that the donor says it lacks."""
    false: tuple[int, ...]
    """Samples that contradict the shard's root: with the signed answer, proof."""

    @property
    def failed_count(self) -> int:
        """Samples not passed."""
        return len(self.missing) + len(self.false)

    def failed_leases(self) -> frozenset[LeaseId]:
        """Shards that count as lost."""
        return frozenset(self.places[index].target.lease_id for index in (*self.missing, *self.false))

    def passed_leases(self) -> frozenset[LeaseId]:
        """Shards with at least one sample, all of them right."""
        return frozenset(place.target.lease_id for place in self.places) - self.failed_leases()


ReadBlock = Callable[[LeaseId, int], bytes | None]
"""The bytes of a block of a lease's shard, None where they are not there whole."""
ReadLeaves = Callable[[LeaseId], bytes | None]
"""The leaf list of a lease's shard."""


def place_of(link: bytes, targets: Sequence[Target], index: int) -> Place:
    """Sample `index`: of the lease whose turn it is the chunk that c(`index`) picks, each as likely."""
    target = targets[index % len(targets)]
    chunk = int.from_bytes(link, "big") % target.chunk_total
    return Place(target, *divmod(chunk, _BLOCK_CHUNKS))


def next_link(link: bytes, chunk: bytes) -> bytes:
    """c(i+1)."""
    return blake3_256(link + chunk)


def answer(challenge: Challenge, read_block: ReadBlock, read_leaves: ReadLeaves) -> list[Sample]:
    """The donor's samples. What it lacks, or what no longer has its hash, is an empty one.

    The chain needs the chunks only: paths are made afterwards, `PROOFS_AT_ONCE` blocks in memory at a time.
    """
    samples: list[Sample] = []
    link = challenge.first()
    for start in range(0, challenge.sample_count, PROOFS_AT_ONCE):
        found: list[tuple[Place, bytes, bytes] | None] = []
        for index in range(start, min(start + PROOFS_AT_ONCE, challenge.sample_count)):
            place = place_of(link, challenge.targets, index)
            found.append(_read(place, read_block, read_leaves))
            link = next_link(link, _chunk(found[-1]))
        proofs = iter(chunk_proofs([(each[1], each[0].chunk_index) for each in found if each is not None]))
        for each in found:
            samples.append(Sample() if each is None else _sample(each[0], each[2], *next(proofs)))
    return samples


def verify_answer(challenge: Challenge, samples: Sequence[Sample]) -> Verdict:
    """Check every sample against its shard's root. Raises `ProtocolError` for another number of samples."""
    if len(samples) != challenge.sample_count:
        raise ProtocolError(f"{len(samples)} samples where {challenge.sample_count} were asked for")
    places: list[Place] = []
    link = challenge.first()
    for index, sample in enumerate(samples):
        places.append(place_of(link, challenge.targets, index))
        link = next_link(link, sample.chunk)
    missing = tuple(index for index, sample in enumerate(samples) if sample == Sample())
    given = [index for index, sample in enumerate(samples) if sample != Sample()]
    truths = are_true([(places[index], samples[index]) for index in given])
    false = tuple(index for index, truth in zip(given, truths, strict=True) if not truth)
    return Verdict(tuple(places), missing, false)


def are_true(answered: Sequence[tuple[Place, Sample]]) -> list[bool]:
    """Whether each sample is the chunk at its place under the shard's root."""
    chunks_hold = verify_chunks(
        [
            ChunkClaim(
                sample.leaf,
                place.target.geometry.block_bytes(place.block_index),
                place.chunk_index,
                sample.chunk,
                sample.path,
            )
            for place, sample in answered
        ]
    )
    return [
        holds and _leaf_holds(place, sample)
        for holds, (place, sample) in zip(chunks_hold, answered, strict=True)
    ]


def _leaf_holds(place: Place, sample: Sample) -> bool:
    leaf_count = place.target.geometry.stripe_count
    try:
        root = root_of_path(sample.leaf, place.block_index, leaf_count=leaf_count, path=sample.leaf_path)
    except ProtocolError:
        return False
    return root == place.target.root


def sample_digest(place: Place, sample: Sample) -> bytes:
    """What the donor signs of a sample: where it lies and what it is."""
    return blake3_256(
        wire.encode([place.target.lease_id, place.block_index, place.chunk_index, sample.encode()])
    )


def answer_digests(challenge: Challenge, samples: Sequence[Sample]) -> bytes:
    """The `digests` of the donor's `AuditAnswer`."""
    digests: list[bytes] = []
    link = challenge.first()
    for index, sample in enumerate(samples):
        digests.append(sample_digest(place_of(link, challenge.targets, index), sample))
        link = next_link(link, sample.chunk)
    return b"".join(digests)


def prove_bad(
    signed: AuditAnswer,
    index: int,
    at: tuple[int, int],
    sample: Sample,
    lease: Lease,
    geometry: SegmentGeometry,
) -> None:
    """Check the proof that `lease`'s holder answered falsely; anyone can, without the challenge.

    `geometry` is that of the segment, of which the caller knows that the lease is about it. `at` is (block
    index, chunk index). A signed empty sample proves as much: the shard is lost by the holder's own word.

    Raises:
        CryptoError: a signature does not hold.
        ProtocolError: no such sample was signed, it is of another lease, or it is true.
    """
    signed.verify()
    lease.verify()
    if (signed.network, signed.donor) != (lease.network, lease.holder):
        raise ProtocolError("an answer of another donor")
    place = Place(Target(lease.lease_id, lease.root, geometry), *at)
    try:
        digest = signed.digest(index)
    except IndexError as error:
        raise ProtocolError("the answer has no such sample") from error
    if digest != sample_digest(place, sample):
        raise ProtocolError("the donor has not signed this sample")
    if not 0 <= place.block_index < place.target.geometry.stripe_count or are_true([(place, sample)])[0]:
        raise ProtocolError("the sample proves nothing against the donor")


def due_days(shard_bytes: int) -> int:
    """How many days lie between two audits of a shard: clamp(4 MiB / shard bytes, 1, 30)."""
    return min(DUE_DAYS_MAX, max(1, DAILY_SHARD_BYTES // max(1, shard_bytes)))


def is_due(segment_id: SegmentId, shard_index: int, shard_bytes: int, *, round_number: int) -> bool:
    """Whether a shard is audited in this round (a day); shards of one size spread over the days."""
    offset = int.from_bytes(blake3_256(segment_id + bytes([shard_index]))[:8], "big")
    return (round_number + offset) % due_days(shard_bytes) == 0


def auditors(segment_id: SegmentId, roster: Iterable[PeerId], target: PeerId, *, now_s: int) -> list[PeerId]:
    """The co-holders that may audit `target` this week: the smallest H(segment id, week, auditor, target)."""
    week = (now_s // WEEK_S).to_bytes(4, "big")
    others = set(roster) - {target}
    ranked = sorted(others, key=lambda auditor: blake3_256(segment_id + week + auditor + target))
    return ranked[:AUDITORS]


def is_auditor(
    auditor: PeerId, segment_id: SegmentId, roster: Iterable[PeerId], target: PeerId, *, now_s: int
) -> bool:
    """Whether, by the verifier's own roster, `auditor` may audit `target` at that time."""
    return auditor in auditors(segment_id, roster, target, now_s=now_s)


def sample_bytes(geometry: SegmentGeometry) -> int:
    """About what a sample of a full block costs on the wire: the chunk and two paths."""
    levels = max(0, (geometry.stripe_count - 1).bit_length())
    return CHUNK_BYTES + HASH_BYTES * (_BLOCK_CHUNKS.bit_length() - 1 + 1 + levels) + 16


def _read(place: Place, read_block: ReadBlock, read_leaves: ReadLeaves) -> tuple[Place, bytes, bytes] | None:
    """The place with its block and the shard's leaves; None where the block is not there whole."""
    lease_id = place.target.lease_id
    block, leaves = read_block(lease_id, place.block_index), read_leaves(lease_id)
    if block is None or leaves is None:
        return None
    if leaf_of(block) != leaves[place.block_index * HASH_BYTES : (place.block_index + 1) * HASH_BYTES]:
        return None  # a donor signs nothing false: bits that rotted since the last scrub are missing
    return place, block, leaves


def _chunk(found: tuple[Place, bytes, bytes] | None) -> bytes:
    """The sampled chunk of a block that was read, nothing of one that was not."""
    if found is None:
        return b""
    place, block, _ = found
    return block[place.chunk_index * CHUNK_BYTES : (place.chunk_index + 1) * CHUNK_BYTES]


def _sample(place: Place, leaves: bytes, chunk: bytes, path: bytes) -> Sample:
    leaf = leaves[place.block_index * HASH_BYTES : (place.block_index + 1) * HASH_BYTES]
    return Sample(chunk, path, leaf, leaf_path(leaves, place.block_index))
