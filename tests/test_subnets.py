"""Which network an address belongs to."""

from __future__ import annotations

import pytest

from node.subnets import ip_of, is_local, plain_ip, subnet, subnet_of
from node.units import Multiaddr


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("/ip4/8.8.4.4/tcp/1", "8.8.4.0/24"),
        ("/ip6/2a00:1450:4001:82f::1/tcp/1", "2a00:1450:4001::/48"),
        ("/ip6/::ffff:8.8.4.4/tcp/1", "8.8.4.0/24"),
        ("/ip4/198.51.100.7/tcp/4001", None),  # the range for documentation counts as private
        ("/ip4/127.0.0.1/tcp/1", None),
        ("/ip4/10.1.2.3/tcp/1", None),
        ("/ip4/192.168.0.1/tcp/1", None),
        ("/ip6/::ffff:192.168.0.1/tcp/1", None),
        ("/ip6/::1/tcp/1", None),
        ("/ip6/fe80::1%eth0/tcp/1", None),
        ("/ip6/fd00::1/tcp/1", None),
    ],
)
def test_networks_share_an_allowance_unless_local(address: str, expected: str | None) -> None:
    assert subnet_of(Multiaddr(address)) == expected
    ip = plain_ip(address.split("/")[2])
    assert ip == ip_of(Multiaddr(address))
    assert subnet(ip) == expected
    assert is_local(ip) == (expected is None)


@pytest.mark.parametrize(
    "address",
    ["/dns4/node.example.org/tcp/1", "/ip4/999.1.1.1/tcp/1", "/ip4", "", "/ip4/8.8.4.4/tcp/1/p2p-circuit"],
)
def test_what_begins_with_no_address_of_its_own_has_no_network(address: str) -> None:
    assert ip_of(Multiaddr(address)) is None
    assert subnet_of(Multiaddr(address)) is None
    assert subnet_of(None) is None
