"""What a node knows of its own reachability, and no more."""

from __future__ import annotations

import ipaddress

import pytest

from node import limits
from node.net.addresses import Endpoint
from node.net.interfaces import advertised
from node.net.reachability import Reachability, Standing

PUBLIC = Endpoint("ip4", "198.51.99.7", 4001)
PRIVATE = Endpoint("ip4", "192.168.1.5", 4001)
LOOPBACK = Endpoint("ip4", "127.0.0.1", 4001)


def observer(index: int) -> Endpoint:
    return Endpoint("ip4", f"8.{index // 250}.{index % 250}.1", 4001)


def observed(ip: str, *, voices: int) -> Reachability:
    reachability = Reachability()
    for index in range(voices):
        reachability.on_observed(observer(index), ipaddress.ip_address(ip).packed)
    return reachability


def test_nobody_listens_nobody_reaches() -> None:
    assert Reachability().standing([]) is Standing.SILENT
    assert not Standing.SILENT.serves


def test_local_listeners_serve() -> None:
    assert Reachability().standing([LOOPBACK]) is Standing.LOCAL
    assert Reachability().standing([PRIVATE, LOOPBACK]) is Standing.LOCAL
    assert Standing.LOCAL.serves


def test_a_public_caller_proves_it() -> None:
    reachability = Reachability()
    reachability.on_caller(PRIVATE)
    assert reachability.standing([PRIVATE]) is Standing.LOCAL
    reachability.on_caller(observer(1))
    assert reachability.standing([PRIVATE]) is Standing.PUBLIC


def test_another_address_outside_is_nat() -> None:
    assert observed("198.51.99.7", voices=3).standing([PRIVATE]) is Standing.BEHIND_NAT
    assert observed("198.51.99.7", voices=3).standing([PUBLIC]) is Standing.PUBLIC
    assert not Standing.BEHIND_NAT.serves


def test_an_announced_address_is_the_owner_s_word() -> None:
    """A forwarded port: what others see is announced, or the way out differs from the way in."""
    seen = observed("198.51.99.7", voices=3)
    assert seen.standing([PUBLIC, PRIVATE], is_announced=True) is Standing.PUBLIC
    named = Endpoint("dns4", "node.example.org", 4001)
    assert seen.standing([named, PRIVATE], is_announced=True) is Standing.UNKNOWN
    assert Standing.UNKNOWN.serves
    assert seen.standing([named, PRIVATE]) is Standing.BEHIND_NAT


def test_two_voices_or_one_network_are_not_enough() -> None:
    assert observed("198.51.99.7", voices=2).standing([PRIVATE]) is Standing.LOCAL
    reachability = Reachability()
    for host in range(1, 50):
        reachability.on_observed(Endpoint("ip4", f"8.8.8.{host}", 1), b"\xc6\x33\x63\x07")
    assert reachability.standing([PRIVATE]) is Standing.LOCAL


def test_observations_are_bounded() -> None:
    reachability = observed("198.51.99.7", voices=limits.OBSERVATIONS_MAX * 3)
    assert len(reachability._observed) == limits.OBSERVATIONS_MAX


def test_a_wildcard_is_shown_as_an_address_of_this_machine() -> None:
    (shown,) = advertised([Endpoint("ip4", "0.0.0.0", 4001)])
    assert shown.port == 4001
    assert shown.ip is not None
    assert not shown.ip.is_unspecified
    assert advertised([LOOPBACK]) == (LOOPBACK,)


def test_without_a_network_only_this_machine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.net.interfaces._own_address", lambda _version: None)
    wildcards = [Endpoint("ip4", "0.0.0.0", 4001), Endpoint("ip6", "::", 4001)]
    assert advertised(wildcards) == (Endpoint("ip4", "127.0.0.1", 4001), Endpoint("ip6", "::1", 4001))
    assert advertised([LOOPBACK, *wildcards]) == (LOOPBACK,)
