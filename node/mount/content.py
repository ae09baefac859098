"""The bytes of mounted files, cached and fetched ahead. Layer 4; threads.

A read is answered by the thread that the kernel's request came on; each sequence (node/mount/read_plan.py)
that needs stripes has a thread that receives them. All of them share one lock, which nobody holds while
waiting for the node.

Invariants: memory is bounded by the cache and a stripe for each run, whatever is read; a read waits at most
`Patience.wait_s` without progress; after a failure the reads of the next `Patience.failed_s` fail at once, so
that a program that tries page by page does not try the network page by page.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from node.errors import NoDaemonError, NodeError, TransferInterruptedError
from node.mount.block_cache import BlockCache
from node.mount.ports import Interrupted, ReadInterruptedError, Source
from node.mount.read_plan import ReadPlan, Sequence

CACHE_BYTES = 64 * 1024 * 1024
AHEAD_BYTES = 16 * 1024 * 1024
"""At most, of one reader; all readers together get half the cache."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a mount waits; seconds."""

    wait_s: float = 60.0
    """For the next stripe. The node's own deadlines are shorter: this is for a node that hangs."""
    gone_s: float = 10.0
    """For a node that does not run to run again."""
    paused_s: float = 20.0
    """A reader that rests for so long gets a new request afterwards; holders wait for 120 s."""
    failed_s: float = 1.0
    poll_s: float = 0.25
    """Between two looks whether the reader has been interrupted, and two tries to reach the node."""


@dataclass(eq=False)
class Content:
    """One file of the swarm, a folder's as it is packed."""

    link: str
    hash: str
    length: int
    stripe_bytes: int
    plan: ReadPlan = field(init=False)
    users: int = 0
    failure: tuple[NodeError, float] | None = None
    """The last one, and until when it answers."""

    def __post_init__(self) -> None:
        count = -(-self.length // self.stripe_bytes)
        self.plan = ReadPlan(stripe_count=count, stripe_bytes=self.stripe_bytes)


@dataclass(eq=False, slots=True)
class _Awaited:
    """A stripe that reads wait for: they get it, however short the cache is."""

    readers: int = 0
    block: bytes | None = None


class Contents:
    """Reads of all mounted files."""

    def __init__(
        self,
        source: Source,
        clock_s: Callable[[], float],
        *,
        patience: Patience | None = None,
        cache_bytes: int = CACHE_BYTES,
        ahead_bytes: int = AHEAD_BYTES,
    ) -> None:
        """`clock_s` only ever goes forward."""
        self._source = source
        self._clock_s = clock_s
        self._patience = patience or Patience()
        self._cache = BlockCache(cache_bytes)
        self._cache_bytes = cache_bytes
        self._ahead_bytes_max = ahead_bytes
        self._awaited: dict[tuple[str, int], _Awaited] = {}
        self._changed = threading.Condition()
        self._runs = 0
        self._stopped = False

    def use(self, content: Content) -> None:
        """Somebody has opened it."""
        with self._changed:
            content.users += 1

    def leave(self, content: Content) -> None:
        """Somebody has closed it: nothing is fetched for nobody."""
        with self._changed:
            content.users -= 1
            self._changed.notify_all()

    def stop(self) -> None:
        """End all waiting: reads fail, runs end."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def read(self, content: Content, start: int, stop: int, interrupted: Interrupted) -> bytes:
        """Bytes [start, stop), which are within the content.

        Raises `NodeError`; `ReadInterruptedError` among them.
        """
        if start >= stop:
            return b""
        size = content.stripe_bytes
        pieces = []
        for stripe in range(start // size, -(-stop // size)):
            block = self._stripe(content, stripe, -(-stop // size), interrupted)
            begin = stripe * size
            pieces.append(memoryview(block)[max(0, start - begin) : stop - begin])
        return b"".join(pieces)

    def _stripe(self, content: Content, stripe: int, stop: int, interrupted: Interrupted) -> bytes:
        """A stripe of a read that goes on to stripe `stop`."""
        with self._changed:
            block = self._cache.get((content.hash, stripe))
            missing = None if block is not None else stripe
            sequence = content.plan.want(stripe, stop, missing=missing, ahead_bytes=self._ahead_bytes)
            if block is not None:
                if sequence is not None:
                    self._go_on(content, sequence)
                return block
            assert sequence is not None
            key = content.hash, stripe
            awaited = self._awaited.setdefault(key, _Awaited())
            awaited.readers += 1
            sequence.waiting += 1
            try:
                return self._wait(content, sequence, stripe, awaited, interrupted)
            finally:
                sequence.waiting -= 1
                awaited.readers -= 1
                if not awaited.readers:
                    del self._awaited[key]

    def _wait(
        self,
        content: Content,
        sequence: Sequence,
        stripe: int,
        awaited: _Awaited,
        interrupted: Interrupted,
    ) -> bytes:
        deadline_s = self._clock_s() + self._patience.wait_s
        came = sequence.position
        while True:
            if awaited.block is not None:
                return awaited.block
            now_s = self._clock_s()
            if self._stopped or interrupted():
                raise ReadInterruptedError("the read was interrupted")
            if sequence.failure is not None:
                assert isinstance(sequence.failure, NodeError)
                raise sequence.failure
            if content.failure is not None and now_s < content.failure[1]:
                raise content.failure[0]
            if now_s >= deadline_s:
                content.plan.drop(sequence)
                raise TransferInterruptedError(f"nothing came for {self._patience.wait_s:.0f} s")
            if sequence.position > stripe and not sequence.is_running:
                # It came before this read did, and has gone from the cache since.
                sequence.position = stripe
            if sequence.position != came:
                came, deadline_s = sequence.position, now_s + self._patience.wait_s
            self._go_on(content, sequence)
            self._changed.wait(min(self._patience.poll_s, deadline_s - now_s))

    @property
    def _ahead_bytes(self) -> int:
        return min(self._ahead_bytes_max, self._cache_bytes // 2 // max(1, self._runs))

    def _go_on(self, content: Content, sequence: Sequence) -> None:
        """Start the next request of a sequence if it is time, and let a running one see that it may go on."""
        if sequence.is_running:
            self._changed.notify_all()
            return
        run = content.plan.next_run(sequence, self._ahead_bytes)
        if run is None or self._stopped:
            return
        start, sequence.run_stop = run
        self._runs += 1
        threading.Thread(target=self._receive, args=(content, sequence, start), daemon=True).start()

    def _receive(self, content: Content, sequence: Sequence, start: int) -> None:
        """The thread of one request."""
        failure: NodeError | None = NodeError("internal error while reading")
        try:
            failure = self._receive_all(content, sequence, start)
        finally:
            with self._changed:
                self._runs -= 1
                sequence.run_stop = None
                if failure is not None:
                    sequence.failure = failure
                    content.failure = failure, self._clock_s() + self._patience.failed_s
                    content.plan.drop(sequence)
                elif sequence.waiting:
                    self._go_on(content, sequence)
                self._changed.notify_all()

    def _receive_all(self, content: Content, sequence: Sequence, start: int) -> NodeError | None:
        """Receive a request's stripes, asking again while the node is away; what went wrong, if anything."""
        gone_since_s: float | None = None
        assert sequence.run_stop is not None
        while start < sequence.run_stop:
            try:
                self._receive_stripes(content, sequence, start, sequence.run_stop)
            except (NoDaemonError, TransferInterruptedError) as error:
                now_s = self._clock_s()
                if sequence.position > start or gone_since_s is None:
                    gone_since_s = now_s
                start = sequence.position
                if now_s - gone_since_s >= self._patience.gone_s or not self._pause(content):
                    return error
            except NodeError as error:
                return error
            else:
                break
        return None

    def _pause(self, content: Content) -> bool:
        """Wait before another try; whether it makes sense."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or not content.users, self._patience.poll_s)
            return not self._stopped and content.users > 0

    def _receive_stripes(self, content: Content, sequence: Sequence, start: int, stop: int) -> None:
        size = content.stripe_bytes
        end = min(content.length, stop * size)
        with self._source.stream(content.link, start * size, end) as stream:
            for stripe in range(start, stop):
                if not self._may_receive(content, sequence, stripe):
                    return
                block = stream.read(min(end, (stripe + 1) * size) - stripe * size)
                with self._changed:
                    self._cache.put((content.hash, stripe), block)
                    if awaited := self._awaited.get((content.hash, stripe)):
                        awaited.block = block
                    sequence.position = stripe + 1
                    self._changed.notify_all()

    def _may_receive(self, content: Content, sequence: Sequence, stripe: int) -> bool:
        """Wait until the reader is near enough; False if that takes too long, or nobody reads any more."""

        def is_decided() -> bool:
            return (
                self._stopped or not content.users or stripe < content.plan.limit(sequence, self._ahead_bytes)
            )

        with self._changed:
            self._changed.wait_for(is_decided, self._patience.paused_s)
            return (
                not self._stopped
                and content.users > 0
                and stripe < content.plan.limit(sequence, self._ahead_bytes)
            )
