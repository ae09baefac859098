"""Audits between real daemons: proofs come by themselves, and a donor that is gone is no longer proved."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from node.control.local_swarm import LocalSwarm, NodeProcess
from tests.swarm.processes import write_random

pytestmark = pytest.mark.swarm

SETTINGS = ("--set", "audit.interval_s=3", "--set", "repair.check_interval_s=3600")
DEADLINE_S = 90.0


def until(condition: Callable[[], bool], what: str) -> None:
    """Poll for something that takes some rounds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


def test_daemons_audit_each_other_and_say_so(tmp_path: Path) -> None:
    with LocalSwarm(tmp_path) as swarm:
        first = swarm.spawn(arguments=SETTINGS, donate="64MiB").wait_ready()
        second = swarm.spawn(arguments=SETTINGS, donate="64MiB", bootstrap=[first]).wait_ready()
        sharer = swarm.spawn(arguments=SETTINGS, bootstrap=[first]).wait_ready()
        for node in (first, second, sharer):
            swarm.wait_known(node, 2)
        source = write_random(tmp_path / "file", 4_000_000)
        link = sharer.call("put", path=str(source), code="1/2")["link"]

        def audits(node: NodeProcess) -> dict[str, Any]:
            found = node.call("status")["audits"]
            assert isinstance(found, dict)
            return found

        def has_passed(node: NodeProcess) -> bool:
            return bool(audits(node)["passed"] > 0)

        for donor in (first, second):
            until(partial(has_passed, donor), "an audit passes")
            assert audits(donor)["failed"] == 0
            assert not audits(donor)["suspended"]
        until(lambda: sharer.call("ls")["files"][0]["last_proved"] is not None, "the owner knows")
        (file,) = sharer.call("ls")["files"]
        assert file["health"] == "healthy"

        second.kill()
        until(lambda: audits(first)["made"]["no_answer"] > 0, "its co-holder misses it")
        report = sharer.call("health", link=link)
        (segment,) = report["segments"]
        assert segment["alive"] == 1
        states = {holder["state"]: holder["last_proved"] for holder in segment["holders"]}
        assert set(states) == {"proved", "unreachable"}
        assert states["proved"] is not None
