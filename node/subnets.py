"""IP networks: who shares one, and which are local. Layer 1, pure.

Identities are free, networks are not: what strangers may have at once is counted a /24 (IPv6: /48). An IPv4
address inside IPv6 counts as the IPv4 address that it is.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from node import limits
from node.units import Multiaddr

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def plain_ip(host: str) -> IpAddress:
    """An IP address without a scope, unmapped where it is IPv4 inside IPv6. Raises `ValueError`."""
    ip = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    return ip


@lru_cache(maxsize=limits.DHT_ADDRESS_CACHE_ITEMS)
def ip_of(address: Multiaddr) -> IpAddress | None:
    """The IP address that a multiaddr begins with, or None (a name, a relay)."""
    parts = address.split("/", 3)
    if len(parts) < 3 or parts[0] or parts[1] not in ("ip4", "ip6") or "/p2p-circuit" in address:
        return None
    try:
        return plain_ip(parts[2])
    except ValueError:
        return None


@lru_cache(maxsize=limits.DHT_ADDRESS_CACHE_ITEMS)
def is_local(ip: IpAddress) -> bool:
    """Whether the address is of a loopback, private or link-local network."""
    return ip.is_loopback or ip.is_private or ip.is_link_local


@lru_cache(maxsize=limits.DHT_ADDRESS_CACHE_ITEMS)
def subnet(ip: IpAddress) -> str | None:
    """The /24 (IPv6: /48) that shares one allowance; None for local networks, which are exempt."""
    if is_local(ip):
        return None
    return str(ipaddress.ip_network((ip, 24 if ip.version == 4 else 48), strict=False))


@lru_cache(maxsize=limits.DHT_ADDRESS_CACHE_ITEMS)
def subnet_of(address: Multiaddr | None) -> str | None:
    """As `subnet`, of a multiaddr; None also for one that begins with no IP address, or for none."""
    ip = None if address is None else ip_of(address)
    return None if ip is None else subnet(ip)
