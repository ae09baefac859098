"""Whether others can dial this node, from what it has seen. Layer 2, pure.

Nothing here is proof: peers may lie about the address they see, and who was not dialled yet may still be
reachable. So the standing says what is known and no more; there is no NAT traversal. A node takes part as a
server unless it is known to be unreachable, and one that listens only on a loopback or private network
serves that network.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Sequence
from enum import Enum

from node import limits
from node.net.addresses import Endpoint
from node.subnets import IpAddress, is_local, subnet

_VOICES_MIN = 3  # subnets that must agree before an observed address counts


class Standing(Enum):
    """What `cairn status` shows as `nat`."""

    LOCAL = "local"  # listens on loopback or private addresses, and no public peer was met
    PUBLIC = "public"  # was dialled from the public internet, or listens on the address that others see
    BEHIND_NAT = (
        "behind-nat"  # public peers see another address than it has or announces, and none dialled it
    )
    SILENT = "not-listening"
    UNKNOWN = "unknown"

    @property
    def serves(self) -> bool:
        """Whether to take part in the DHT as a server."""
        return self not in (Standing.BEHIND_NAT, Standing.SILENT)


class Reachability:
    """The observations behind a standing. Bounded."""

    def __init__(self) -> None:
        self._dialled_from_outside = False
        self._observed: OrderedDict[str, IpAddress] = OrderedDict()  # by the observer's subnet

    @staticmethod
    def is_telling(remote: Endpoint) -> bool:
        """Whether what this peer sees says anything: one on the same network sees a local address."""
        return remote.ip is not None and not is_local(remote.ip)

    def on_caller(self, remote: Endpoint) -> None:
        """Someone dialled this node."""
        if self.is_telling(remote):
            self._dialled_from_outside = True

    def on_observed(self, observer: Endpoint, packed_ip: bytes | None) -> None:
        """A peer said at which IP address it sees this node; one voice a subnet."""
        network = subnet(observer.ip) if observer.ip else None
        if network is None or packed_ip is None:
            return
        ip = ipaddress.ip_address(packed_ip)
        self._observed.pop(network, None)
        self._observed[network] = ip
        while len(self._observed) > limits.OBSERVATIONS_MAX:
            self._observed.popitem(last=False)

    def standing(self, own: Sequence[Endpoint], *, is_announced: bool = False) -> Standing:
        """What is known of a node that tells others its addresses `own`.

        With `is_announced` some were given by hand: its owner's word that they lead here is taken until
        somebody came, since a name, or the way out of a network, need not show the address of the way in.
        """
        if not own:
            return Standing.SILENT
        if self._dialled_from_outside:
            return Standing.PUBLIC
        ips = {endpoint.ip for endpoint in own}
        seen = self._observed_ip()
        if seen is not None:
            if seen in ips:
                return Standing.PUBLIC
            return Standing.UNKNOWN if is_announced else Standing.BEHIND_NAT
        if all(ip is not None and is_local(ip) for ip in ips):
            return Standing.LOCAL
        return Standing.UNKNOWN

    def _observed_ip(self) -> IpAddress | None:
        """The address that enough observers agree on."""
        voices = list(self._observed.values())
        agreed = max(voices, key=voices.count, default=None)
        return agreed if agreed is not None and voices.count(agreed) >= _VOICES_MIN else None
