"""Multiaddrs of TCP endpoints: parsing and binary form. Layer 2, pure.

Source: github.com/multiformats/multiaddr. Only what this node can dial is known here: an IP address or a
name, and a TCP port. Text comes from peers, so anything may be in it.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from node.subnets import IpAddress, plain_ip
from node.units import Multiaddr

_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")
_NAME_BYTES_MAX = 253  # RFC 1035
_CODES = {"ip4": 4, "tcp": 6, "dns": 53, "dns4": 54, "dns6": 55, "ip6": 41}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where TCP connects to. `ip` is None for a name."""

    kind: str
    host: str
    port: int

    @property
    def ip(self) -> IpAddress | None:
        """The address, an IPv4 one where it is only mapped into IPv6."""
        return plain_ip(self.host) if self.kind in ("ip4", "ip6") else None

    def multiaddr(self) -> Multiaddr:
        """The text form."""
        return Multiaddr(f"/{self.kind}/{self.host}/tcp/{self.port}")

    def binary(self) -> bytes:
        """The binary form of the specification."""
        if self.kind in ("ip4", "ip6"):
            host = ipaddress.ip_address(self.host).packed
        else:
            host = bytes((len(self.host),)) + self.host.encode("ascii")
        return bytes((_CODES[self.kind],)) + host + bytes((_CODES["tcp"],)) + self.port.to_bytes(2, "big")


def parse_endpoint(address: str) -> Endpoint | None:
    """The TCP endpoint of `/ip4/192.0.2.7/tcp/4001` and the like (a /p2p end is ignored), or None."""
    parts = address.split("/")
    if len(parts) == 7 and parts[5] in ("p2p", "ipfs"):
        parts = parts[:5]
    if len(parts) != 5 or parts[0] or parts[3] != "tcp" or parts[1] not in _CODES:
        return None
    kind, host, port_text = parts[1], parts[2], parts[4]
    if not (port_text.isascii() and port_text.isdecimal() and len(port_text) <= 5) or int(port_text) > 65_535:
        return None
    if kind in ("ip4", "ip6"):
        try:
            ip = ipaddress.ip_address(host)
        except ValueError:
            return None
        if ip.version != int(kind[2]) or "%" in host:
            return None
    elif len(host) > _NAME_BYTES_MAX or not _NAME.fullmatch(host):
        return None
    return Endpoint(kind, host, int(port_text))


def endpoint_of_socket(host: str, port: int) -> Endpoint:
    """The endpoint of what a socket says about its name or its peer."""
    ip = plain_ip(host)
    return Endpoint(f"ip{ip.version}", str(ip), port)
