"""What the core needs from outside, as protocols. Layer 0.

Each port has a real adapter (`node/system`, `node/net`) and a simulated one (`simulations/`); both pass the
suite of `tests/conformance`. Time inside services comes from trio (`trio.current_time`, `trio.sleep`), which
a simulation replaces as a whole; `Clock` is only for the calendar.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import PurePath
from typing import Protocol, TypeVar

from node.units import Contact, Multiaddr, PeerId

T = TypeVar("T")
Buffer = bytes | bytearray | memoryview


class Clock(Protocol):
    """The calendar."""

    def now_s(self) -> int:
        """Seconds since the Unix epoch. May step in either direction."""
        ...


class Entropy(Protocol):
    """Unpredictable bytes (a simulation's are seeded)."""

    def random_bytes(self, count: int) -> bytes:
        """`count` bytes fit for keys."""
        ...


class Offload(Protocol):
    """Runs work that holds the processor or the disk away from the event loop."""

    async def run(self, function: Callable[[], T]) -> T:
        """The result of `function()`; its exceptions pass through. Not cancelled once started."""
        ...


class Stream(Protocol):
    """An ordered, reliable, two-way byte stream to one authenticated peer.

    A clean end may be a disguised reset (network.md, trap 3): whoever reads must know from the bytes
    themselves that a message is complete.
    """

    @property
    def peer_id(self) -> PeerId:
        """Who is at the other end, proved by the transport."""
        ...

    async def send_all(self, data: Buffer) -> None:
        """Send all of `data`. Raises `UnreachableError`. Cancelling it resets this stream, no other."""
        ...

    async def receive_some(self, max_bytes: int) -> bytes:
        """1 to `max_bytes` bytes, or b"" at the end. Raises `UnreachableError`."""
        ...

    async def close_write(self) -> None:
        """Say that nothing more will be sent; reading goes on."""
        ...

    async def aclose(self) -> None:
        """Close both directions. Never raises, never blocks for long, idempotent."""
        ...

    async def reset(self) -> None:
        """Drop both directions at once, unsent data included. Never raises, idempotent."""
        ...


StreamHandler = Callable[[Stream], Awaitable[None]]


class Network(Protocol):
    """Authenticated streams between peers."""

    @property
    def peer_id(self) -> PeerId:
        """This node."""
        ...

    def listen_addresses(self) -> tuple[Multiaddr, ...]:
        """Where others may dial this node, without the /p2p part."""
        ...

    def connected(self) -> tuple[PeerId, ...]:
        """Peers with a live connection."""
        ...

    def addresses_of(self, peer_id: PeerId) -> tuple[Multiaddr, ...]:
        """Where a connected peer is reached: the remote address of its connection when we dialled it."""
        ...

    def observed_address(self, peer_id: PeerId) -> Multiaddr | None:
        """The transport address a connected peer's bytes come from, for subnet rules; None if unknown."""
        ...

    async def connect(self, contact: Contact) -> None:
        """Have a live connection to the contact. Raises `UnreachableError`."""
        ...

    async def open_stream(self, contact: Contact, protocol: str) -> Stream:
        """A stream for `protocol`; dials `contact.addresses` if there is no connection.

        Raises:
            UnreachableError: no address answers as that peer.
            RefusedError: the peer does not speak `protocol` (code "protocol"), or has too many streams.
        """
        ...

    def serve(
        self, protocol: str, handler: StreamHandler, *, streams_max: int, streams_max_per_peer: int
    ) -> None:
        """Run `handler` in a task of its own for each incoming stream of `protocol`.

        The stream is closed when the handler returns and reset when it raises. A `NodeError` from a handler
        is logged at debug level and ends that stream alone. Beyond the limits an incoming stream is reset.
        """
        ...

    def on_connected(self, callback: Callable[[PeerId], None]) -> None:
        """Call back, without blocking, whenever a peer becomes connected, by either side's dial."""
        ...

    async def disconnect(self, peer_id: PeerId) -> None:
        """End the connection to a peer. Never raises."""
        ...


class ReadTransaction(Protocol):
    """A consistent view of all tables."""

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value, or None."""
        ...

    def scan(self, table: str, prefix: bytes = b"", start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Items in key order whose key begins with `prefix` and is >= `start`. Values are copies."""
        ...

    def count(self, table: str) -> int:
        """Number of items in a table, in O(1)."""
        ...


class WriteTransaction(ReadTransaction, Protocol):
    """A view that can change; sees its own changes."""

    def put(self, table: str, key: bytes, value: bytes) -> None:
        """Set a value. Keys are 1 to 511 bytes."""
        ...

    def delete(self, table: str, key: bytes) -> bool:
        """Remove a key; whether it was there."""
        ...


class KeyValue(Protocol):
    """Ordered tables with transactions."""

    def view(self) -> AbstractContextManager[ReadTransaction]:
        """A read transaction; keep it short."""
        ...

    def update(self, change: Callable[[WriteTransaction], T]) -> T:
        """Run `change` in a write transaction and commit it durably before returning its result.

        An exception aborts and passes through. `change` may run more than once (the map grows in
        between): it must have no effect outside the transaction. Raises `StoreError` on a disk fault.
        """
        ...

    def close(self) -> None:
        """Release the tables. Idempotent."""
        ...


class OpenFile(Protocol):
    """One open file, addressed by offset. Not shared between threads by itself; callers order writes."""

    def read_at(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes; fewer only at the end of the file."""
        ...

    def write_at(self, offset: int, data: Buffer) -> None:
        """Write all of `data`. Not durable before `sync`. Raises `StoreFullError` on ENOSPC, `StoreError`."""
        ...

    def sync(self) -> None:
        """Make every earlier write of this file durable."""
        ...

    def truncate(self, size: int) -> None:
        """Cut or extend to `size` bytes. Not durable before `sync`."""
        ...

    def size(self) -> int:
        """Length in bytes."""
        ...

    def close(self) -> None:
        """Idempotent."""
        ...


class Files(Protocol):
    """A folder of the node's own. Paths are relative to it; parents are made as needed."""

    def open(self, path: PurePath, *, create: bool = False) -> OpenFile:
        """Open for reading and writing. Raises `StoreError` (missing without `create`)."""
        ...

    def replace(self, path: PurePath, data: bytes, *, mode: int = 0o600) -> None:
        """Set the whole content atomically and durably: after a crash it is the old or the new one."""
        ...

    def read(self, path: PurePath) -> bytes | None:
        """The whole content, or None if there is no such file."""
        ...

    def rename(self, old: PurePath, new: PurePath) -> None:
        """Durable rename."""
        ...

    def delete(self, path: PurePath) -> None:
        """Remove a file durably; no error if it is missing."""
        ...

    def list(self, folder: PurePath) -> Sequence[str]:
        """Sorted names of the files in a folder; empty if it is missing."""
        ...

    def sync_folder(self, folder: PurePath) -> None:
        """Make created and removed names in a folder durable."""
        ...

    def allocated_bytes(self) -> int:
        """Bytes of disk allocated below this folder (blocks, not lengths)."""
        ...

    def free_bytes(self) -> int:
        """Bytes the file system still offers this process."""
        ...


class Directory(Protocol):
    """The DHT as chunks and the daemon see it. Keys of providers are multihashes."""

    async def find_peer(self, peer_id: PeerId) -> Contact | None:
        """Fresh addresses of a peer, or None."""
        ...

    async def find_providers(self, key: bytes, *, wanted: int) -> Sequence[Contact]:
        """Up to `wanted` peers that announced `key`; ends early once that many are known."""
        ...

    async def provide(self, keys: Sequence[bytes]) -> int:
        """Announce that this node provides `keys`, now, and keep announcing. The least number of peers
        that took the record of any key; 0 when nobody is known."""
        ...

    async def stop_providing(self, keys: Sequence[bytes]) -> None:
        """Announce these keys no longer."""
        ...

    def provided(self, *, after: bytes | None, limit: int) -> Sequence[bytes]:
        """Up to `limit` keys that this node announces, in an order that stays; go on after the last one."""
        ...

    async def put_value(self, key: bytes, value: bytes) -> int:
        """Store a value record at the nodes closest to `key`; how many took it."""
        ...

    async def get_value(self, key: bytes) -> bytes | None:
        """The best valid value found, or None."""
        ...

    async def sample_contacts(self, count: int) -> Sequence[Contact]:
        """Up to `count` live contacts from random parts of the key space, this node excluded."""
        ...
