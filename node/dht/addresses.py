"""Which of the addresses that a peer tells are worth keeping. Layer 2, pure.

Invariant: a peer on the public internet can't make this node dial into its own local network.
"""

from __future__ import annotations

from collections.abc import Iterable

from node import limits
from node.subnets import ip_of, is_local
from node.units import Multiaddr


def dialable(addresses: Iterable[Multiaddr], *, teller: Multiaddr | None) -> tuple[Multiaddr, ...]:
    """The addresses worth keeping of those that a peer told, without repetition, at most as many as allowed.

    `teller` is where that peer's bytes come from: local addresses count only from a local teller. An unknown
    teller (None) counts as a public one.
    """
    teller_ip = None if teller is None else ip_of(teller)
    trust_local = teller_ip is not None and is_local(teller_ip)
    kept: dict[Multiaddr, None] = {}
    for address in addresses:
        ip = ip_of(address)
        if ip is not None and (ip.is_unspecified or ip.is_multicast):
            continue
        if trust_local or ip is None or not is_local(ip):
            kept[address] = None
        if len(kept) == limits.DHT_CONTACT_ADDRESSES_MAX:
            break
    return tuple(kept)
