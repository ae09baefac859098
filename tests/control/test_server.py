"""The control server and its client over a real Unix socket."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from node import limits
from node.control import client
from node.control.server import Events, Handler, Json, serving
from node.daemon.home import Home
from node.errors import NoDaemonError, NotFoundError, TransferInterruptedError, UsageError
from tests.patience import PATIENCE_S


async def echo(request: Json, _events: Events) -> Json:
    return request


async def missing(_request: Json, _events: Events) -> Json:
    raise NotFoundError("nobody\nhas it")


async def broken(_request: Json, _events: Events) -> Json:
    raise ZeroDivisionError("secret detail")


async def several(_request: Json, _events: Events) -> Json:
    async def fail() -> None:
        raise NotFoundError("gone")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
    raise AssertionError


async def stream(request: Json, events: Events) -> Json:
    for part in range(request["parts"]):
        await events.data(bytes([part]) * 70_000)
    await events.note("half way")
    events.progress(done_bytes=1, total_bytes=2)
    await wait_all_tasks_blocked()
    return {"parts": request["parts"]}


async def call(home: Home, command: str, request: Mapping[str, object], **callbacks: Any) -> Json:
    return await trio.to_thread.run_sync(partial(client.call, home, command, request, **callbacks))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.make()
    return home


def serve(home: Home, **handlers: Handler) -> Any:
    return serving(home.place_socket(), handlers, log_path=home.log_path)


async def test_a_call_returns_the_result_of_its_handler(home: Home) -> None:
    async with serve(home, echo=echo):
        assert await call(home, "echo", {"name": "ü", "n": 1}) == {"name": "ü", "n": 1}


async def test_errors_keep_class_code_and_one_line_across_the_socket(home: Home) -> None:
    async with serve(home, missing=missing, several=several):
        with pytest.raises(NotFoundError) as raised:
            await call(home, "missing", {})
        assert (str(raised.value), raised.value.exit_code) == ("nobody has it", 22)
        with pytest.raises(NotFoundError, match="gone"):
            await call(home, "several", {})


async def test_a_bug_becomes_one_line_that_names_the_log(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(home, broken=broken):
        with pytest.raises(Exception, match=r"internal error \(ZeroDivisionError\).*cairn\.log") as raised:
            await call(home, "broken", {})
    assert "secret detail" not in str(raised.value)
    assert "ZeroDivisionError: secret detail" in caplog.text


async def test_data_notes_and_progress_arrive_in_order(home: Home) -> None:
    received = bytearray()
    notes: list[str] = []
    progress: list[Json] = []
    async with serve(home, stream=stream):
        result = await call(
            home,
            "stream",
            {"parts": 9},
            on_data=received.extend,
            on_note=notes.append,
            on_progress=progress.append,
        )
    assert bytes(received) == b"".join(bytes([part]) * 70_000 for part in range(9))
    assert notes == ["half way"]
    assert progress == [{"done_bytes": 1, "total_bytes": 2}]
    assert result == {"parts": 9}


async def test_a_client_that_leaves_cancels_its_call(home: Home) -> None:
    started, cancelled = trio.Event(), trio.Event()

    async def wait(_request: Json, _events: Events) -> Json:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()
        raise AssertionError

    async with serve(home, wait=wait):
        stream = await trio.open_unix_socket(str(home.socket_path()))
        await stream.send_all(b"POST /v1/wait HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        await started.wait()
        await stream.aclose()
        with trio.fail_after(PATIENCE_S):
            await cancelled.wait()


async def test_stopping_ends_calls_in_flight(home: Home) -> None:
    started = trio.Event()

    async def wait(_request: Json, _events: Events) -> Json:
        started.set()
        await trio.sleep_forever()
        raise AssertionError

    async def expect_interruption() -> None:
        with pytest.raises(TransferInterruptedError, match="repeat the command"):
            await call(home, "wait", {})

    async with trio.open_nursery() as nursery, serve(home, wait=wait):
        nursery.start_soon(expect_interruption)
        await started.wait()
    assert not home.socket_path().exists()


async def test_unknown_commands_and_long_requests_are_refused(home: Home) -> None:
    async with serve(home, echo=echo):
        with pytest.raises(UsageError, match="does not know that command"):
            await call(home, "nonsense", {})
        with pytest.raises(UsageError, match="too long"):
            await call(home, "echo", {"x": "y" * limits.CONTROL_REQUEST_BYTES_MAX})


async def test_the_socket_is_for_its_owner_alone(home: Home) -> None:
    async with serve(home, echo=echo):
        assert stat.S_IMODE(home.socket_path().stat().st_mode) == 0o600
        assert stat.S_IMODE(home.path.stat().st_mode) == 0o700


async def test_a_dead_socket_is_replaced(home: Home) -> None:
    async with serve(home, echo=echo):
        os.link(home.socket_path(), home.path / "kept")
    (home.path / "kept").rename(home.path / "control.sock")
    with pytest.raises(NoDaemonError, match="cairn run"):
        await call(home, "echo", {})
    async with serve(home, echo=echo):
        assert await call(home, "echo", {"a": 1}) == {"a": 1}


async def test_a_long_home_path_moves_the_socket_and_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = tmp_path / "r"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    home = Home(tmp_path / ("long" * 30))
    home.make()
    async with serve(home, echo=echo):
        assert home.socket_path().parent == runtime / "cairn"
        assert await call(home, "echo", {}) == {}


def test_no_daemon_is_exit_4(home: Home) -> None:
    with pytest.raises(NoDaemonError) as raised:
        client.call(home, "status", {})
    assert raised.value.exit_code == 4
