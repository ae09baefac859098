"""Streams of a protocol: a peer's share, a subnet's, everybody's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node import limits
from node.net.addresses import Endpoint
from node.net.admission import Service
from node.ports import Stream
from node.units import PeerId

PART = limits.STREAMS_SUBNET_PART


async def nothing(_stream: Stream) -> None:
    raise AssertionError


def peer(number: int) -> PeerId:
    return PeerId(b"peer %d" % number)


def at(ip: str) -> Endpoint:
    return Endpoint("ip6" if ":" in ip else "ip4", ip, 4001)


def test_many_peers_of_one_network_leave_room_for_others() -> None:
    service = Service(nothing, 16 * PART, 4)
    taken = [service.take(peer(number // 4), at(f"203.0.114.{number % 250}")) for number in range(100)]
    assert taken == [True] * 16 + [False] * 84
    assert service.take(peer(1000), at("203.0.115.1"))
    service.release(peer(0), at("203.0.114.0"))
    assert service.take(peer(1001), at("203.0.114.7"))
    assert not service.take(peer(1002), at("203.0.114.8"))


def test_one_peer_has_its_share_however_small_a_subnet_s_would_be() -> None:
    service = Service(nothing, PART, 3)
    assert [service.take(peer(1), at("203.0.114.1")) for _ in range(4)] == [True, True, True, False]


def test_local_networks_are_exempt() -> None:
    service = Service(nothing, 40, 2)
    for number in range(20):
        for _ in range(2):
            assert service.take(peer(number), at("127.0.0.1" if number % 2 else "fe80::1"))
    assert not service.take(peer(99), at("127.0.0.1"))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.booleans())))
def test_counts_are_those_of_the_open_streams(steps: list[tuple[int, int, bool]]) -> None:
    service = Service(nothing, 8, 3)
    held: list[tuple[PeerId, Endpoint]] = []
    for number, network, ends in steps:
        if ends and held:
            service.release(*held.pop(number % len(held)))
            continue
        wanted = (peer(number), at(f"203.0.{114 + network}.1"))
        of_peer = sum(1 for other, _ in held if other == wanted[0])
        of_network = sum(1 for _, where in held if where == wanted[1])
        allowed = len(held) < 8 and of_peer < 3 and of_network < service.streams_max_per_subnet
        assert service.take(*wanted) == allowed
        if allowed:
            held.append(wanted)
    for each in held:
        service.release(*each)
    assert not service._peers
    assert not service._subnets
