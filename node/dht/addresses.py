"""What an address says about a peer: its network for the diversity rules, and whether to dial it. Layer 2,
pure.

Invariant: a peer on the public internet can't make this node dial into its own local network.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

from node import limits
from node.units import Multiaddr

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@lru_cache(maxsize=limits.DHT_ADDRESS_CACHE_ITEMS)
def ip_of(address: Multiaddr) -> IpAddress | None:
    """The IP address that a multiaddr begins with, or None (a name, a relay)."""
    parts = address.split("/", 3)
    if len(parts) < 3 or parts[0] or parts[1] not in ("ip4", "ip6") or "/p2p-circuit" in address:
        return None
    try:
        ip = ipaddress.ip_address(parts[2].partition("%")[0])
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    return ip


@lru_cache(maxsize=limits.DHT_ADDRESS_CACHE_ITEMS)
def is_local(address: Multiaddr) -> bool:
    """Whether the address lies in a loopback, private or link-local network."""
    ip = ip_of(address)
    return ip is not None and (ip.is_loopback or ip.is_private or ip.is_link_local)


@lru_cache(maxsize=limits.DHT_ADDRESS_CACHE_ITEMS)
def subnet_of(address: Multiaddr) -> str | None:
    """The /24 (IPv6: /48) of an address; None where the diversity rules don't apply (local, or no IP)."""
    ip = ip_of(address)
    if ip is None or is_local(address):
        return None
    prefix = 24 if ip.version == 4 else 48
    return str(ipaddress.ip_network((ip, prefix), strict=False))


def dialable(addresses: Iterable[Multiaddr], *, teller: Multiaddr | None) -> tuple[Multiaddr, ...]:
    """The addresses worth keeping of those that a peer told, without repetition, at most as many as allowed.

    `teller` is where that peer's bytes come from: local addresses count only from a local teller. An unknown
    teller (None) counts as a public one.
    """
    trust_local = teller is not None and is_local(teller)
    kept: dict[Multiaddr, None] = {}
    for address in addresses:
        ip = ip_of(address)
        if ip is not None and (ip.is_unspecified or ip.is_multicast):
            continue
        if trust_local or not is_local(address):
            kept[address] = None
        if len(kept) == limits.DHT_CONTACT_ADDRESSES_MAX:
            break
    return tuple(kept)
