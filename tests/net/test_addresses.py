"""Multiaddrs of TCP endpoints."""

from __future__ import annotations

import multiaddr
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.net.addresses import Endpoint, endpoint_of_socket, parse_endpoint


@pytest.mark.parametrize(
    "text",
    ["/ip4/192.0.2.7/tcp/4001", "/ip6/2001:db8::1/tcp/1", "/dns4/node.example.org/tcp/65535", "/dns/a/tcp/0"],
)
def test_text_and_binary_agree_with_the_multiaddr_package(text: str) -> None:
    endpoint = parse_endpoint(text)
    assert endpoint is not None
    assert endpoint.multiaddr() == text
    assert endpoint.binary() == multiaddr.Multiaddr(text).to_bytes()


def test_a_peer_at_the_end_is_passed_over() -> None:
    assert parse_endpoint("/ip4/192.0.2.7/tcp/4001/p2p/12D3KooW") == Endpoint("ip4", "192.0.2.7", 4001)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "/",
            "x",
            "/ip4",
            "/ip4/1.2.3/tcp/1",
            "/ip4/1.2.3.4/tcp",
            "/ip4/1.2.3.4/tcp/65536",
            "/ip4/::1/tcp/1",
        ),
        *("/ip6/1.2.3.4/tcp/1", "/ip6/fe80::1%eth0/tcp/1", "/ip4/1.2.3.4/udp/1", "/ip4/1.2.3.4/tcp/-1"),
        *("/ip4/1.2.3.4/tcp/1/ws", "/dns4//tcp/1", "/dns4/-a/tcp/1", "/dns4/a b/tcp/1", "/dns4/a\n/tcp/1"),
        *("/ip4/1.2.3.4/tcp/१", "/ip4/1.2.3.4/tcp/1/p2p-circuit/p2p/x", "/dns4/" + "a." * 200 + "/tcp/1"),
    ],
)
def test_what_cannot_be_dialled_is_no_endpoint(text: str) -> None:
    assert parse_endpoint(text) is None


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.text("/ip4tcdns6.:0123456789-", max_size=60))
def test_no_text_raises(text: str) -> None:
    endpoint = parse_endpoint(text)
    assert endpoint is None or parse_endpoint(endpoint.multiaddr()) == endpoint


def test_a_mapped_address_is_the_ipv4_address() -> None:
    assert endpoint_of_socket("::ffff:127.0.0.1", 5) == Endpoint("ip4", "127.0.0.1", 5)
