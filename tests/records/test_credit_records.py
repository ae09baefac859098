"""Records about credit: one encoding, bounded, signed by whom they name, and of no effect anywhere else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node import limits, wire
from node.crypto.identity import peer_id_of
from node.crypto.signing import KeyPair
from node.errors import CryptoError, ProtocolError
from node.records.base import Record
from node.records.lease import Lease, Release
from node.records.offer import DeviceCert, Offer
from node.records.pair_state import Equivocation
from node.records.receipt import AuditReceipt, Outcome, join_lease_ids, session_of
from node.units import AccountId, LeaseId
from tests.records import credit_samples as samples
from tests.records.credit_samples import (
    ACCOUNTS,
    AUDIT,
    AUDITOR,
    CLEAR,
    HIGH,
    INTENT,
    LOW,
    NETWORK,
    SIGNED_CLEAR,
    SIGNED_STATE,
    STATE,
)  # fmt: skip
from tests.records.damage import damaged

ALL_TYPES: list[type[Record]] = [*samples.TYPES, Lease, Release, Offer, DeviceCert]
OTHER = KeyPair.from_seed(b"x" * 32)
by_type = pytest.mark.parametrize("record", samples.SIGNED, ids=lambda record: record.TYPE)
signed_types = pytest.mark.parametrize(
    "record",
    [record for record in samples.SIGNED if not isinstance(record, Equivocation)],
    ids=lambda record: record.TYPE,
)


@given(samples.records)
def test_what_decodes_is_what_was_encoded(record: Record) -> None:
    encoded = record.encode()
    again = type(record).decode(encoded, network=NETWORK)
    assert again == record
    assert again.encode() == encoded
    assert again.record_id() == record.record_id()


@settings(max_examples=200)
@given(st.sampled_from(samples.SIGNED), st.data())
def test_what_decodes_re_encodes_to_the_same_bytes(record: Record, data: st.DataObject) -> None:
    """On bytes next to good ones; and whatever still decodes is no longer signed."""
    encoded = damaged(record.encode(), data)
    try:
        decoded = type(record).decode(encoded, network=NETWORK)
    except ProtocolError:
        return
    assert decoded.encode() == encoded
    if not isinstance(record, Equivocation):  # its proof needs one signature of each state's two
        with pytest.raises(CryptoError):
            decoded.verify()


@signed_types
def test_every_field_is_signed(record: Record) -> None:
    """Change one item of the body at a time: no signature holds any more, or no such record is read."""
    body, *signed = wire.decode(record.encode(), size_max=10**4)
    items = wire.decode(wire.expect_bytes(body), size_max=10**4)
    for position in range(3, len(items)):
        item = items[position]
        match item:
            case int():
                changed: wire.Value = item + 1
            case bytes():
                changed = item[:-1] + bytes([item[-1] ^ 1])
            case _:
                changed = list(reversed(wire.expect_list(item)))
        other = wire.encode([wire.encode([*items[:position], changed, *items[position + 1 :]]), *signed])
        with pytest.raises((CryptoError, ProtocolError)):
            type(record).decode(other, network=NETWORK).verify()


@signed_types
def test_a_missing_signature_is_noticed(record: Record) -> None:
    body, *signed = wire.decode(record.encode(), size_max=10**4)
    for position, signature in enumerate(signed):
        if not signature:
            continue  # the fourth of a cycle of three
        less = [*signed[:position], b"", *signed[position + 1 :]]
        with pytest.raises(CryptoError, match="not signed"):
            type(record).decode(wire.encode([body, *less]), network=NETWORK).verify()


@signed_types
def test_only_those_named_can_sign(record: Record) -> None:
    for sign in ("sign", "sign_as_owner"):
        method = getattr(record, sign, None)
        if method is not None:
            arguments = [OTHER] * (2 if record.TYPE == "repair-grant" else 1)
            with pytest.raises(CryptoError):
                method(*arguments)


def test_the_largest_records_fit_their_caps() -> None:
    """Every integer at its largest, every list at its longest."""
    top, micro = limits.RECORD_TIME_S_MAX, limits.CREDIT_MICRO_MAX
    many = join_lease_ids(LeaseId(n.to_bytes(16, "big")) for n in range(limits.AUDIT_SAMPLES_MAX))
    receipt = replace(AUDIT, leases=many, round_number=top, time_s=top, asked_count=2000, passed_count=2000)
    cycle = tuple(AccountId(key.public) for key in ACCOUNTS)
    clear = replace(CLEAR, cycle=cycle, initiator=cycle[0], pair_states=(b"s" * 32,) * 4, amount=micro)
    for key in (*ACCOUNTS[1:], ACCOUNTS[0]):
        clear = clear.sign(key)
    state = replace(
        STATE, period=limits.CREDIT_PERIOD_MAX, sequence=limits.PAIR_SEQUENCE_MAX, low_to_high=micro,
        high_to_low=micro,
    )  # fmt: skip
    both = state.sign(LOW).sign(HIGH)
    fork = Equivocation.of(
        AccountId(LOW.public), both, replace(state, previous=b"q" * 32).sign(HIGH).sign(LOW)
    )
    grant = replace(
        samples.GRANT, generation_max=limits.REPAIR_GENERATION_MAX, rate=limits.RATE_MICRO_MAX,
        total_shards=255, data_shards=255, max_credits=micro, expires_s=top,
    )  # fmt: skip
    intent = replace(INTENT, indexes=bytes(range(255)), generation=2**32, day=limits.RECORD_DAY_MAX)
    answer = replace(samples.ANSWER, digests=bytes(32 * limits.AUDIT_SAMPLES_MAX))
    serve = replace(samples.SERVE, byte_count=limits.BYTE_COUNT_MAX)
    for record in (receipt, clear, both, fork, grant, intent, answer, serve):
        assert type(record).decode(record.encode(), network=NETWORK) == record


@pytest.mark.parametrize(
    "change",
    [
        {"leases": b""}, {"leases": b"i" * 15}, {"leases": b"j" * 16 + b"i" * 16}, {"leases": b"i" * 32},
        {"passed_count": 59}, {"asked_count": 0, "passed_count": 0}, {"failed_count": 1},
        {"outcome": Outcome.NO_ANSWER}, {"outcome": Outcome.FAILED}, {"auditor": samples.HOLDER_ID},
        {"asked_count": 2001, "passed_count": 2001},
    ],
)  # fmt: skip
def test_audit_receipts_that_make_no_sense_are_neither_signed_nor_read(change: dict[str, object]) -> None:
    receipt = replace(AUDIT, **change)  # type: ignore[arg-type]
    with pytest.raises(ProtocolError):
        AuditReceipt.decode(receipt.encode(), network=NETWORK)
    with pytest.raises(ProtocolError):
        receipt.sign_body(AUDITOR)


@pytest.mark.parametrize("indexes", [b"", b"\x02\x01", b"\x01\x01", b"\xff", bytes(256)])
def test_an_intent_names_shards_once_and_in_order(indexes: bytes) -> None:
    with pytest.raises(ProtocolError):
        replace(INTENT, indexes=indexes).sign(samples.HOLDER)


def test_a_pair_has_one_name() -> None:
    for low, high in ((STATE.high, STATE.low), (STATE.low, STATE.low)):
        with pytest.raises(ProtocolError):
            replace(STATE, low=low, high=high).sign(LOW)


def test_signatures_of_a_pair_do_not_stand_in_for_each_other() -> None:
    swapped = replace(
        SIGNED_STATE, low_signature=SIGNED_STATE.high_signature, high_signature=SIGNED_STATE.low_signature
    )
    with pytest.raises(CryptoError):
        swapped.verify()


def test_the_initiator_of_a_clear_signs_last() -> None:
    with pytest.raises(CryptoError, match="not signed"):
        CLEAR.sign(ACCOUNTS[1]).sign(LOW)
    forged = CLEAR.sign(ACCOUNTS[1])
    forged = replace(forged, signatures=(b"", forged.signatures[1], forged.signatures[1], b""))
    with pytest.raises(CryptoError, match="does not hold"):
        forged.sign(LOW)


def test_a_clear_names_each_account_once_and_its_initiator_first() -> None:
    one, two, three = CLEAR.cycle
    for change in (
        {"cycle": (one, two)}, {"cycle": (one, two, two)}, {"initiator": two}, {"amount": 0},
        {"cycle": (one, two, three, one)}, {"pair_states": CLEAR.pair_states[:2]},
        {"signatures": (b"", b"", b"", b"s" * 64)},
    ):  # fmt: skip
        with pytest.raises(ProtocolError):
            replace(CLEAR, **change).sign_body(ACCOUNTS[1])


def test_debts_go_around_the_cycle() -> None:
    one, two, three = CLEAR.cycle
    assert list(CLEAR.debts()) == [(one, two), (two, three), (three, one)]
    for debtor, creditor in CLEAR.debts():
        assert CLEAR.creditor_of(debtor) == creditor
        assert CLEAR.debtor_of(creditor) == debtor


@given(st.permutations(ACCOUNTS[1:3]), st.permutations(range(3)))
def test_signatures_of_a_clear_merge_in_any_order(signers: list[KeyPair], order: list[int]) -> None:
    parts = [CLEAR.sign(signers[0]), CLEAR.sign(signers[1]), SIGNED_CLEAR]
    merged = CLEAR
    for position in order:
        merged = merged.merge(parts[position]).merge(merged)
    assert merged == SIGNED_CLEAR
    with pytest.raises(ProtocolError):
        merged.merge(replace(CLEAR, amount=1))


def test_an_equivocation_needs_two_different_signed_states_of_one_slot() -> None:
    low = AccountId(LOW.public)
    fork = replace(STATE, high_to_low=1).sign(LOW)
    Equivocation.of(low, SIGNED_STATE, fork).verify()
    with pytest.raises(CryptoError):  # the other side signed only one of them
        Equivocation.of(AccountId(HIGH.public), SIGNED_STATE, fork).verify()
    with pytest.raises(CryptoError):  # nobody signed the second one
        Equivocation.of(low, SIGNED_STATE, replace(STATE, high_to_low=1)).verify()
    for other in (
        SIGNED_STATE, STATE.sign(LOW), replace(STATE, sequence=5).sign(LOW),
        replace(STATE, period=1).sign(LOW),
    ):  # fmt: skip
        with pytest.raises(ProtocolError):
            Equivocation.of(low, SIGNED_STATE, other)
    with pytest.raises(ProtocolError):
        Equivocation.of(AccountId(OTHER.public), SIGNED_STATE, fork)


def test_an_equivocation_has_one_form() -> None:
    fork = samples.FORK
    turned = replace(fork, first=fork.second, second=fork.first)
    with pytest.raises(ProtocolError):
        Equivocation.decode(turned.encode(), network=NETWORK)


def test_ids_against_replay() -> None:
    """A session carries its day; a charge names one lease and no other with the same lease id."""
    assert samples.SERVE.day == 20_840
    assert session_of(20_841, b"0" * 12) != samples.SERVE.session
    assert samples.CHARGE.lease_record == samples.LEASE.record_id()
    again = replace(samples.LEASE, holder=peer_id_of(OTHER.public))
    assert again.record_id() != samples.CHARGE.lease_record
    assert SIGNED_STATE.record_id() == STATE.record_id()
