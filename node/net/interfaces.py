"""The addresses of this machine, as others would dial them. Layer 3, over the routing table."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from node.net.addresses import Endpoint


def advertised(bound: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    """What to tell others of the sockets bound here: a wildcard becomes this machine's own address."""
    found: list[Endpoint] = []
    for endpoint in bound:
        ip = endpoint.ip
        if ip is None or not ip.is_unspecified:
            found.append(endpoint)
            continue
        host = _own_address(ip.version)
        if host is not None:
            found.append(Endpoint(endpoint.kind, host, endpoint.port))
    return tuple(dict.fromkeys(found))


def _own_address(version: int) -> str | None:
    """The address from which this machine would reach others; loopback without a network.

    Connecting a datagram socket sends nothing: it only asks the routing table.
    """
    family, outside, loopback = (
        (socket.AF_INET, "192.0.2.1", "127.0.0.1")
        if version == 4
        else (socket.AF_INET6, "2001:db8::1", "::1")
    )
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((outside, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return loopback
