"""Audits between real daemons: proofs come by themselves, and a donor that is gone is no longer proved."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from node.control.local_swarm import LocalSwarm, NodeProcess
from tests.patience import comes_true
from tests.swarm.processes import write_random

pytestmark = pytest.mark.swarm

SETTINGS = ("--set", "audit.interval_s=3", "--set", "repair.check_interval_s=3600")


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

        def file() -> dict[str, Any]:
            (found,) = sharer.call("ls")["files"]
            assert isinstance(found, dict)
            return found

        for donor in (first, second):
            assert comes_true(partial(has_passed, donor))
            assert audits(donor)["failed"] == 0
            assert comes_true(lambda donor=donor: not audits(donor)["suspended"])  # type: ignore[misc]
        assert comes_true(lambda: file()["last_proved"] is not None)
        assert comes_true(lambda: bool(file()["health"] == "healthy"))

        second.kill()
        assert comes_true(lambda: bool(audits(first)["made"]["no_answer"] > 0))
        report = sharer.call("health", link=link)
        (segment,) = report["segments"]
        assert segment["alive"] == 1
        states = {holder["state"]: holder["last_proved"] for holder in segment["holders"]}
        assert set(states) == {"proved", "unreachable"}
        assert states["proved"] is not None
