"""`cairn demo`: a swarm of real nodes here stores a file, loses a third of itself, gives it back, heals, and
settles. Layer 5.

Honest by construction: every node is a process of its own with its own home; the losses are SIGKILLs; the
uploader is gone when the file is fetched and while the swarm heals; the node that fetches it was not there
before, and is given one peer's address and the link, nothing else. The rules of credit bind although all is
on one machine (`credit.local_line=0`): the first file goes on what donors pledge to newcomers, the last one
on what a donor has earned, when nobody pledges anything any more. Only clocks are faster: a round of audits
takes seconds instead of a day, a holder counts as dead after seconds instead of two days.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from node.control.client import Json
from node.control.credit_words import format_credits, worth
from node.control.local_swarm import LocalSwarm, NodeProcess
from node.errors import CreditError, NodeError, UsageError
from node.limits import DHT_BUCKET_CONTACTS
from node.units import DAY_S, KIB, MIB, format_size

FILE_BYTES = 64 * MIB
DATA_SHARDS, TOTAL_SHARDS = 10, 30
NODES_MAX = 100
HEAL_STALL_S = 30.0
HEALING_DONORS_MIN = 7
"""With fewer left, each would keep more of a segment than it may: some of the shards stay unmade."""
AUDIT_TIMEOUT_S = 120.0
AUDIT_PATIENCE_S = 10.0  # for all of them, once the owner owes something to one that is needed
RETURN_TIMEOUT_S = 60.0
SETTINGS: Mapping[str, object] = {
    "audit.interval_s": 3,
    "repair.check_interval_s": 2,
    "repair.dead_after_s": 6,
    "repair.stagger_s": 1,
    "repair.threshold": 0.05,
    "credit.local_line": 0,
    "credit.newcomer_credits": 0,
}
"""Fast clocks; repair as soon as anything is lost, to show it; credit binds on one machine too."""
SECOND_PUT: Mapping[str, Any] = {"code": "1/2", "expires_s": DAY_S}
"""A day, as what pays for it was earned in a day."""
SMALL_BYTES = 8 * KIB
"""A smaller second file costs more for the records of its leases than for its bytes."""
_POLL_S = 0.5
_WRITE_BYTES = 4 * MIB

OnStep = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What `cairn demo` was told."""

    nodes: int = 12
    kill: int = 4
    file: Path | None = None
    keep: bool = False


class _Steps:
    """The table of steps as it grows."""

    def __init__(self, on_step: OnStep | None) -> None:
        self.rows: list[dict[str, Any]] = []
        self._on_step = on_step

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, Any]]:
        """One step: it is ok unless it raises or says otherwise; `name` may grow with what was found."""
        row: dict[str, Any] = {"name": name, "seconds": 0.0, "ok": False}
        self.rows.append(row)
        began = time.monotonic()
        try:
            row["ok"] = True
            yield row
        except BaseException as error:
            row["ok"] = False
            if isinstance(error, NodeError):
                row["name"] += f": {error}"
            raise
        finally:
            row["seconds"] = round(time.monotonic() - began, 2)
            if self._on_step is not None:
                self._on_step(row)

    @property
    def ok(self) -> bool:
        """Whether every step was."""
        return all(row["ok"] for row in self.rows)


def check_options(options: DemoOptions) -> None:
    """Raises `UsageError` for a swarm that could not keep the file by its numbers."""
    donors = options.nodes - 1
    if not 3 <= options.nodes <= NODES_MAX:
        raise UsageError(f"--nodes takes 3 to {NODES_MAX}: an uploader and at least two donors")
    each = -(-TOTAL_SHARDS // donors)
    bearable = min(donors - 1, (TOTAL_SHARDS - DATA_SHARDS) // each)
    if not 0 <= options.kill <= bearable:
        raise UsageError(
            f"--kill takes 0 to {bearable} with {options.nodes} nodes: {donors} donors keep up to {each} of "
            f"{TOTAL_SHARDS} shards each, and {DATA_SHARDS} must be left"
        )
    if options.file is not None and not options.file.is_file():
        raise UsageError(f"{options.file} isn't a file")


def run_demo(options: DemoOptions, on_step: OnStep | None = None) -> Json:
    """Run it: `{"ok", "steps", "link"}`. A step that fails ends it. Raises `UsageError`."""
    check_options(options)
    folder = Path(tempfile.mkdtemp(prefix="cairn-demo-"))
    steps = _Steps(on_step)
    link: list[str] = []
    try:
        with _stoppable(), LocalSwarm(folder / "nodes") as swarm:
            try:
                _play(options, folder, swarm, steps, link)
            except NodeError:
                assert not steps.ok  # the step that failed carries the words
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    result: Json = {"ok": steps.ok, "steps": steps.rows, "link": link[0] if link else None}
    if options.keep:
        result["folder"] = str(folder)
    return result


def _play(options: DemoOptions, folder: Path, swarm: LocalSwarm, steps: _Steps, link: list[str]) -> None:
    source = options.file or folder / "random.bin"
    size = source.stat().st_size if options.file else FILE_BYTES
    if options.file is None:
        with steps.step(f"make a random file of {format_size(size)}"):
            _make_random(source, size)
    with steps.step(f"start {options.nodes} nodes that give disk"):
        uploader, donors = _start(options, swarm, max(size, MIB))
    with steps.step("the nodes find each other"):
        swarm.wait_known(uploader, min(len(donors), DHT_BUCKET_CONTACTS))
    with steps.step("put") as row:
        put = uploader.call("put", path=str(source), code=f"{DATA_SHARDS}/{TOTAL_SHARDS}")
        link.append(put["link"])
        row["name"] = (
            f"put {format_size(put['bytes'])}: {format_size(put['stored_bytes'])} on {put['holders']} holders"
        )
    with steps.step("the owner's node audits its holders: a day of keeping is owed") as row:
        paid = _wait_audited(uploader, donors, must=donors[options.kill :])
        row["ok"] = paid > 0
        row["name"] += f", to {paid} of {len(donors)}"
    with steps.step(f"SIGKILL {options.kill} donors, stop the uploader"):
        for donor in donors[: options.kill]:  # the first is the one that all others joined through
            donor.kill()
        uploader.stop()
    survivors = donors[options.kill :]
    with steps.step("a fresh node joins through one survivor"):
        fresh = swarm.spawn(bootstrap=[survivors[-1]], arguments=_settings()).wait_ready()
    with steps.step("get from the link alone") as row:
        output = folder / "got"
        got = fresh.call("get", link=link[0], output=str(output))
        row["name"] += f": {format_size(int(got['bytes'] / max(got['seconds'], 0.001)))}/s"
    with steps.step("compare byte for byte") as row:
        row["ok"] = filecmp.cmp(source, Path(got["path"]), shallow=False)
    with steps.step("the swarm heals, without the owner and without the key") as row:
        alive = _wait_healed(fresh, link[0])
        row["ok"] = alive == TOTAL_SHARDS or (len(survivors) < HEALING_DONORS_MIN and alive >= DATA_SHARDS)
        row["name"] += f": {alive} of {TOTAL_SHARDS} shards of every segment proved"
    _settle(size, folder, swarm, steps, uploader, survivors, fresh)


def _wait_audited(owner: NodeProcess, donors: list[NodeProcess], *, must: list[NodeProcess]) -> int:
    """To how many donors the owner owes something; 0 if to none of those that `must` in time.

    Small shards are due less often: of a small file it is enough that one of them has been audited.
    """
    began = time.monotonic()
    while True:
        paid = {donor.peer_id for donor in donors if _claim(donor, owner) > 0}
        has_some = any(donor.peer_id in paid for donor in must)
        waited_s = time.monotonic() - began
        if len(paid) == len(donors) or (has_some and waited_s > AUDIT_PATIENCE_S):
            return len(paid)
        if waited_s > AUDIT_TIMEOUT_S:
            return 0
        time.sleep(_POLL_S)


def _claim(donor: NodeProcess, owner: NodeProcess) -> float:
    """What the owner owes the donor, in credits."""
    account = owner.ready["account"]
    return sum(float(peer["balance"]) for peer in donor.call("credit")["peers"] if peer["account"] == account)


def _wait_healed(observer: NodeProcess, link: str) -> int:
    """The fewest proved shards of a segment, once that is all of them, or nothing is gained any more."""
    best, gained_s = 0, time.monotonic()
    while True:
        health = observer.call("health", link=link)
        alive = int(min(segment["alive"] for segment in health["segments"]))
        if alive > best:
            best, gained_s = alive, time.monotonic()
        if alive == TOTAL_SHARDS or time.monotonic() - gained_s > HEAL_STALL_S:
            return alive
        time.sleep(_POLL_S)


def _settle(
    size: int,
    folder: Path,
    swarm: LocalSwarm,
    steps: _Steps,
    uploader: NodeProcess,
    survivors: list[NodeProcess],
    stranger: NodeProcess,
) -> None:
    """Who earned what, and what that buys."""
    with steps.step("who earned what") as row:
        earned = [float(donor.call("credit")["earned"]) for donor in survivors]
        row["ok"] = max(earned) > 0
        row["name"] += f": {_earnings(earned)}"
    with steps.step("the owner returns; from here on nobody pledges anything to newcomers"):
        owner = swarm.restart(uploader)
        for each in (owner, *survivors):
            each.call("donate", pledge_millionths=0)
    second = folder / "second.bin"
    best = max(survivors, key=lambda donor: _claim(donor, owner))
    with steps.step("a donor stores a second file with what it earned") as row:
        swarm.wait_known(best, len(survivors))
        put = _put_on_credit(best, owner, second)
        if put is None:
            row["ok"] = size < MIB
            row["name"] += f": nothing, a day of {format_size(size)} earns less than records of leases cost"
            return
        row["name"] += (
            f": {format_size(put['bytes'])} for {format_credits(put['price'])}, "
            "on the disk of the owner whose shards it keeps"
        )
    with steps.step("a stranger who keeps nothing for anybody asks for the same") as row:
        try:
            stranger.call("put", path=str(second), **SECOND_PUT)
        except CreditError:
            row["name"] += ": refused, not enough credit"
        else:
            row["ok"] = False


def _put_on_credit(donor: NodeProcess, owner: NodeProcess, path: Path) -> Json | None:
    """Put what the donor's claim pays for; None if that is less than the records of its leases cost.

    Halved where it is refused: the owner has just returned, and may not know all that it owes.
    """
    size = _affordable_bytes(donor, owner)
    deadline = time.monotonic() + RETURN_TIMEOUT_S
    while size >= SMALL_BYTES:
        _make_random(path, size)
        try:
            return donor.call("put", path=str(path), **SECOND_PUT)
        except CreditError:
            if time.monotonic() > deadline:
                raise
        size = max(SMALL_BYTES, size // 2)
        time.sleep(_POLL_S)
    return None


def _earnings(earned: list[float]) -> str:
    """In words: what each donor's day of keeping is worth."""
    total, most = sum(earned), max(earned)
    return (
        f"{sum(each > 0 for each in earned)} of {len(earned)} donors {format_credits(total)} together, "
        f"one of them {format_credits(most)}: enough to keep {worth(most, (1, 2))}"
    )


def _affordable_bytes(donor: NodeProcess, owner: NodeProcess) -> int:
    """What a quarter of the donor's claim on the owner pays for at 1/2: leases have records, too."""
    return int(_claim(donor, owner) * MIB / 2 / 4)


def _settings() -> list[str]:
    return [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]


def _start(options: DemoOptions, swarm: LocalSwarm, size: int) -> tuple[NodeProcess, list[NodeProcess]]:
    """The uploader and the donors, all of which give disk; all but the first start side by side."""
    donors = options.nodes - 1
    cap_bytes = 64 * MIB + 4 * size * -(-TOTAL_SHARDS // (donors - options.kill)) // DATA_SHARDS
    words = [*_settings(), "--set", "credit.pledge=1"]
    first = swarm.spawn(donate=str(cap_bytes), arguments=words).wait_ready()
    others = [
        swarm.spawn(donate=str(cap_bytes), bootstrap=[first], arguments=words) for _ in range(donors - 1)
    ]
    uploader = swarm.spawn(donate=str(cap_bytes), bootstrap=[first], arguments=words)
    for each in (*others, uploader):
        each.wait_ready()
    return uploader, [first, *others]


def _make_random(path: Path, size: int) -> None:
    with path.open("wb") as file:
        for start in range(0, size, _WRITE_BYTES):
            file.write(os.urandom(min(_WRITE_BYTES, size - start)))


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does: nodes stopped, folders removed."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
