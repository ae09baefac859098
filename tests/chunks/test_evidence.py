"""Evidence: nothing false or foreign enters, the order of news does not matter, and all of it is bounded."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from node import limits
from node.chunks.bad_answer import BadAnswer
from node.chunks.evidence import Evidence
from node.chunks.evidence_rows import ANSWERS_TABLE, BAD_TABLE, RECEIPTS_TABLE, ROWS_TABLE, TIMES_TABLE
from node.chunks.findings import Proof, Role
from node.crypto.identity import peer_id_of
from node.crypto.signing import KeyPair
from node.errors import CryptoError, ProtocolError
from node.records.receipt import AuditReceipt, Outcome
from node.units import DAY_S, LeaseId
from simulations.key_value import FakeKeyValue
from tests.chunks.audited_segment import NETWORK, NOW_S, audited_segment

WORLD = audited_segment()
SHARD = 2
GEOMETRY = WORLD.segment.manifest.geometry
LEASE = WORLD.leases[SHARD]
DONOR = WORLD.peers[SHARD]
ASSIGNED = WORLD.assigned(SHARD)
OWNER = WORLD.segment.owner
STRANGER = KeyPair.from_seed(b"s" * 32)
TABLES = (RECEIPTS_TABLE, ROWS_TABLE, TIMES_TABLE, BAD_TABLE, ANSWERS_TABLE)


def evidence() -> Evidence:
    return Evidence(FakeKeyValue(), network=NETWORK)


def add(store: Evidence, *receipts: AuditReceipt, now_s: int = NOW_S + 10) -> int:
    return store.add_receipts(receipts, WORLD.leases, now_s=now_s)


def test_what_nobody_audited_is_unknown() -> None:
    found = evidence().of_segment(WORLD.segment_id)
    assert found.proved(SHARD) is None
    assert found.leases == {}
    assert found.lost() == frozenset()


def test_a_pass_proves_its_shard_and_no_other() -> None:
    store = evidence()
    assert add(store, WORLD.receipt(SHARD, ASSIGNED[0])) == 1
    found = store.of_segment(WORLD.segment_id)
    assert found.proved(SHARD) == Proof(NOW_S, peer_id_of(ASSIGNED[0].public))
    assert found.proved(SHARD, holder=DONOR) == found.proved(SHARD)
    assert found.proved(SHARD, holder=WORLD.peers[0]) is None
    assert [found.proved(shard) for shard in (0, 1, 3, 4)] == [None] * 4
    assert store.receipts(WORLD.segment_id) == (WORLD.receipt(SHARD, ASSIGNED[0]),)


def test_roles_decide_what_vests() -> None:
    store = evidence()
    outsider = next(key for key in WORLD.holders if key not in ASSIGNED and key != WORLD.holders[SHARD])
    auditors = [OWNER, *ASSIGNED, outsider]
    receipts = [
        WORLD.receipt(SHARD, auditor, time_s=NOW_S + offset) for offset, auditor in enumerate(auditors)
    ]
    assert add(store, *receipts) == len(receipts)
    findings = store.of_segment(WORLD.segment_id).leases[LEASE.lease_id].findings
    assert [finding.role for finding in findings] == [
        Role.OWNER,
        *[Role.ASSIGNED] * len(ASSIGNED),
        Role.CO_HOLDER,
    ]
    assert store.vesting(WORLD.segment_id, LEASE.lease_id) == tuple(receipts[:-1])
    late = WORLD.receipt(SHARD, OWNER, Outcome.SLOW, time_s=NOW_S + 20)
    assert add(store, late, now_s=NOW_S + 30) == 1
    assert late not in store.vesting(WORLD.segment_id, LEASE.lease_id)
    proved = store.of_segment(WORLD.segment_id).proved(SHARD)
    assert proved is not None
    assert proved.time_s == NOW_S + 20
    again = WORLD.receipt(SHARD, ASSIGNED[0], time_s=NOW_S + 21)
    assert add(store, again, now_s=NOW_S + 30) == 1
    unheard = WORLD.receipt(SHARD, ASSIGNED[0], time_s=NOW_S + 22)
    vesting = store.vesting(WORLD.segment_id, LEASE.lease_id)
    assert vesting == (receipts[0], *receipts[2:-1], again)
    for each in (*receipts, late, again, unheard):
        assert store.vests(each, LEASE) == (each in vesting)


def test_no_answers_count_since_the_last_proof() -> None:
    store = evidence()
    add(
        store,
        WORLD.receipt(SHARD, ASSIGNED[0], Outcome.NO_ANSWER, time_s=NOW_S - 300),
        WORLD.receipt(SHARD, ASSIGNED[1], time_s=NOW_S - 200),
        second := WORLD.receipt(SHARD, ASSIGNED[1], Outcome.NO_ANSWER, time_s=NOW_S - 100),
        third := WORLD.receipt(SHARD, ASSIGNED[2], Outcome.NO_ANSWER, time_s=NOW_S),
    )
    assert store.no_answers(WORLD.segment_id, LEASE.lease_id) == (second, third)
    add(store, WORLD.receipt(SHARD, ASSIGNED[2], time_s=NOW_S + 5))
    assert store.no_answers(WORLD.segment_id, LEASE.lease_id) == ()


def test_what_is_forged_foreign_or_untimely_does_not_enter() -> None:
    store = evidence()
    good = WORLD.receipt(SHARD, ASSIGNED[0])
    foreign = replace(good, network="other", signature=b"")
    refused = [
        replace(good, signature=bytes(64)),
        replace(good, signature=b""),
        replace(good, outcome=Outcome.NO_ANSWER, passed_count=0),
        replace(good, donor=WORLD.peers[0]),
        WORLD.receipt(SHARD, STRANGER),
        replace(good, leases=b"x" * 16, signature=b"").sign(ASSIGNED[0]),
        replace(good, donor=WORLD.peers[1], signature=b"").sign(ASSIGNED[0])
        if ASSIGNED[0] != WORLD.holders[1]
        else replace(good, signature=bytes(64)),
        WORLD.receipt(SHARD, ASSIGNED[0], time_s=NOW_S + limits.EVIDENCE_AHEAD_S + 60),
        WORLD.receipt(SHARD, ASSIGNED[0], time_s=NOW_S - limits.EVIDENCE_LIFE_S),
        replace(foreign, signature=foreign.sign_body(ASSIGNED[0])),
    ]
    for receipt in refused:
        assert add(store, receipt, now_s=NOW_S) == 0, receipt
    assert store.of_segment(WORLD.segment_id).leases == {}
    assert add(store, good) == 1
    assert add(store, good) == 0


def test_a_payer_audits_as_the_owner_does() -> None:
    store = evidence()
    receipt = WORLD.receipt(SHARD, STRANGER)
    payers = [peer_id_of(STRANGER.public)]
    assert store.add_receipts([receipt], WORLD.leases, now_s=NOW_S, payers=payers) == 1
    assert store.vesting(WORLD.segment_id, LEASE.lease_id) == (receipt,)


def test_the_order_of_news_does_not_matter_and_a_lease_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "EVIDENCE_PER_LEASE_MAX", 5)
    others = [key for key in WORLD.holders if key != WORLD.holders[SHARD]]
    source = random.Random(7)
    news = [
        WORLD.receipt(SHARD, auditor, outcome, time_s=NOW_S - source.randrange(4_000), nonce=bytes([n]) * 32)
        for n in range(3)
        for auditor in [*others, OWNER]
        for outcome in Outcome
    ]
    results = []
    for seed in range(6):
        store = Evidence(tables := FakeKeyValue(), network=NETWORK)
        random.Random(seed).shuffle(news)
        half = len(news) // 2
        add(store, *news[:half])
        for receipt in [*news[half:], *news[: half // 2]]:
            add(store, receipt)
        results.append(store.of_segment(WORLD.segment_id))
        with tables.view() as view:
            assert view.count(ROWS_TABLE) == view.count(TIMES_TABLE) == view.count(RECEIPTS_TABLE) == 5
    assert all(result == results[0] for result in results)


def test_a_receipt_of_many_leases_is_kept_once_and_goes_with_the_last_row() -> None:
    store = Evidence(tables := FakeKeyValue(), network=NETWORK)
    further = replace(LEASE, lease_id=LeaseId(b"f" * 16), owner_signature=b"", holder_signature=b"")
    further = further.sign_as_owner(OWNER).countersign(WORLD.holders[SHARD])
    receipt = WORLD.receipt(SHARD, ASSIGNED[0], more=(further.lease_id,))
    assert store.add_receipts([receipt], [*WORLD.leases, further], now_s=NOW_S) == 1
    with tables.view() as view:
        assert (view.count(ROWS_TABLE), view.count(RECEIPTS_TABLE)) == (2, 1)
    newer = WORLD.receipt(SHARD, ASSIGNED[0], time_s=NOW_S + 5)
    add(store, newer)
    assert set(store.receipts(WORLD.segment_id)) == {receipt, newer}
    store.forget(WORLD.segment_id)
    with tables.view() as view:
        assert [view.count(table) for table in TABLES] == [0] * len(TABLES)


def test_old_evidence_expires() -> None:
    store = Evidence(tables := FakeKeyValue(), network=NETWORK)
    old, new = NOW_S, NOW_S + 10 * DAY_S
    add(store, WORLD.receipt(SHARD, OWNER, time_s=old))
    add(store, WORLD.receipt(1, OWNER, time_s=new), now_s=new)
    store.add_bad_answer(WORLD.bad_answer(SHARD, ASSIGNED[0], false=True), WORLD.segment_id, GEOMETRY)
    assert not store.expire(old + limits.EVIDENCE_LIFE_S - 1)
    assert store.of_segment(WORLD.segment_id).leases[LEASE.lease_id].findings
    store.expire(old + limits.EVIDENCE_LIFE_S + 1)
    left = store.of_segment(WORLD.segment_id)
    assert left.leases[LEASE.lease_id].findings == ()
    assert left.proved(1) is not None
    store.expire(LEASE.expires_s + limits.EVIDENCE_LIFE_S + 1)
    with tables.view() as view:
        assert [view.count(table) for table in TABLES] == [0] * len(TABLES)


@pytest.mark.parametrize("false", [True, False])
def test_a_bad_answer_makes_the_shard_lost_and_is_portable(false: bool) -> None:
    store, elsewhere = evidence(), evidence()
    add(store, WORLD.receipt(SHARD, ASSIGNED[0]))
    bad = WORLD.bad_answer(SHARD, ASSIGNED[0], false=false)
    assert bad.is_false == false
    assert store.add_bad_answer(bad, WORLD.segment_id, GEOMETRY)
    assert not store.add_bad_answer(bad, WORLD.segment_id, GEOMETRY)
    found = store.of_segment(WORLD.segment_id)
    assert found.lost() == {(SHARD, DONOR)}
    assert found.proved(SHARD) is None
    (kept,) = store.bad_answers(WORLD.segment_id)
    assert kept == bad == store.bad_answer(WORLD.segment_id, SHARD, DONOR)
    assert store.bad_answer(WORLD.segment_id, SHARD, WORLD.peers[0]) is None
    received = BadAnswer.decode(kept.encode(), network=NETWORK)
    assert elsewhere.add_bad_answer(received, WORLD.segment_id, GEOMETRY)
    assert elsewhere.of_segment(WORLD.segment_id).lost() == {(SHARD, DONOR)}


def test_a_bad_answer_that_proves_nothing_does_not_enter() -> None:
    store = evidence()
    bad = WORLD.bad_answer(SHARD, ASSIGNED[0], false=True)
    unsigned = replace(bad, answer=replace(bad.answer, signature=bytes(64)))
    with pytest.raises(CryptoError):
        store.add_bad_answer(unsigned, WORLD.segment_id, GEOMETRY)
    for wrong in (
        replace(bad, index=1),
        replace(bad, lease=WORLD.leases[0]),
        replace(bad, chunk_index=bad.chunk_index ^ 1),
    ):
        with pytest.raises(ProtocolError):
            store.add_bad_answer(wrong, WORLD.segment_id, GEOMETRY)
    with pytest.raises(ProtocolError):
        store.add_bad_answer(bad, audited_segment(seed=2).segment_id, GEOMETRY)
    assert store.bad_answers(WORLD.segment_id) == ()
