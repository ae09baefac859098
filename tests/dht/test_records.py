"""What may be stored, and which value wins."""

from __future__ import annotations

from contextlib import suppress
from hashlib import sha256
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import limits
from node.dht.records import (
    PublicKeyValidator,
    Quota,
    ValueRules,
    check_multihash,
    is_peer_id,
    namespace_of,
    provider_is_admitted,
    value_is_admitted,
)
from node.errors import CryptoError, ProtocolError
from tests.dht.support import VALIDATORS, multihash_of, peer_id_of

RULES = ValueRules(VALIDATORS)


@pytest.mark.parametrize(
    "key",
    [
        multihash_of(1),
        b"\x12\x20" + bytes(32),
        b"\x00\x24" + bytes(36),
        b"\xb2\x40\x20" + bytes(32),  # a code of two bytes
    ],
)
def test_multihashes_are_accepted(key: bytes) -> None:
    check_multihash(key)


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"\x12",
        b"\x12\x20",
        b"\x12\x20" + bytes(31),
        b"\x12\x20" + bytes(33),
        b"\x80\x80\x80\x80\x80\x20" + bytes(32),
        b"\xff" * 40,
        b"\x12\x7f" + bytes(limits.DHT_KEY_BYTES_MAX),
        b"/cairn-hint/x",
    ],
)
def test_other_keys_are_refused(key: bytes) -> None:
    with pytest.raises(ProtocolError):
        check_multihash(key)


@given(st.binary(max_size=200))
def test_any_bytes_are_judged_without_another_error(data: bytes) -> None:
    for judge in (check_multihash, namespace_of):
        with suppress(ProtocolError):
            judge(data)
    is_peer_id(data)


@pytest.mark.parametrize(
    ("data", "is_one"),
    [
        (peer_id_of(1), True),
        (b"\x12\x20" + bytes(32), True),
        (b"\x12\x1f" + bytes(31), False),
        (b"\x1e\x20" + bytes(32), False),
        (b"\x00\x24" + bytes(35), False),
        (b"\x00\x29" + bytes(41), False),
        (b"", False),
    ],
)
def test_peer_ids(data: bytes, is_one: bool) -> None:
    assert is_peer_id(data) == is_one


@pytest.mark.parametrize(
    ("key", "namespace"),
    [
        (b"/pk/x", b"pk"),
        (b"/cairn-hint/a/b", b"cairn-hint"),
        (b"/pk/", None),
        (b"pk/x", None),
        (b"//x", None),
    ],
)
def test_namespace(key: bytes, namespace: bytes | None) -> None:
    if namespace is None:
        with pytest.raises(ProtocolError):
            namespace_of(key)
    else:
        assert namespace_of(key) == namespace


def test_values_need_a_validator_that_accepts_them_and_a_size() -> None:
    RULES.check(b"/numbered/a", b"1:x", now_s=0)
    for key, value in [
        (b"/unknown/a", b"1:x"),
        (b"/numbered/a", b"x"),
        (b"/numbered/a", b"1:" + bytes(limits.DHT_VALUE_BYTES_MAX)),
    ]:
        assert not RULES.is_valid(key, value, now_s=0)


def test_a_broken_signature_is_an_invalid_value() -> None:
    class Forged:
        def validate(self, key: bytes, value: bytes, *, now_s: int) -> None:
            raise CryptoError("the signature does not hold")

        def expires_s(self, key: bytes, value: bytes) -> int | None:
            return None

        def sequence(self, key: bytes, value: bytes) -> int:
            return 0

    with pytest.raises(ProtocolError):
        ValueRules({b"signed": Forged()}).check(b"/signed/a", b"x", now_s=0)


@given(st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=2)), min_size=1, max_size=4))
def test_every_order_of_arrival_ends_with_the_same_value(versions: list[tuple[int, bytes]]) -> None:
    values = [b"%d:%s" % version for version in versions]
    winners = set()
    for order in permutations(values):
        best = order[0]
        for value in order[1:]:
            if RULES.is_better(b"/numbered/a", value, best):
                best = value
        winners.add(best)
    assert len(winners) == 1
    (winner,) = winners
    assert int(winner.partition(b":")[0]) == max(number for number, _ in versions)


def test_public_keys_prove_themselves() -> None:
    short, long = b"\x08\x01\x12\x20" + bytes(32), b"\x08\x00\x12\x80" + bytes(300)
    validator = PublicKeyValidator()
    validator.validate(b"/pk/\x00\x24" + short, short, now_s=0)
    validator.validate(b"/pk/\x12\x20" + sha256(long).digest(), long, now_s=0)
    validator.validate(b"/pk/\x12\x20" + sha256(short).digest(), short, now_s=0)
    for key, value in [
        (b"/pk/\x00\x24" + short, bytes(36)),
        (b"/pk/\x12\x20" + bytes(32), long),
        (b"/xx/\x00\x24" + short, short),
        (b"/pk/", b""),
    ]:
        with pytest.raises(ProtocolError):
            validator.validate(key, value, now_s=0)


def test_quotas_refuse_newcomers_and_never_a_refresh() -> None:
    full = {
        "of_key": limits.DHT_PROVIDERS_PER_KEY_MAX,
        "of_peer": limits.DHT_PROVIDER_RECORDS_PER_PEER_MAX,
        "total": limits.DHT_PROVIDER_RECORDS_MAX,
        "weight_bytes": limits.DHT_RECORDS_BYTES_MAX + 1,
    }
    assert provider_is_admitted(Quota(), is_known=True, **full)
    assert provider_is_admitted(Quota(), is_known=False, **{name: count - 1 for name, count in full.items()})
    for name in full:
        nearly = {other: count - (other != name) for other, count in full.items()}
        assert not provider_is_admitted(Quota(), is_known=False, **nearly)
    assert value_is_admitted(Quota(), of_peer=0, total=0)
    assert not value_is_admitted(Quota(), of_peer=limits.DHT_VALUE_RECORDS_PER_PEER_MAX, total=0)
    assert not value_is_admitted(Quota(), of_peer=0, total=limits.DHT_VALUE_RECORDS_MAX)


def test_a_small_donor_keeps_less_and_no_peer_all_of_it() -> None:
    small, large = Quota.within(512 * 1024), Quota.within(10**12)
    assert large == Quota()
    assert small.weight_bytes == 512 * 1024
    assert small.values_per_peer * limits.DHT_VALUE_BYTES_MAX <= small.weight_bytes / 2
    assert small.providers_per_peer < Quota().providers_per_peer
