"""Deliberate bugs in the node, and where a checker finds each.

A checker that finds nothing proves nothing, unless it is known to find what is there. Each mutation undoes
one safeguard that the design relies on. The seed that shows it is kept in `mutation_seeds.toml`; when a
change of the code has moved the histories, `python -m tests.simulations.find_seeds` finds them anew.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from node.chunks import audit, known_health, placement
from node.chunks.get import health, shard_stream
from node.chunks.get.range_stream import RangeStream
from node.chunks.healing import cases
from node.chunks.healing.prober import Prober, Seen
from node.chunks.put import publish
from node.chunks.serve.incoming import PutTable
from node.chunks.store.incoming_put import IncomingPut
from node.chunks.store.shard_log import ShardLog
from node.chunks.store.space import PackUse, SpaceBudget
from node.credit import admission, ledger_store
from node.crypto.hashing import blake3_256
from node.crypto.sealing import HeaderKey
from node.dht.record_store import RecordStore
from simulations.scenario import Result, Scenario, run_scenario
from simulations.scenarios import hostile_holders, mass_failure, slow_disks, steady
from tests.simulations import drills

SEEDS_MAX = 50
SEEDS_FILE = Path(__file__).with_name("mutation_seeds.toml")


@dataclass(frozen=True, slots=True)
class Mutation:
    """One bug: `apply` puts it in for a while; one of `checkers` finds it in `scenario`."""

    name: str
    apply: Callable[[ExitStack], None]
    scenario: Scenario
    checkers: tuple[str, ...]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The node with the bug."""
        with ExitStack() as stack:
            self.apply(stack)
            yield

    def run(self, seed: int) -> Result:
        """One brief history of the node with the bug."""
        with self.applied():
            return run_scenario(self.scenario, seed, brief=True)


def _replace(stack: ExitStack, owner: Any, name: str, new: Any) -> None:
    stack.enter_context(patch.object(owner, name, new))


def _index_before_data(stack: ExitStack) -> None:
    """The index is committed, and the holder acknowledges, while blocks are only in the disk's cache."""
    _replace(stack, ShardLog, "sync", lambda self: None)


def _skipped_hash_check(stack: ExitStack) -> None:
    """A reader takes every block for what it asked for."""
    leaf = shard_stream.ShardStream._take_block

    def take(self: Any, shard_index: int, stripe: int, reply: Any) -> None:
        if isinstance(reply, memoryview | bytes) and shard_index in self._leaves:
            leaves = bytearray(self._leaves[shard_index])
            leaves[32 * stripe : 32 * stripe + 32] = blake3_256(bytes(reply))
            self._leaves[shard_index] = bytes(leaves)
        leaf(self, shard_index, stripe, reply)

    _replace(stack, shard_stream.ShardStream, "_take_block", take)


def _quorum_off_by_one(stack: ExitStack) -> None:
    """Put settles for one shard less than it should."""
    honest = placement.quorum
    _replace(stack, placement, "quorum", lambda code: honest(code) - 1)


def _lost_provider_record(stack: ExitStack) -> None:
    """A DHT node acknowledges a provider record and does not keep it, be it of others or its own."""
    _replace(stack, RecordStore, "add_provider", lambda self, transaction, record, *, now_s: True)
    _replace(stack, RecordStore, "add_provided", lambda self, transaction, keys: None)


def _cap_checked_after_writing(stack: ExitStack) -> None:
    """A donor looks at what it has written, not at what it has promised and must keep free."""

    def free_bytes(self: SpaceBudget, packs: PackUse, shard_count: int) -> int:
        return max(0, self.cap_bytes - packs.allocated_bytes)

    _replace(stack, SpaceBudget, "free_bytes", free_bytes)


def _health_from_records(stack: ExitStack) -> None:
    """Health counts whoever the records name, as other systems do."""

    async def run(self: Any, file: Any, peer_id: Any, blocks: dict[int, list[int]]) -> dict[int, str]:
        return dict.fromkeys(blocks, "proved")

    _replace(stack, health._Challenge, "run", run)


def _header_not_sealed(stack: ExitStack) -> None:
    """The name of a file stands in its public manifest."""
    _replace(stack, HeaderKey, "seal", lambda self, plaintext: plaintext)


def _reservation_kept(stack: ExitStack) -> None:
    """A put that fell silent is forgotten, but not what was reserved for it."""

    async def end(self: PutTable, put: Any) -> None:
        put.over = True
        self._forget(put)

    _replace(stack, PutTable, "_end", end)
    _replace(stack, IncomingPut, "abort", lambda self: None)


def _acknowledged_not_stored(stack: ExitStack) -> None:
    """A holder countersigns what it has thrown away."""

    async def commit(self: PutTable, put: Any, change: Any) -> None:
        await self._end(put)

    _replace(stack, PutTable, "commit", commit)


def _range_off_by_one(stack: ExitStack) -> None:
    """A range begins one byte late."""
    honest = RangeStream.open_range

    def open_range(self: RangeStream, start: int, stop: int) -> Any:
        return honest(self, min(start + (start > 0), stop), stop)

    _replace(stack, RangeStream, "open_range", open_range)


def _manifest_not_attached(stack: ExitStack) -> None:
    """Put returns before the holders have the file's manifest."""

    async def each(items: Sequence[Any], act: Any) -> None:
        return None

    _replace(stack, publish, "for_each", each)


def _repair_trusts_records(stack: ExitStack) -> None:
    """Whoever repairs takes each lease in the roster for a shard that is there."""

    async def probe(self: Prober, segment: Any, leases: Sequence[Any], **_: Any) -> dict[Any, Seen]:
        return dict.fromkeys(leases, Seen.PROVED)

    _replace(stack, Prober, "probe", probe)


def _evidence_not_checked(stack: ExitStack) -> None:
    """A new holder takes the repairer's word for it that a shard is lost."""
    _replace(stack, cases, "_is_lost", lambda *_, now_s: True)


def _empty_samples_pass(stack: ExitStack) -> None:
    """An auditor counts a sample that the donor lacks as one that it was not asked for."""
    honest = audit.verify_answer

    def verify_answer(challenge: Any, samples: Any) -> audit.Verdict:
        return replace(honest(challenge, samples), missing=())

    _replace(stack, audit, "verify_answer", verify_answer)


def _wrong_samples_pass(stack: ExitStack) -> None:
    """An auditor does not compare samples with the shard's root."""
    _replace(stack, audit, "are_true", lambda answered: [True] * len(answered))


def _newcomers_not_counted(stack: ExitStack) -> None:
    """A donor holds each newcomer to the cap, and not all of them together."""
    honest = admission.exposure_of
    _replace(
        stack,
        ledger_store,
        "exposure_of",
        lambda policy, standing: replace(honest(policy, standing), newcomers=0, subnet=0),
    )


def _lease_is_proof(stack: ExitStack) -> None:
    """The list of files counts leases, whoever has missed their holders since."""

    def known(entry: Any, catalogue: Any, evidence: Any, *, now_s: int) -> known_health.KnownHealth:
        segments = tuple(
            known_health.KnownSegment(
                segment.segment_index, len({lease.shard_index for lease in segment.leases}), 0, now_s
            )
            for segment in catalogue.segments(entry.file_hash)
        )
        return known_health.KnownHealth(segments, entry.data_shards, entry.total_shards)

    _replace(stack, known_health, "known_health", known)


MUTATIONS: tuple[Mutation, ...] = (
    Mutation("index before data", _index_before_data, slow_disks.SCENARIO, ("promises kept",)),
    Mutation(
        "skipped hash check", _skipped_hash_check, hostile_holders.SCENARIO, ("errors", "contents", "health")
    ),
    Mutation("quorum off by one", _quorum_off_by_one, drills.DYING_DONOR, ("quorum",)),
    Mutation("lost provider record", _lost_provider_record, steady.SCENARIO, ("providers found",)),
    Mutation("cap checked after writing", _cap_checked_after_writing, drills.CROWDED, ("caps held",)),
    Mutation("health from records", _health_from_records, mass_failure.SCENARIO, ("health",)),
    Mutation("header not sealed", _header_not_sealed, steady.SCENARIO, ("secrets kept",)),
    Mutation("reservation kept", _reservation_kept, drills.DYING_PUTTERS, ("nothing left over",)),
    Mutation(
        "acknowledged, not stored", _acknowledged_not_stored, steady.SCENARIO, ("promises kept", "liveness")
    ),
    Mutation("range off by one", _range_off_by_one, steady.SCENARIO, ("contents",)),
    Mutation(
        "manifest not attached", _manifest_not_attached, steady.SCENARIO, ("findable at once", "liveness")
    ),
    Mutation("repair trusts records", _repair_trusts_records, mass_failure.SCENARIO, ("healing",)),
    Mutation("evidence not checked", _evidence_not_checked, drills.GREEDY_HOLDER, ("evidence",)),
    Mutation("empty samples pass", _empty_samples_pass, drills.LYING_DONORS, ("evidence",)),
    Mutation("wrong samples pass", _wrong_samples_pass, drills.LYING_DONORS, ("evidence",)),
    Mutation("newcomers not counted", _newcomers_not_counted, drills.STRANGERS_COME, ("claims capped",)),
    Mutation("lease is proof", _lease_is_proof, drills.LOSING_DONORS, ("health",)),
)


def kept_seeds() -> dict[str, int]:
    """The seed that shows each mutation."""
    seeds: dict[str, int] = tomllib.loads(SEEDS_FILE.read_text())
    return seeds
