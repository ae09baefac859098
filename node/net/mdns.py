"""Peers on the same network, found by multicast DNS (RFC 6762, RFC 6763). Layer 3, over zeroconf.

A service `_cairn._udp.local.` a node: the instance is the peer id, the TXT record holds its addresses.
libp2p's own `_p2p._udp` would also bring every IPFS node of the network, none of which stores for us.
What arrives is a hint like any address: who answers there must prove its peer id.

zeroconf runs its own threads; here it is started and ended in a worker thread, and what it finds crosses
into trio through the entry queue. A machine without multicast is no error, and a node that listens only on
loopback stays off the LAN.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio
from zeroconf import (
    Error as ZeroconfError,
)
from zeroconf import InterfaceChoice, IPVersion, ServiceBrowser, ServiceInfo, ServiceStateChange, Zeroconf

from node import limits
from node.crypto.identity import parse_peer_id, peer_id_text
from node.errors import UsageError
from node.net.addresses import Endpoint, parse_endpoint
from node.units import Contact, Multiaddr, PeerId

logger = logging.getLogger(__name__)

SERVICE_TYPE: Final = "_cairn._udp.local."
_MULTICAST_GROUP: Final = "224.0.0.251"
_ANSWER_TIMEOUT_MS: Final = 3_000


@asynccontextmanager
async def discovering(
    peer_id: PeerId,
    addresses: Sequence[Multiaddr],
    on_found: Callable[[Contact], None],
    *,
    interfaces: Sequence[str] | None = None,
) -> AsyncIterator[None]:
    """Announce this node and call `on_found` for others, until the context ends. Does not wait for either.

    `on_found` runs in trio, and must not block. `interfaces` limits the search to those addresses of this
    machine. Where multicast does not work this does nothing, without an error.
    """
    endpoints = [endpoint for endpoint in map(parse_endpoint, addresses) if endpoint is not None]
    if interfaces is None:
        endpoints = [endpoint for endpoint in endpoints if endpoint.ip is None or not endpoint.ip.is_loopback]
    if not endpoints:
        yield
        return
    search = _Search(peer_id, endpoints, on_found, interfaces)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(search.run)
        try:
            yield
        finally:
            nursery.cancel_scope.cancel()


class _Search:
    def __init__(
        self,
        peer_id: PeerId,
        endpoints: Sequence[Endpoint],
        on_found: Callable[[Contact], None],
        interfaces: Sequence[str] | None,
    ) -> None:
        self._peer_id = peer_id
        self._endpoints = endpoints
        self._on_found = on_found
        self._interfaces = interfaces
        self._token: trio.lowlevel.TrioToken | None = None

    async def run(self) -> None:
        """Until cancelled; the goodbye is sent before this returns."""
        self._token = trio.lowlevel.current_trio_token()
        started: Zeroconf | None = None
        try:
            started = await trio.to_thread.run_sync(self._start)
            await trio.sleep_forever()
        except (OSError, ZeroconfError) as error:
            logger.info("no multicast DNS on this network: %s", error)
        finally:
            if started is not None:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(started.close)

    def _start(self) -> Zeroconf:
        interfaces = list(self._interfaces) if self._interfaces is not None else InterfaceChoice.Default
        for interface in self._interfaces or ("0.0.0.0",):  # noqa: S104 - a datagram socket that only asks
            _check_multicast(interface)
        found = Zeroconf(interfaces=interfaces, ip_version=IPVersion.V4Only)
        try:
            found.register_service(self._service())
            ServiceBrowser(found, SERVICE_TYPE, handlers=[self._on_change])
        except BaseException:
            found.close()
            raise
        return found

    def _service(self) -> ServiceInfo:
        name = peer_id_text(self._peer_id)
        shown = self._endpoints[: limits.DIAL_ADDRESSES_MAX]
        texts = {f"address{index}": endpoint.multiaddr() for index, endpoint in enumerate(shown)}
        ips = [
            endpoint.ip.packed for endpoint in shown if endpoint.ip is not None and endpoint.ip.version == 4
        ]
        return ServiceInfo(
            SERVICE_TYPE,
            f"{name}.{SERVICE_TYPE}",
            port=shown[0].port,
            addresses=ips,
            properties=texts,
            server=f"cairn-{name[-16:].lower()}.local.",
        )

    def _on_change(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        """A node came, changed or left; runs in a thread of zeroconf's, which names the arguments."""
        try:
            peer_id = parse_peer_id(name.removesuffix("." + SERVICE_TYPE))
        except UsageError:
            return
        if state_change is ServiceStateChange.Removed or peer_id == self._peer_id or self._token is None:
            return
        info = zeroconf.get_service_info(service_type, name, timeout=_ANSWER_TIMEOUT_MS)
        if info is None:
            return
        try:
            self._token.run_sync_soon(self._on_found, Contact(peer_id, _addresses_in(info)))
        except trio.RunFinishedError:
            return


def _check_multicast(interface: str) -> None:
    """Raise `OSError` where multicast does not work: zeroconf would leave sockets open when it fails."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((interface, 0))
        membership = socket.inet_aton(_MULTICAST_GROUP) + socket.inet_aton(interface)
        probe.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)


def _addresses_in(info: ServiceInfo) -> tuple[Multiaddr, ...]:
    """The valid ones of the TXT record, at most as many as are ever dialled."""
    found: list[Multiaddr] = []
    for index in range(limits.DIAL_ADDRESSES_MAX):
        value = info.properties.get(f"address{index}".encode())
        endpoint = parse_endpoint(value.decode("utf-8", "replace")) if value is not None else None
        if endpoint is not None:
            found.append(endpoint.multiaddr())
    return tuple(found)
