"""Which addresses are kept."""

from __future__ import annotations

from node import limits
from node.dht.addresses import dialable
from node.units import Multiaddr

PUBLIC = Multiaddr("/ip4/8.8.4.4/tcp/4001")
PRIVATE = Multiaddr("/ip4/192.168.1.5/tcp/4001")


def test_a_public_peer_cannot_point_into_the_local_network() -> None:
    assert dialable([PRIVATE, PUBLIC], teller=PUBLIC) == (PUBLIC,)
    assert dialable([PRIVATE, PUBLIC], teller=None) == (PUBLIC,)
    assert dialable([PRIVATE, PUBLIC], teller=PRIVATE) == (PRIVATE, PUBLIC)


def test_nowhere_and_everywhere_are_not_dialled() -> None:
    bad = [Multiaddr("/ip4/0.0.0.0/tcp/1"), Multiaddr("/ip4/224.0.0.1/tcp/1"), Multiaddr("/ip6/::/tcp/1")]
    assert dialable(bad, teller=PRIVATE) == ()


def test_addresses_are_bounded_and_not_repeated() -> None:
    many = [Multiaddr(f"/ip4/8.8.4.4/tcp/{port}") for port in range(1, 100)]
    assert dialable([PUBLIC, PUBLIC], teller=None) == (PUBLIC,)
    assert len(dialable(many, teller=None)) == limits.DHT_CONTACT_ADDRESSES_MAX
