"""A new holder signs what the grant and the evidence cover, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import limits, wire
from node.chunks.healing import messages
from node.chunks.healing.cases import check_case, check_terms, grant_uses
from node.chunks.healing.messages import Case
from node.chunks.put.granting import make_grant
from node.crypto.identity import peer_id_of
from node.crypto.signing import KeyPair
from node.errors import CreditError, CryptoError, ProtocolError
from node.records.lease import Lease, Release, granted_nonce
from node.records.receipt import Outcome
from node.records.repair import Handover, RepairGrant
from node.units import DAY_S, LeaseId, OwnerKey, SegmentId
from tests.chunks.audited_segment import NOW_S, audited_segment
from tests.chunks.sample_segment import TODAY

HELD = audited_segment()
MANIFEST, OWNER = HELD.segment.manifest, HELD.segment.owner
ACCOUNT, NEW = KeyPair.from_seed(b"a" * 32), KeyPair.from_seed(b"n" * 32)
ME = peer_id_of(NEW.public)
GRANT = make_grant(MANIFEST, HELD.leases, OWNER, ACCOUNT)
LOST = HELD.leases[0]
SILENT = tuple(HELD.receipt(0, HELD.holders[n], Outcome.NO_ANSWER) for n in (1, 2, 3))
BAD = HELD.bad_answer(0, HELD.holders[1], false=True)
RELEASE = Release(LOST.network, LOST.lease_id, LOST.holder, OwnerKey(OWNER.public)).sign(OWNER)
HANDOVER = Handover(
    LOST.network, LOST.lease_id, LOST.segment_id, 0, LOST.holder, ME, TODAY
).sign(HELD.holders[0])  # fmt: skip


def lease_of(
    shard: int = 0,
    *,
    grant: RepairGrant = GRANT,
    handover: Handover | None = None,
    generation: int = 1,
    start_day: int = TODAY,
    holder: KeyPair = NEW,
    seed: int = 50,
) -> Lease:
    lease = HELD.segment.lease(peer_id_of(holder.public), shard, seed=seed)
    return replace(
        lease, start_day=start_day, nonce=granted_nonce(generation, bytes([seed] * 12)), owner_signature=b""
    ).under_grant(grant, handover)


def case_of(lease: Lease, **parts: object) -> Case:
    return replace(Case((lease,), (LOST.lease_id,), HELD.leases), **parts)  # type: ignore[arg-type]


def check(
    case: Case, *, grant: RepairGrant = GRANT, known: tuple[Lease, ...] = (), now_s: int = NOW_S
) -> None:
    check_case(case, MANIFEST, grant, me=ME, known=known, now_s=now_s)


@pytest.mark.parametrize(
    "case",
    [
        case_of(lease_of(), receipts=SILENT[:2]),
        case_of(lease_of(), receipts=(SILENT[0], HELD.receipt(0, HELD.holders[2], Outcome.FAILED))),
        case_of(lease_of(), bad_answers=(BAD,)),
        case_of(lease_of(), releases=(RELEASE,)),
        case_of(lease_of(handover=HANDOVER)),
    ],
    ids=["two silences", "a silence and a failure", "its own word", "the owner's word", "a handover"],
)
def test_each_kind_of_evidence_suffices(case: Case) -> None:
    check(case)
    check_terms(case.leases[0], MANIFEST, me=ME, now_s=NOW_S)
    assert Case.decode(case.encode(), network="test") == case


LATER_PASS = HELD.receipt(0, HELD.holders[4], Outcome.PASSED, time_s=NOW_S + 1)
OLD = tuple(HELD.receipt(0, HELD.holders[n], Outcome.NO_ANSWER, time_s=NOW_S - 8 * DAY_S) for n in (1, 2))


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"receipts": SILENT[:1]},
        {"receipts": (SILENT[0], SILENT[0])},
        {"receipts": (SILENT[0], HELD.receipt(0, HELD.holders[1], Outcome.NO_ANSWER, nonce=b"o" * 32))},
        {"receipts": (SILENT[0], HELD.receipt(0, NEW, Outcome.NO_ANSWER))},
        {"receipts": OLD},
        {"receipts": (*SILENT[:2], LATER_PASS)},
        {"receipts": tuple(HELD.receipt(1, HELD.holders[n], Outcome.NO_ANSWER) for n in (2, 3))},
        {"receipts": tuple(HELD.receipt(0, HELD.holders[n], Outcome.UNKNOWN) for n in (1, 2))},
        {"bad_answers": (HELD.bad_answer(1, HELD.holders[2], false=True),)},
    ],
    ids=[
        "nothing", "one witness", "one receipt twice", "one witness twice", "a stranger's word",
        "old silences", "proved since", "another one's silence", "unknown errors", "another one's answer",
    ],
)  # fmt: skip
def test_what_is_no_evidence(parts: dict[str, object]) -> None:
    with pytest.raises(ProtocolError, match="no evidence"):
        check(case_of(lease_of(), **parts))


def other_release() -> Release:
    stranger = KeyPair.from_seed(b"s" * 32)
    return Release(LOST.network, LOST.lease_id, LOST.holder, OwnerKey(stranger.public)).sign(stranger)


@pytest.mark.parametrize(
    ("case", "error"),
    [
        (case_of(lease_of(), releases=(other_release(),)), ProtocolError),
        (case_of(lease_of(), receipts=(replace(SILENT[0], time_s=NOW_S - 1), SILENT[1])), CryptoError),
        (case_of(lease_of(1), receipts=SILENT[:2]), ProtocolError),
        (case_of(lease_of(), lost=(LeaseId(bytes(16)),), receipts=SILENT[:2]), ProtocolError),
        (case_of(lease_of(), roster=HELD.leases[1:], receipts=SILENT[:2]), ProtocolError),
        (
            Case((lease_of(), lease_of(seed=51)), (LOST.lease_id,) * 2, HELD.leases, SILENT[:2]),
            ProtocolError,
        ),
        (case_of(lease_of(handover=HANDOVER), lost=(HELD.leases[1].lease_id,)), ProtocolError),
        (
            case_of(
                lease_of(handover=replace(HANDOVER, lease_id=LeaseId(b"z" * 16)).sign(HELD.holders[0]))
            ),
            ProtocolError,
        ),
        (case_of(HELD.segment.lease(ME, 0, seed=9), receipts=SILENT[:2]), ProtocolError),
    ],
    ids=[
        "a stranger's release", "a forged receipt", "another shard", "an unknown lease", "not in the roster",
        "one shard twice", "a handover of another", "a handover of nothing", "no grant",
    ],
)  # fmt: skip
def test_a_case_that_does_not_fit_together(case: Case, error: type[Exception]) -> None:
    with pytest.raises(error):
        check(case)


def test_a_holder_does_not_replace_itself() -> None:
    mine = HELD.leases[0]
    lease = lease_of(holder=HELD.holders[0])
    with pytest.raises(ProtocolError):
        check_case(case_of(lease, receipts=SILENT[:2]), MANIFEST, GRANT, me=mine.holder, now_s=NOW_S)


def used(shard: int, *, days_ago: int, handover: Handover | None = None) -> Lease:
    holder = KeyPair.from_seed(bytes([60 + shard]) * 32)
    return lease_of(shard, start_day=TODAY - days_ago, seed=60 + shard, holder=holder, handover=handover)


def test_a_grant_replaces_a_shard_once_in_seven_days() -> None:
    case = case_of(lease_of(generation=2), receipts=SILENT[:2])
    with pytest.raises(CreditError, match="within 7 days"):
        check(case, known=(used(0, days_ago=6),))
    check(case, known=(used(0, days_ago=7), used(1, days_ago=1)))
    # What was handed over, and what is handed over now, is no replacement.
    moved = used(0, days_ago=1, handover=replace(HANDOVER, successor=used(0, days_ago=1).holder))
    assert grant_uses([moved], 100) == []
    check(case_of(lease_of(handover=HANDOVER)), known=(used(0, days_ago=1),))


def test_a_grant_has_an_end() -> None:
    case = case_of(lease_of(), receipts=SILENT[:2])
    with pytest.raises(CreditError, match="expired"):
        check(case, now_s=GRANT.expires_s)
    poor = replace(GRANT, max_credits=0).sign(OWNER, ACCOUNT)
    with pytest.raises(CreditError, match="used up"):
        check(case_of(lease_of(grant=poor), receipts=SILENT[:2]), grant=poor)
    with pytest.raises(ProtocolError, match="another grant"):
        check(case, grant=poor)
    with pytest.raises(CreditError, match="generation"):
        check(case_of(lease_of(generation=GRANT.generation_max + 1), receipts=SILENT[:2]))
    forged = replace(GRANT, max_credits=1)
    with pytest.raises(CryptoError):
        check(case_of(lease_of(grant=forged), receipts=SILENT[:2]), grant=forged)


@pytest.mark.parametrize(
    "change",
    [
        lambda lease: replace(lease, holder=LOST.holder),
        lambda lease: replace(lease, segment_id=SegmentId(bytes(32))),
        lambda lease: replace(lease, root=bytes(32)),
        lambda lease: replace(lease, byte_count=1),
        lambda lease: replace(lease, shard_index=MANIFEST.code.total_shards),
        lambda lease: replace(lease, start_day=TODAY - 2),
        lambda lease: replace(lease, start_day=TODAY - 1, end_day=TODAY),
        lambda lease: replace(lease, rate=GRANT.rate + 1),
    ],
)
def test_terms_that_nobody_signs(change: Callable[[Lease], Lease]) -> None:
    with pytest.raises((ProtocolError, CryptoError)):
        check_terms(change(lease_of()), MANIFEST, me=ME, now_s=NOW_S)


EXAMPLES: list[messages.Message] = [
    messages.Replace(b"manifest", b"grant", 7),
    messages.Ready(),
    messages.Intent(b"record"),
    messages.Lost(b"record"),
    messages.Witness(MANIFEST.segment_id, (LOST.lease_id,)),
    messages.Body(0),
    messages.Done(1),
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_every_message_survives_the_wire(message: messages.Message) -> None:
    received = wire.decode(wire.encode(messages.encode(message)), size_max=limits.FRAME_BYTES_MAX)
    assert messages.decode(received) == message


def test_every_message_is_tried() -> None:
    assert {type(message) for message in EXAMPLES} == set(messages.TABLE.tags)


@given(st.lists(st.one_of(st.binary(max_size=20), st.integers(0, 300), st.text(max_size=9)), max_size=5))
def test_nothing_else_is_a_message(values: list[wire.Value]) -> None:
    try:
        message = messages.decode(values)
    except ProtocolError:
        return
    assert messages.encode(message) == values


@given(st.binary(max_size=300))
def test_garbage_is_no_case(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Case.decode(data, network="test")


def test_a_case_is_bounded() -> None:
    few = replace(case_of(lease_of()), receipts=SILENT[:1] * (limits.REPAIR_RECEIPTS_MAX + 1))
    with pytest.raises(ProtocolError):
        Case.decode(few.encode(), network="test")
    with pytest.raises(ProtocolError):
        Case.decode(Case((), (), ()).encode(), network="test")
    with pytest.raises(ProtocolError):
        Case.decode(Case((lease_of(),), (), ()).encode(), network="test")
