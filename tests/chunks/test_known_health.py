"""The health of one's own file from evidence: what nobody proved is unknown, the silent don't count."""

from __future__ import annotations

from node.chunks.catalogue import Catalogue, CatalogueEntry, CatalogueSegment
from node.chunks.evidence import Evidence
from node.chunks.geometry import Code
from node.chunks.known_health import PERIOD_S, KnownHealth, known_health
from node.records.receipt import AuditReceipt, Outcome
from node.units import FileHash
from simulations.key_value import FakeKeyValue
from tests.chunks.audited_segment import CODE, NETWORK, NOW_S, audited_segment

WORLD = audited_segment()
OWNER = WORLD.segment.owner
ENTRY = CatalogueEntry(
    FileHash(b"f" * 32), "cairn:x", "name", 300_000, CODE.data_shards, CODE.total_shards, 1, NOW_S, NOW_S,
    bytes(16),
)  # fmt: skip
THRESHOLD = 0.5


class Known:
    """A catalogue with one file, and evidence."""

    def __init__(self) -> None:
        tables = FakeKeyValue()
        self.catalogue = Catalogue(tables, network=NETWORK)
        self.catalogue.add_segments(ENTRY.file_hash, [CatalogueSegment(0, WORLD.segment_id, WORLD.leases)])
        self.evidence = Evidence(tables, network=NETWORK)

    def add(self, *receipts: AuditReceipt) -> None:
        self.evidence.add_receipts(receipts, WORLD.leases, now_s=NOW_S + 1_000)

    def health(self, *, later_s: int = 0) -> KnownHealth:
        return known_health(ENTRY, self.catalogue, self.evidence, now_s=NOW_S + later_s)


def all_passed(known: Known) -> None:
    known.add(*(WORLD.receipt(shard, OWNER, time_s=NOW_S + shard) for shard in range(CODE.total_shards)))


def test_before_any_audit_all_is_unknown() -> None:
    health = Known().health()
    assert health.word(THRESHOLD) == "unknown"
    assert health.proved_s is None


def test_shards_that_nobody_looked_at_leave_open_what_they_decide() -> None:
    known = Known()
    words = []
    for shard in range(CODE.total_shards):
        known.add(WORLD.receipt(shard, OWNER))
        words.append(known.health().word(THRESHOLD))
    assert Code(2, 5) == CODE
    assert words == ["unknown", "unknown", "unknown", "healthy", "healthy"]
    assert [segment.unknown for segment in known.health().segments] == [0]


def test_what_the_unknown_can_not_change_is_said() -> None:
    known = Known()
    known.add(*(WORLD.receipt(shard, OWNER, Outcome.NO_ANSWER) for shard in range(3)))
    assert known.health().word(THRESHOLD) == "unknown"  # degraded or lost
    known.add(*(WORLD.receipt(shard, OWNER) for shard in (3, 4)))
    assert known.health().word(THRESHOLD) == "degraded"
    known = Known()
    known.add(*(WORLD.receipt(shard, OWNER, Outcome.NO_ANSWER) for shard in range(4)))
    assert known.health().word(THRESHOLD) == "lost"
    assert known.health().segments[0].unknown == 1


def test_what_is_proved_is_healthy_until_the_period_is_over_and_unknown_from_then_on() -> None:
    known = Known()
    all_passed(known)
    assert known.health().word(THRESHOLD) == "healthy"
    assert known.health(later_s=PERIOD_S - 1).word(THRESHOLD) == "healthy"
    later = known.health(later_s=PERIOD_S + 4)
    assert later.word(THRESHOLD) == "unknown"
    assert (later.segments[0].alive, later.segments[0].unknown) == (0, CODE.total_shards)
    assert later.proved_s == NOW_S + 3


def test_who_was_missed_a_period_ago_may_be_back() -> None:
    known = Known()
    known.add(*(WORLD.receipt(shard, OWNER, Outcome.NO_ANSWER) for shard in range(CODE.total_shards)))
    assert known.health().word(THRESHOLD) == "lost"
    assert known.health(later_s=PERIOD_S).word(THRESHOLD) == "unknown"


def test_a_file_was_proved_when_enough_of_it_was() -> None:
    known = Known()
    known.add(WORLD.receipt(0, OWNER, time_s=NOW_S + 100))
    assert known.health().proved_s is None
    known.add(WORLD.receipt(1, OWNER, time_s=NOW_S + 7))
    assert known.health().proved_s == NOW_S + 7
    known.add(WORLD.receipt(1, OWNER, Outcome.NO_ANSWER, time_s=NOW_S + 200))
    assert known.health().proved_s == NOW_S + 7


def test_silent_and_lost_shards_do_not_count() -> None:
    known = Known()
    all_passed(known)
    known.add(WORLD.receipt(1, OWNER, Outcome.NO_ANSWER, time_s=NOW_S + 100))
    assert known.health().segments[0].alive == 4
    assert known.health().word(THRESHOLD) == "healthy"
    known.evidence.add_bad_answer(
        WORLD.bad_answer(2, WORLD.assigned(2)[0], false=False),
        WORLD.segment_id,
        WORLD.segment.manifest.geometry,
    )
    assert known.health().segments[0].alive == 3
    assert known.health().word(THRESHOLD) == "degraded"
    for shard in (3, 4):
        known.add(WORLD.receipt(shard, OWNER, Outcome.NO_ANSWER, time_s=NOW_S + 100))
    assert known.health().word(THRESHOLD) == "lost"
    known.add(WORLD.receipt(3, OWNER, time_s=NOW_S + 200))
    assert known.health().word(THRESHOLD) == "degraded"
