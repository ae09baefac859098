"""The node as a source: calls over a real control socket, with handlers that answer from memory."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
import trio.lowlevel

from node.control.server import Events, Json, serving
from node.daemon.home import Home
from node.errors import NoDaemonError, NotEnoughShardsError, TransferInterruptedError
from node.mount.node_source import NodeSource

DATA = bytes(range(256)) * 4_000
T = TypeVar("T")


class Node:
    """Answers as a node does; counts what was asked."""

    def __init__(self) -> None:
        self.requests: list[Json] = []
        self.cancelled = threading.Event()

    async def open(self, request: Json, events: Events) -> Json:
        self.requests.append(request)
        await events.note("found it")
        await events.data(b"")
        await events.data(b"index")
        return {"hash": "h", "name": "n", "bytes": 5, "folder": True, "created": None, "stripe_bytes": 10}

    async def read(self, request: Json, events: Events) -> Json:
        self.requests.append(request)
        first, stop = request["first"], request["last"] + 1
        try:
            for start in range(first, stop, 300_000):
                await events.data(DATA[start : min(stop, start + 300_000)])
                events.progress(done_bytes=start)
                await trio.lowlevel.checkpoint()
            if request["link"] == "endless":
                await trio.sleep_forever()
        except trio.Cancelled:
            self.cancelled.set()
            raise
        if request["link"] == "short":
            raise NotEnoughShardsError("segment 3: 2 of 10")
        return {"bytes": stop - first}

    async def ls(self, request: Json, _events: Events) -> Json:
        self.requests.append(request)
        return {"files": [{"hash": "h", "name": "n", "bytes": 1, "created": 2}]}


@asynccontextmanager
async def answering(home: Home, node: Node) -> AsyncIterator[NodeSource]:
    calls = {"open": node.open, "read": node.read, "ls": node.ls}
    async with serving(home.place_socket(), calls, log_path=home.log_path):
        source = NodeSource(home, "secret")
        try:
            yield source
        finally:
            source.close()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.make()
    return made


async def off(act: Callable[[], T]) -> T:
    """In a thread: a source blocks."""
    return await trio.to_thread.run_sync(act)


def read(source: NodeSource, link: str, first: int, stop: int, *counts: int) -> list[bytes]:
    with source.stream(link, first, stop) as stream:
        return [stream.read(count) for count in counts]


async def test_what_a_link_is_comes_with_its_index(home: Home) -> None:
    node = Node()
    async with answering(home, node) as source:
        opened = await off(lambda: source.open("link"))
        assert await off(source.own_files) == [("h", "n", 1, 2)]
    assert (opened.name, opened.size_bytes, opened.created_s, opened.index) == ("n", 5, None, b"index")
    assert node.requests == [{"link": "link", "password": "secret"}, {"brief": True}]


async def test_bytes_come_exactly_and_in_order_and_connections_are_used_again(home: Home) -> None:
    async with answering(home, Node()) as source:
        for first in (0, 17, 500_000):
            pieces = await off(partial(read, source, "link", first, 1_000_000, 1, 400_000, 599_999 - first))
            assert b"".join(pieces) == DATA[first:1_000_000]
            assert len(source._idle) == 1


async def test_leaving_early_ends_the_fetching(home: Home) -> None:
    node = Node()
    async with answering(home, node) as source:
        await off(partial(read, source, "endless", 0, 1_000_000, 10))
        assert await off(lambda: node.cancelled.wait(60))
        assert source._idle == []
        assert await off(partial(read, source, "link", 5, 15, 10)) == [DATA[5:15]]


async def test_an_error_is_the_one_that_the_node_raised(home: Home) -> None:
    async with answering(home, Node()) as source:
        with pytest.raises(NotEnoughShardsError, match="segment 3"):
            await off(partial(read, source, "short", 0, 10, 10))
        assert await off(partial(read, source, "link", 5, 15, 10)) == [DATA[5:15]]


async def test_a_node_that_was_started_again_is_asked_over_a_new_connection(home: Home) -> None:
    async with answering(home, Node()) as source:
        await off(partial(read, source, "link", 0, 10, 10))
        assert len(source._idle) == 1
    with pytest.raises(NoDaemonError):
        await off(partial(read, source, "link", 0, 10, 10))
    async with answering(home, Node()):
        assert await off(partial(read, source, "link", 0, 10, 10)) == [DATA[:10]]
        source.close()


async def test_an_old_connection_that_the_node_has_closed_is_not_noticed(home: Home) -> None:
    async with answering(home, Node()) as source:
        await off(partial(read, source, "link", 0, 10, 10))
        old = source._idle[0].sock
        assert old is not None
        old.shutdown(socket.SHUT_RDWR)
        assert await off(partial(read, source, "link", 5, 15, 10)) == [DATA[5:15]]


async def test_a_node_that_stops_while_it_answers_is_an_interruption(home: Home) -> None:
    def read_on(source: NodeSource, stop: Callable[[], None]) -> None:
        with source.stream("endless", 0, 1_000_000) as stream:
            stream.read(10)
            stop()
            stream.read(999_990)
            stream.read(1)

    async with trio.open_nursery() as nursery:
        stopping = trio.Event()

        async def serve(task_status: Any) -> None:
            async with answering(home, Node()) as source:
                task_status.started(source)
                await stopping.wait()

        source = await nursery.start(serve)
        with pytest.raises(TransferInterruptedError):
            await off(partial(read_on, source, lambda: trio.from_thread.run_sync(stopping.set)))
