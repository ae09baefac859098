"""The addresses of this machine, as others would dial them. Layer 3, over the routing table."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from node.net.addresses import Endpoint

_LOOPBACK = {4: "127.0.0.1", 6: "::1"}


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
    if not found:  # no network: whoever is on this machine can still dial
        found = [
            Endpoint(endpoint.kind, _LOOPBACK[endpoint.ip.version], endpoint.port)
            for endpoint in bound
            if endpoint.ip is not None
        ]
    return tuple(dict.fromkeys(found))


def _own_address(version: int) -> str | None:
    """The address from which this machine would reach others, None without a network.

    Connecting a datagram socket sends nothing: it only asks the routing table.
    """
    family, outside = (socket.AF_INET, "192.0.2.1") if version == 4 else (socket.AF_INET6, "2001:db8::1")
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((outside, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return None
