"""One signed example of every record about credit, and hypothesis strategies for them."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from node import limits
from node.crypto.identity import peer_id_of
from node.crypto.signing import KeyPair
from node.records.base import Record
from node.records.charge import Charge
from node.records.clear import Abort, Clear
from node.records.lease import Lease, granted_nonce
from node.records.pair_state import Equivocation, PairState
from node.records.receipt import AuditAnswer, AuditReceipt, Outcome, ServeReceipt, join_lease_ids, session_of
from node.records.repair import Handover, RepairGrant, RepairIntent
from node.units import AccountId, LeaseId, OwnerKey, SegmentId

NETWORK = "cairn-test"
OWNER, HOLDER, AUDITOR = (KeyPair.from_seed(letter * 32) for letter in (b"o", b"h", b"a"))
ACCOUNTS = sorted((KeyPair.from_seed(bytes([number]) * 32) for number in range(4)), key=lambda k: k.public)
LOW, HIGH = ACCOUNTS[0], ACCOUNTS[1]
HOLDER_ID, AUDITOR_ID = peer_id_of(HOLDER.public), peer_id_of(AUDITOR.public)
NOW_S = 1_800_000_000

LEASE = (
    Lease(
        network=NETWORK,
        lease_id=LeaseId(b"i" * 16),
        segment_id=SegmentId(b"s" * 32),
        shard_index=29,
        root=b"r" * 32,
        byte_count=4_190_208,
        owner_key=OwnerKey(OWNER.public),
        holder=HOLDER_ID,
        start_day=20_833,
        end_day=20_863,
        rate=1_000_000,
        egress_cap_bytes=10**9,
        nonce=b"n" * 16,
    )
    .sign_as_owner(OWNER)
    .countersign(HOLDER)
)
CHARGE = Charge.of(LEASE, AccountId(LOW.public)).sign(LOW)
GRANT = RepairGrant(
    NETWORK, SegmentId(b"s" * 32), OwnerKey(OWNER.public), 3, 10**6, 10, 30, AccountId(LOW.public), 10**12,
    NOW_S,
).sign(OWNER, LOW)  # fmt: skip
HEIR = KeyPair.from_seed(b"e" * 32)
HANDOVER = Handover(
    NETWORK, LEASE.lease_id, LEASE.segment_id, 29, HOLDER_ID, peer_id_of(HEIR.public), 20_833
).sign(HOLDER)  # fmt: skip
GRANTED = replace(
    LEASE,
    lease_id=LeaseId(b"k" * 16),
    holder=peer_id_of(HEIR.public),
    end_day=20_833,
    start_day=20_832,
    nonce=granted_nonce(1, b"n" * 12),
    owner_signature=b"",
    holder_signature=b"",
)
INTENT = RepairIntent(NETWORK, SegmentId(b"s" * 32), bytes([1, 5, 29]), 2, 20_840, HOLDER_ID).sign(HOLDER)
AUDIT = AuditReceipt(
    NETWORK, join_lease_ids([LEASE.lease_id, LeaseId(b"j" * 16)]), 20_840, b"c" * 32, 60, 60, 0, NOW_S,
    Outcome.PASSED, AUDITOR_ID, HOLDER_ID,
).sign(AUDITOR)  # fmt: skip
ANSWER = AuditAnswer(NETWORK, b"c" * 32, AUDITOR_ID, HOLDER_ID, bytes(range(64))).sign(HOLDER)
SERVE = ServeReceipt(
    NETWORK, session_of(20_840, b"0" * 12), HOLDER_ID, AccountId(LOW.public), LEASE.lease_id, 3 * 2**20
).sign(LOW)  # fmt: skip
STATE = PairState(
    NETWORK, AccountId(LOW.public), AccountId(HIGH.public), 694, 4, b"p" * 32, 5 * 10**6, 7 * 10**6
)  # fmt: skip
SIGNED_STATE = STATE.sign(LOW).sign(HIGH)
FORK = Equivocation.of(AccountId(LOW.public), SIGNED_STATE, replace(STATE, low_to_high=1).sign(LOW))
CLEAR = Clear(
    NETWORK, b"k" * 16, tuple(AccountId(key.public) for key in ACCOUNTS[:3]), 4 * 10**6,
    (b"1" * 32, b"2" * 32, b"3" * 32), AccountId(LOW.public), 695,
)  # fmt: skip
SIGNED_CLEAR = CLEAR.sign(ACCOUNTS[1]).sign(ACCOUNTS[2]).sign(LOW)
ABORT = Abort(NETWORK, CLEAR.record_id(), AccountId(HIGH.public)).sign(HIGH)

SIGNED: list[Record] = [
    CHARGE, GRANT, HANDOVER, INTENT, AUDIT, ANSWER, SERVE, SIGNED_STATE, SIGNED_CLEAR, ABORT, FORK,
]  # fmt: skip
TYPES: list[type[Record]] = [type(record) for record in SIGNED]

ids = st.binary(min_size=32, max_size=32)
short_ids = st.binary(min_size=16, max_size=16)
signatures = st.just(b"") | st.binary(min_size=64, max_size=64)
accounts = ids.map(AccountId)
peer_ids = ids.map(peer_id_of)
micros = st.integers(0, limits.CREDIT_MICRO_MAX)
networks = st.just(NETWORK)
days = st.integers(0, limits.RECORD_DAY_MAX)
periods = st.integers(0, limits.CREDIT_PERIOD_MAX)

charges = st.builds(Charge, network=networks, lease_record=ids, account=accounts, signature=signatures)
grants = st.builds(
    RepairGrant,
    network=networks,
    segment_id=ids.map(SegmentId),
    owner_key=ids.map(OwnerKey),
    generation_max=st.integers(0, limits.REPAIR_GENERATION_MAX),
    rate=st.integers(0, limits.RATE_MICRO_MAX),
    data_shards=st.integers(1, 100),
    total_shards=st.integers(100, 255),
    account=accounts,
    max_credits=micros,
    expires_s=st.integers(0, limits.RECORD_TIME_S_MAX),
    owner_signature=signatures,
    account_signature=signatures,
)
handovers = st.builds(
    Handover,
    network=networks,
    lease_id=short_ids.map(LeaseId),
    segment_id=ids.map(SegmentId),
    shard_index=st.integers(0, 254),
    holder=st.just(HOLDER_ID),
    successor=peer_ids.filter(lambda peer: peer != HOLDER_ID),
    day=days,
    signature=signatures,
)
intents = st.builds(
    RepairIntent,
    network=networks,
    segment_id=ids.map(SegmentId),
    indexes=st.sets(st.integers(0, 254), min_size=1).map(lambda indexes: bytes(sorted(indexes))),
    generation=st.integers(0, limits.REPAIR_GENERATION_MAX),
    day=days,
    holder=peer_ids,
    signature=signatures,
)
counts = st.sampled_from([
    (Outcome.PASSED, 2_000, 2_000, 0), (Outcome.SLOW, 1, 1, 0), (Outcome.FAILED, 60, 58, 2),
    (Outcome.FAILED, 60, 3, 1), (Outcome.NO_ANSWER, 60, 0, 0), (Outcome.UNKNOWN, 0, 0, 0),
])  # fmt: skip
audits = st.builds(
    lambda receipt, count: replace(
        receipt, outcome=count[0], asked_count=count[1], passed_count=count[2], failed_count=count[3]
    ),
    st.builds(
        AuditReceipt,
        network=networks,
        leases=st.sets(short_ids.map(LeaseId), min_size=1, max_size=20).map(join_lease_ids),
        round_number=days,
        nonce=ids,
        asked_count=st.just(0),
        passed_count=st.just(0),
        failed_count=st.just(0),
        time_s=st.integers(0, limits.RECORD_TIME_S_MAX),
        outcome=st.just(Outcome.UNKNOWN),
        auditor=peer_ids,
        donor=st.just(HOLDER_ID),
        signature=signatures,
    ),
    counts,
)
answers = st.builds(
    AuditAnswer,
    network=networks,
    nonce=ids,
    auditor=peer_ids,
    donor=peer_ids,
    digests=st.lists(ids, min_size=1, max_size=9).map(b"".join),
    signature=signatures,
)
serves = st.builds(
    ServeReceipt,
    network=networks,
    session=st.builds(session_of, days, st.binary(min_size=12, max_size=12)),
    donor=peer_ids,
    reader=accounts,
    lease_id=short_ids.map(LeaseId),
    byte_count=st.integers(0, limits.BYTE_COUNT_MAX),
    signature=signatures,
)
states = st.builds(
    lambda state, pair: replace(state, low=min(pair), high=max(pair)),
    st.builds(
        PairState,
        network=networks,
        low=accounts,
        high=accounts,
        period=periods,
        sequence=st.integers(0, limits.PAIR_SEQUENCE_MAX),
        previous=st.just(b"") | ids,
        low_to_high=micros,
        high_to_low=micros,
        low_signature=signatures,
        high_signature=signatures,
    ),
    st.lists(accounts, min_size=2, max_size=2, unique=True),
)
clears = st.builds(
    lambda clear, cycle, made: replace(
        clear,
        cycle=tuple(cycle),
        initiator=cycle[0],
        pair_states=tuple(state for state, _ in made[: len(cycle)]),
        signatures=(*(signature for _, signature in made[: len(cycle)]), b"")[:4],
    ),
    st.builds(
        Clear,
        network=networks,
        clear_id=short_ids,
        cycle=st.just(()),
        amount=st.integers(1, limits.CREDIT_MICRO_MAX),
        pair_states=st.just(()),
        initiator=accounts,
        end_period=periods,
    ),
    st.lists(accounts, min_size=3, max_size=4, unique=True),
    st.lists(st.tuples(ids, signatures), min_size=4, max_size=4),
)
aborts = st.builds(Abort, network=networks, clear_record=ids, member=accounts, signature=signatures)
forks = st.builds(
    lambda state, total: Equivocation.of(state.low, state, replace(state, low_to_high=total)),
    states.filter(lambda state: state.low_to_high > 0),
    st.just(0),
)
records: st.SearchStrategy[Record] = (
    charges | grants | handovers | intents | audits | answers | serves | states | clears | aborts | forks
)
