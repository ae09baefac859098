"""The models' pictures, for someone who reads nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulations.drawing import sheet
from simulations.models.report import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Records = list[dict[str, Any]]
_BLUE, _ORANGE, _GREEN, _GREY = "#1f5fa8", "#c8571b", "#2d7d46", "0.45"
_COLOURS = {"4/12": _ORANGE, "10/30": _BLUE, "10/40": _GREEN}
_INCHES = (8.0, 4.6)


def draw(model: str, tables: Sequence[Table], folder: Path) -> list[Path]:
    """The PNGs of a model, into `folder`; their paths. Raises `UsageError` without matplotlib."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, position, picture in _PICTURES[model]:
        figure = sheet(*_INCHES)
        picture(figure, [dict(record) for record in tables[position].records])
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=110, metadata={"Software": None})
    return paths


def _axes(figure: Figure, title: str, x: str, y: str) -> Axes:
    axes: Axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, which="major", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def _label(
    axes: Axes, x: float, y: float, text: str, colour: str, *, offset: tuple[int, int] = (8, 0)
) -> None:
    """A line's name at its end, in its colour, instead of a legend."""
    axes.annotate(
        text, (x, y), xytext=offset, textcoords="offset points", color=colour, va="center", fontsize=9.5
    )


def _count(value: float) -> str:
    return f"{value / 1e6:g} million" if value >= 1e6 else f"{value:,.0f}"


def _main(records: Records, *, is_fresh: bool = False) -> Records:
    return [r for r in records if r["is_fresh"] is is_fresh and r["mix"] == "freenet" and r["age_s"] < 3600]


def _lookup_time(figure: Figure, records: Records) -> None:
    axes = _axes(
        figure,
        "Finding a file takes well under a second, in a network of any size",
        "machines in the network (59 % of them online at any time)",
        "seconds until the answer, 50 ms round trips",
    )
    settled, fresh = _main(records), _main(records, is_fresh=True)
    lines = (
        (settled, "complete_p95_s", "announcing, 95 of 100", _GREY, "--"),
        (
            settled,
            "complete_p50_s",
            "announcing, median: knows all 20\nnearest, waits 1 s for the gone",
            _GREY,
            "-",
        ),
        (fresh, "found_p95_s", "finding, fresh node, 95 of 100", _ORANGE, "--"),
        (settled, "found_p95_s", "finding, 95 of 100", _BLUE, "--"),
        (settled, "found_p50_s", "finding, median", _BLUE, "-"),
    )
    heights: list[float] = []
    for rows, field, name, colour, style in lines:
        if not rows:
            continue
        x, y = [r["nodes"] for r in rows], [r[field] for r in rows]
        axes.plot(x, y, style, color=colour, marker="o", markersize=4)
        height = y[-1]
        while any(abs(height - other) < 0.13 for other in heights):
            height -= 0.07
        heights.append(height)
        axes.annotate(
            name,
            (x[-1], height),
            xytext=(8, 0),
            textcoords="offset points",
            color=colour,
            va="center",
            fontsize=9,
        )
    axes.axhline(1.0, color="black", linewidth=0.8, linestyle=":")
    axes.text(1_000, 1.03, "the goal for finding: 95 of 100 within 1 s", fontsize=9, va="bottom")
    _network_axis(axes, records)
    axes.set_ylim(0, None)


def _lookup_cost(figure: Figure, records: Records) -> None:
    axes = _axes(
        figure,
        "A thousand times the nodes cost a lookup one and a half more steps",
        "machines in the network (59 % of them online at any time)",
        "steps, or requests, of one lookup",
    )
    rows = _main(records)
    x = [r["nodes"] for r in rows]
    for field, name, colour in (
        ("requests_complete", "requests to announce", _GREY),
        ("requests_to_find", "requests to find", _BLUE),
        ("hops_mean", "steps to find", _GREEN),
    ):
        y = [r[field] for r in rows]
        axes.plot(x, y, color=colour, marker="o", markersize=4)
        for place, value in zip(x, y, strict=True):
            axes.annotate(
                f"{value:.3g}",
                (place, value),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                color=colour,
                fontsize=9,
            )
        _label(axes, x[-1], y[-1], name, colour, offset=(14, 0))
    axes.set_yscale("log")
    axes.set_yticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
    axes.set_ylim(0.8, 100)
    _network_axis(axes, records)


def _network_axis(axes: Axes, records: Records) -> None:
    sizes = sorted({r["nodes"] for r in records})
    axes.set_xscale("log")
    axes.set_xticks(sizes, [_count(size) for size in sizes])
    axes.minorticks_off()
    axes.set_xlim(sizes[0] * 0.8, sizes[-1] * 14)


def _sweep_streams(figure: Figure, records: Records) -> None:
    axes = _axes(
        figure,
        "What keeping shards announced costs a donor in a day",
        "shards that the donor keeps (it announces a sixth of them)",
        "streams opened a day",
    )
    groups = [(size, list(rows)) for size, rows in groupby(records, key=lambda r: r["nodes"])]
    for (size, rows), colour in zip(groups, (_GREEN, _BLUE, _ORANGE, "#7a3b8f"), strict=True):
        x, y = [r["shards"] for r in rows], [r["streams_a_day"] for r in rows]
        axes.plot(x, y, color=colour, marker="o", markersize=4)
        _label(
            axes, x[-1], y[-1], f"{_count(size)} nodes: {rows[-1]['bytes_a_day'] / 1e9:.2g} GB a day", colour
        )
    _, largest = groups[-1]
    x = [r["shards"] for r in largest]
    one_by_one = [r["streams_one_by_one"] for r in largest]
    axes.plot(x, one_by_one, ":", color=_GREY)
    _label(axes, x[-1], one_by_one[-1], "key by key (1 million nodes)", _GREY, offset=(8, 8))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(80, 1e6 * 80)
    ticks = [100, 1_000, 10_000, 100_000, 1_000_000]
    axes.set_xticks(ticks, [_count(tick) for tick in ticks])
    axes.minorticks_off()
    for tick in (1e3, 1e4, 1e5, 1e6):
        axes.axhline(tick, color="0.95", linewidth=0.5)


def _losses(figure: Figure, records: Records) -> None:
    axes = _axes(
        figure,
        "Quick repair is what keeps files: chance that a segment dies within a year",
        "days from the fall to the threshold until the segment is whole again (mean)",
        "chance of loss in a year (log scale)",
    )
    for (code, life), group in groupby(records, key=lambda r: (r["code"], r["life_days"])):
        rows = list(group)
        if life not in (30, 90) or (life == 30 and code != "10/30"):
            continue
        x, y = [r["repair_days"] for r in rows], [r["chain_loss"] for r in rows]
        axes.plot(x, y, "-" if life == 90 else "--", color=_COLOURS[code], marker="o", markersize=4)
        nudge = {"4/12": 6, "10/30": -4}.get(code, 0) if life == 90 else 0
        _label(axes, x[-1], y[-1], f"{code}, donors stay {life:.0f} days", _COLOURS[code], offset=(10, nudge))
        counted = [(r["repair_days"], r["counted_loss"]) for r in rows if r["counted_loss"]]
        axes.plot(*zip(*counted, strict=True), "x", color="black", markersize=8) if counted else None
        named = [(r["repair_days"], r["specified_loss"]) for r in rows if r["specified_loss"]]
        axes.plot(
            *zip(*named, strict=True), "o", color="black", fillstyle="none", markersize=10
        ) if named else None
        if (code, life) == ("10/30", 90):
            fixed = [r["fixed_loss"] for r in rows]
            axes.plot(x, fixed, ":", color=_COLOURS[code])
            _label(
                axes,
                x[-1],
                fixed[-1],
                "10/30, 90 days, if every repair\ntakes exactly that long",
                _COLOURS[code],
            )
    axes.set_yscale("log")
    axes.set_ylim(1e-16, 3)
    axes.set_yticks([10.0**-e for e in range(0, 17, 2)])
    axes.minorticks_off()
    axes.set_xticks([1, 3, 7])
    axes.set_xlim(0.8, 9.9)
    axes.text(
        0.99,
        0.03,
        "lines: Markov chain    \u00d7 counted in simulated years    \u25cb figure in the specification",
        transform=axes.transAxes,
        ha="right",
        fontsize=9,
    )


def _traffic(figure: Figure, records: Records) -> None:
    axes = _axes(
        figure,
        "Repair moves ten to sixty times the file in a year",
        "mean time that a donor stays, days",
        "bytes moved in a year, in multiples of the file",
    )
    rows = [r for r in records if r["repair_days"] == 1]
    lives = sorted({r["life_days"] for r in rows})
    for turn, code in enumerate(_COLOURS):
        values = [
            next(r["chain_traffic"] for r in rows if r["code"] == code and r["life_days"] == life)
            for life in lives
        ]
        x = [place + (turn - 1) * 0.27 for place in range(len(lives))]
        axes.bar(x, values, 0.25, color=_COLOURS[code])
        for place, value in zip(x, values, strict=True):
            axes.text(place, value + 0.8, f"{value:.0f}", ha="center", color=_COLOURS[code], fontsize=10)
            if value == values[0]:
                axes.text(place, value / 2, code, ha="center", va="center", color="white", rotation=90)
    axes.set_xticks(range(len(lives)), [f"{life:.0f}" for life in lives])
    axes.grid(visible=False, axis="x")


def _disaster(figure: Figure, records: Records) -> None:
    axes = _axes(
        figure,
        "When a whole country goes dark: chance that a segment is lost",
        "share of all donors that is gone at once and for good",
        "chance that a segment is lost (log scale)",
    )
    for code, group in groupby(records, key=lambda r: r["code"]):
        rows = [r for r in group if r["segment_lost"] > 1e-9]
        x, y = [100 * r["share_lost"] for r in rows], [r["segment_lost"] for r in rows]
        axes.plot(x, y, color=_COLOURS[code], marker="o", markersize=4)
        _label(axes, x[0], y[0], code, _COLOURS[code], offset=(-16, 12))
    for share, name in ((20, "a large country"), (50, "half of the network")):
        axes.axvline(share, color="0.6", linewidth=0.8, linestyle=":")
        axes.text(share + 0.6, 2e-9, name, fontsize=9, color=_GREY)
    axes.set_yscale("log")
    axes.set_ylim(1e-9, 2)
    axes.set_xticks(range(0, 90, 10), [f"{share} %" for share in range(0, 90, 10)])


def _availability(figure: Figure, records: Records) -> None:
    axes = _axes(
        figure,
        "Can it be got right now? Choosing holders by their uptime decides",
        "chance that a segment can't be got at a given moment (log scale)",
        "",
    )
    codes = list(_COLOURS)
    placements = ["as they come", "a third under 80 % uptime", "by measured uptime"]
    for record in records:
        colour, value = _COLOURS[record["code"]], record["segment_unavailable"]
        y = codes.index(record["code"]) * 4 + placements.index(record["placement"])
        axes.plot([value, 1], [y, y], color=colour, linewidth=1, alpha=0.35)
        axes.plot(value, y, "o", color=colour, markersize=8)
        shown = f"{value:.2g}".replace("e-", "e\u2212") if value < 1e-3 else f"{100 * value:.2g} %"
        axes.annotate(
            f"holders {record['placement']}:  {shown}",
            (value, y),
            xytext=(-8, 0),
            textcoords="offset points",
            va="center",
            ha="right",
            fontsize=9,
            color=colour,
        )
    axes.set_xscale("log")
    axes.set_xlim(1e-43, 2)
    axes.set_xticks([1e-25, 1e-20, 1e-15, 1e-10, 1e-5, 1])
    axes.minorticks_off()
    axes.set_yticks([i * 4 + 1 for i in range(len(codes))], codes, fontsize=12)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")


Picture = Callable[["Figure", Records], None]


_PICTURES: dict[str, list[tuple[str, int, Picture]]] = {
    "lookups": [("lookup-time", 0, _lookup_time), ("lookup-cost", 0, _lookup_cost)],
    "sweep": [("sweep", 0, _sweep_streams)],
    "durability": [("losses", 0, _losses), ("repair-traffic", 0, _traffic)],
    "availability": [("availability", 0, _availability), ("disaster", 1, _disaster)],
    "attack": [],
    "year": [],
}
