"""`cairn simulate`: names, numbers, replay lines, shrinking."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random

import pytest

import cli
from node.chunks.geometry import Code
from node.credit.clearing import ClearBook
from node.errors import UsageError
from node.units import MIB
from simulations.command import as_json, describe, find_scenario, parse_numbers, replay_line, scenario_names
from simulations.faults import Fault
from simulations.host import HostSettings
from simulations.models.command import MODELS
from simulations.scenario import Plan, Scenario, run_scenario, shrink
from simulations.workload import Workload


def _plan(random: Random, brief: bool) -> Plan:
    """Four donors for four shards; three of them are lost for good one after another."""
    gone = [Fault(100.0, "gone", index) for index in (0, 1, 2)]
    harmless = [Fault(70.0 + number, "reset", 3, others=(0, 1)) for number in range(4)]
    return Plan(
        hosts=[HostSettings(donated_bytes=64 * MIB) for _ in range(4)],
        faults=[*harmless, *gone],
        duration_s=400.0,
        workload=Workload(code=Code(2, 3), mean_pause_s=1_000.0, putters=(3,), readers=(3,)),
        files_first=1,
        judge=_judge,
    )


async def _judge(world: object, actions: object, random: Random) -> None:
    from simulations.world import World

    assert isinstance(world, World)
    if world.figures.counts.get("files lost"):
        world.violate("test", "a file was lost")


LOSING = Scenario("losing", "loses a file", _plan)


def test_shrinking_leaves_the_faults_that_matter() -> None:
    failed = run_scenario(LOSING, 1)
    assert not failed.ok
    smallest = shrink(LOSING, failed)
    assert not smallest.ok
    assert {fault.kind for fault in smallest.faults} == {"gone"}
    assert 1 <= len(smallest.faults) <= 2
    line = replay_line(smallest, brief=False)
    assert line == f"cairn simulate losing --seed 1 --faults '{','.join(map(str, smallest.fault_numbers))}'"
    assert line in describe(smallest, brief=False, verbose=False)
    again = run_scenario(LOSING, 1, fault_numbers=smallest.fault_numbers)
    assert again.digest == smallest.digest
    assert as_json(again)["violations"] == [str(violation) for violation in again.violations]


def test_numbers_are_read_as_people_write_them() -> None:
    assert parse_numbers("1-3,7") == [1, 2, 3, 7]
    assert parse_numbers("") == []
    for text in ("a", "1-", "-3", "1-b"):
        with pytest.raises(UsageError):
            parse_numbers(text)


def test_each_scenario_has_its_module_name_and_a_summary() -> None:
    for name in scenario_names():
        scenario = find_scenario(name)
        assert scenario.name == name
        assert scenario.summary


def test_an_unknown_scenario_is_refused_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["simulate", "nonsense"]) == 2
    assert "churn" in capsys.readouterr().err


def test_the_document_has_the_names_of_the_contract_and_pictures_are_drawn(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["--json", "simulate", "steady", "--seed", "2", "--brief", "--plot", str(tmp_path / "new")]
    assert cli.run(words) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document.keys() == {"scenario", "seed", "ok", "digest", "figures"}
    assert document["seed"] == 2
    drawn = sorted((tmp_path / "new").iterdir())
    assert [path.name for path in drawn] == [
        f"steady-2-{name}.png" for name in ("get-seconds", "hosts-up", "put-seconds")
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    assert all(str(path) in captured.err for path in drawn)


def test_help_names_every_scenario_and_model(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.run(["simulate", "--help"])
    words = re.findall(r"\w+", capsys.readouterr().out)
    assert {*scenario_names(), *MODELS} <= set(words)
    assert not set(scenario_names()) & MODELS.keys()


def test_300_attackers_are_measured_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["simulate", "attack"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^all of it at once +300 ", printed, re.MULTILINE)
    assert "one newcomer" in printed
    assert "violation" not in printed


def test_a_model_has_the_document_of_a_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    documents = []
    for _ in range(2):
        assert cli.run(["--json", "simulate", "attack", "--seed", "3"]) == 0
        documents.append(json.loads(capsys.readouterr().out))
    assert documents[0] == documents[1]
    assert documents[0].keys() == {"scenario", "seed", "ok", "digest", "figures"}
    (attacks,) = documents[0]["figures"].values()
    assert all(attack["gain"] <= attack["bound"] for attack in attacks)


def test_a_bound_that_is_broken_fails_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClearBook, "reserved", lambda self, debtor, creditor: 0)
    assert cli.run(["simulate", "attack"]) == 1
    assert "violation: one debt cleared many times" in capsys.readouterr().out


def test_options_of_worlds_are_refused_for_models(capsys: pytest.CaptureFixture[str]) -> None:
    for option in (["--brief"], ["--days", "3"], ["--faults", "1"], ["--shrink"], ["--jobs", "2"]):
        assert cli.run(["simulate", "attack", *option]) == 2
        assert option[0] in capsys.readouterr().err
