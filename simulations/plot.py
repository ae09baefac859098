"""Pictures of one run: who was up, and how long puts and gets took."""

from __future__ import annotations

from pathlib import Path

from node.units import HOUR_S
from simulations.drawing import sheet
from simulations.scenario import Result

_TITLES = {
    "hosts up": "Machines whose node runs",
    "put seconds": "Seconds of virtual time until a put returned",
    "get seconds": "Seconds of virtual time until a get was complete",
}


def draw(result: Result, folder: Path) -> list[Path]:
    """One PNG a series, into `folder`; their paths. Raises `UsageError` without matplotlib."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, samples in sorted(result.series.items()):
        figure = sheet(8, 3.2)
        axes = figure.add_subplot()
        hours, values = [at_s / HOUR_S for at_s, _ in samples], [value for _, value in samples]
        if name == "hosts up":
            axes.step(hours, values, where="post")
            axes.set_ylim(bottom=0)
        else:
            axes.plot(hours, values, ".", alpha=0.7)
            axes.set_yscale("log")
        for fault in result.faults:
            axes.axvline(fault.at_s / HOUR_S, color="0.85", linewidth=0.6, zorder=0)
        axes.set_title(f"{_TITLES.get(name, name)}: {result.scenario}, seed {result.seed}")
        axes.set_xlabel("hours since the start of the world (grey lines: something goes wrong)")
        path = folder / f"{result.scenario}-{result.seed}-{name.replace(' ', '-')}.png"
        figure.savefig(path, dpi=120)
        paths.append(path)
    return paths
