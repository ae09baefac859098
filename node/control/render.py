"""Results for people: plain lines, tables, progress bars. Layer 5.

Rich is imported only by what draws with it. What a script may want to capture (a link, a path) stands on
stdout; the words around it go to stderr.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from node.control.arguments import Options
from node.control.client import Json
from node.control.credit_words import (
    format_credits,
    line_words,
    peer_words,
    price_words,
    summary_lines,
    worth,
)
from node.daemon.home import Home
from node.units import format_count, format_duration, format_size

if TYPE_CHECKING:
    from node.daemon.supervisor import Ready
    from node.mount.command import Mounted

_PHASES = {
    "join": "looking for peers",
    "scan": "reading the folder",
    "offers": "asking donors",
    "send": "sending",
    "publish": "announcing",
    "locate": "finding holders",
    "fetch": "fetching",
    "finish": "finishing",
    "challenge": "challenging holders",
}


def render(options: Options, result: Json) -> None:
    """Print a command's result."""
    _RENDERERS[options.command](options, result)


def render_ready(ready: Ready, home: Home) -> None:
    """Say that the daemon is ready."""
    print(f"Cairn node {ready.peer_id} is ready.")
    for address in ready.addresses:
        print(f"  listening on {address}")
    if ready.web is not None:
        print(f"  page {ready.web}")
    print(f"  home {home.path}")
    gives = f"gives {format_size(ready.gives_bytes)} to others" if ready.gives_bytes else "gives no disk yet"
    print(f"  {gives} (`cairn donate 20GiB` changes that)")
    print("Ctrl-C stops it.", flush=True)


def render_mounted(mounted: Mounted) -> None:
    """Say what is mounted, and how that ends."""
    size = f"{format_count(mounted.count, 'file')}, {format_size(mounted.size_bytes)}"
    print(f"mounted {mounted.name or 'my files'} ({size}) on {mounted.folder}, to read")
    _say(f"Ctrl-C or `umount {mounted.folder}` ends it.")
    sys.stdout.flush()


class ProgressBar:
    """A bar on stderr with rate and time left; use as a context manager."""

    def __init__(self, label: str) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task(label, total=None)

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, progress: Json) -> None:
        """One progress event of the daemon."""
        phase = str(progress.get("phase", ""))
        self._progress.update(
            self._task,
            description=_PHASES.get(phase, phase),
            completed=progress.get("done_bytes") or 0,
            total=progress.get("total_bytes"),
        )

    def note(self, text: str) -> None:
        """A line above the bar."""
        self._progress.console.print(f"note: {text}", markup=False, highlight=False)


def demo_step(step: Mapping[str, Any]) -> None:
    """One step of the demo, as it ends."""
    mark = "ok    " if step["ok"] else "FAILED"
    print(f"  {mark} {step['seconds']:6.1f} s  {step['name']}", file=sys.stderr, flush=True)


def _put(options: Options, result: Json) -> None:
    code = "/".join(str(part) for part in result["code"])
    size = f"{format_size(result['bytes'])} in {format_count(result['segments'], 'segment')}"
    if options.dry_run:
        print(
            f"{result['name']}: {size}, would store {format_size(result['stored_bytes'])} at {code} "
            f"until {_day(result['expires'])}, for {price_words(result['price'])}"
        )
        return
    _say(
        f"{result['name']}: {size}, {format_size(result['stored_bytes'])} on "
        f"{format_count(result['holders'], 'holder')} at {code}, in {format_duration(result['seconds'])}"
    )
    _say(f"kept until {_day(result['expires'])}, for {price_words(result['price'])}")
    if result["weak"]:
        _say("weak: losing some third of the holders would lose it; more donors make it stronger")
    print(result["link"])


def _get(_options: Options, result: Json) -> None:
    _say(
        f"{result['name']}: {format_size(result['bytes'])} in {format_duration(result['seconds'])}, "
        f"{format_size(result['fetched_bytes'])} fetched"
    )
    print(result["path"])


def _link(options: Options, result: Json) -> None:
    if options.qr:
        import segno

        segno.make(result["link"], error="l").terminal(out=sys.stdout, compact=True)
    print(result["link"])
    _say(f"whoever has this one can check it, not read it: {result['verify_link']}")


def _url(_options: Options, result: Json) -> None:
    print(result["url"])


def _ls(_options: Options, result: Json) -> None:
    if "entries" in result:
        rows = [[format_size(entry["bytes"]), entry["path"]] for entry in result["entries"]]
        _table(("size", "path"), rows)
        return
    if not result["files"]:
        _say("no files yet: `cairn put PATH` stores one")
        return
    rows = [
        [
            file["name"],
            format_size(file["bytes"]),
            file["health"],
            _proved(file.get("last_proved")),
            "/".join(str(part) for part in file["code"]),
            _day(file["created"]),
            _day(file["expires"]),
            file["hash"],
        ]
        for file in result["files"]
    ]
    _table(("name", "size", "health", "proved", "code", "stored", "kept until", "hash"), rows)


def _proved(time_s: int | None) -> str:
    """How long ago something was proved, for a person."""
    if time_s is None:
        return "unknown"
    return f"{format_duration(max(0, time.time() - time_s))} ago"


def _health(options: Options, result: Json) -> None:
    print("healthy" if result["healthy"] else "NOT healthy", result["hash"])
    rows = []
    for segment in result["segments"]:
        states = Counter(holder["state"] for holder in segment["holders"])
        rows.append(
            [
                str(segment["index"]),
                f"{segment['alive']} of {segment['total']}",
                str(segment["needed"]),
                _proved(segment.get("last_proved")),
                ", ".join(f"{count} {state}" for state, count in sorted(states.items())),
            ]
        )
    _table(("segment", "alive", "needed", "proved", "holders say"), rows)
    if options.verbose:
        holders = [
            [
                str(segment["index"]),
                str(holder["shard"]),
                holder["state"],
                _proved(holder.get("last_proved")),
                holder["peer_id"],
            ]
            for segment in result["segments"]
            for holder in segment["holders"]
        ]
        _table(("segment", "shard", "state", "proved", "holder"), holders)


def _renew(_options: Options, result: Json) -> None:
    print(f"renewed {format_count(result['leases'], 'lease')} of {result['hash']}")
    if result["expires"] is not None:
        _say(f"kept until {_day(result['expires'])}")


def _rm(_options: Options, result: Json) -> None:
    print(f"released {format_count(result['leases'], 'lease')} of {result['hash']}")


def _repair(_options: Options, result: Json) -> None:
    remade, looked_at = format_count(result["repaired"], "shard"), format_count(result["segments"], "segment")
    print(f"{remade} remade; looked at {looked_at}")


def _drain(_options: Options, result: Json) -> None:
    moved = format_count(result["moved"], "shard")
    if result["remaining"]:
        print(f"{moved} moved; {format_count(result['remaining'], 'shard')} still here")
    else:
        print(f"{moved} moved; nothing is left here: it is safe to leave")


def _donate(_options: Options, result: Json) -> None:
    if not result["cap_bytes"]:
        print("this node gives no disk: `cairn donate 20GiB` gives some")
        if result["shards"]:
            _say(f"{format_count(result['shards'], 'shard')} of others are still here and go to other donors")
            _say("what finds no place stays until its lease ends; `cairn drain` says when all is gone")
        return
    print(
        f"gives {format_size(result['cap_bytes'])}, of which {format_size(result['used_bytes'])} are used, "
        f"for {format_count(result['shards'], 'shard')} of others"
    )
    if "shrinking" in result:
        _say(shrinking_words(result["shrinking"]))
    rate = result["rate_bytes_s"]
    _say(
        "carries as much for others as they ask for (`cairn donate --rate 2MiB/s` sets a limit)"
        if rate is None
        else f"carries {format_size(rate)}/s at most for others, both directions together"
    )
    _say(f"{result['pledge']:.0%} of a month's space goes to newcomers, freely (`--pledge` changes that)")
    if result["earned"]:
        earned = result["earned"]
        _say(f"has earned {format_credits(earned)}: as much as {worth(earned, result['_code'])} cost")


def _credit(options: Options, result: Json) -> None:
    peers = result["peers"]
    if options.peer is not None:
        (peer,) = peers
        words = (
            f"may use {line_words(peer)} of this disk for nothing" if peer["line_bytes"] else "has no line"
        )
        print(f"{peer['account']} {words}")
        return
    for line in summary_lines(result):
        print(line)
    if peers:
        rows = [[peer["account"], peer_words(peer, result["code"]), line_words(peer)] for peer in peers]
        _table(("account", "balance", "line"), rows)


def _status(_options: Options, result: Json) -> None:
    store, dht = result["store"], result["dht"]
    rows = [
        ["peer id", result["peer_id"]],
        ["account", result["account"]],
        *(["listening", address] for address in result["addresses"]),
        ["nat", result["nat"]],
        ["peers", f"{result['peers']} connected"],
        ["dht", f"{format_count(dht['contacts'], 'contact')}, {format_count(dht['records'], 'record')} kept"],
        ["gives", f"{format_size(store['cap_bytes'])}, {format_size(store['used_bytes'])} used"],
        ["keeps", f"{format_count(store['shards'], 'shard')} of others"],
        ["my files", str(result["files"])],
        *_renewal_rows(result["renewals"]),
        ["coding engine", result["engine"]],
        ["up", format_duration(result["uptime_s"])],
    ]
    if store["cap_bytes"]:
        rows[7:7] = _donor_rows(result["donor"])
    if store["lost"]:
        why = "the packs are gone, or a lower cap had no room"
        rows.insert(-1, ["lost shards", f"{format_count(store['lost'], 'lease')}: {why}"])
    if store["quarantined"]:
        rows.insert(-1, ["bad shards", f"{store['quarantined']} (bit rot: never served)"])
    _table(("", ""), rows, header=False)


def _renewal_rows(renewals: Json) -> list[list[str]]:
    """That leases are about to end, and what keeps them from being renewed."""
    if not renewals["failing"]:
        return []
    files = format_count(renewals["failing"], "file")
    return [
        ["NOT RENEWED", f"{files} whose leases are about to end: {renewals['why']}"],
        ["", "it is tried again every half hour; `cairn renew LINK` tries now"],
    ]


def shrinking_words(shrinking: Json) -> str:
    """How far a node is whose cap was lowered below what it keeps."""
    words = [f"{format_size(shrinking['left_bytes'])} are still to go under the lower cap"]
    if shrinking["moved"]:
        words.append(f"{format_count(shrinking['moved'], 'shard')} went to other donors")
    if shrinking["dropped"]:
        words.append(f"{format_count(shrinking['dropped'], 'shard')} found no place and were dropped")
    return "; ".join(words)


def _donor_rows(donor: Json) -> list[list[str]]:
    """How the node does as a donor, in words."""
    rows = [["was up", f"{donor['uptime_permille'] / 10:.1f} % of the last 30 days"]]
    if donor["leaving"]:
        rows.append(["LEAVING", "takes no new shards since `cairn drain`; `cairn donate SIZE` ends that"])
    if donor["shrinking"] is not None:
        rows.append(["makes room", shrinking_words(donor["shrinking"])])
    suspended = donor["suspended"]
    if suspended is not None:
        rows.append(["SUSPENDED", f"since {_minute(suspended['since'])}: {suspended['reason']}"])
        rows.append(["", "takes no shards, and loses none; it comes back by itself once the disk does"])
    if donor["outages"]:
        last = donor["outages"][-1]
        rows.append(
            ["last outage", f"{format_duration(last['to'] - last['from'])}, until {_minute(last['to'])}"]
        )
    return rows


def _peers(_options: Options, result: Json) -> None:
    if not result["peers"]:
        _say("no peers yet: `cairn run --bootstrap MULTIADDR` names one to join through")
        return
    rows = [
        [
            peer["peer_id"],
            "connected" if peer["connected"] else "known",
            "" if peer["latency_s"] is None else f"{peer['latency_s'] * 1000:.0f} ms",
            "" if peer["speed_bytes_s"] is None else f"{format_size(peer['speed_bytes_s'])}/s",
            peer["addresses"][0] if peer["addresses"] else "",
        ]
        for peer in result["peers"]
    ]
    _table(("peer", "", "latency", "speed", "address"), rows)


def _recovery(options: Options, result: Json) -> None:
    if options.action == "restore":
        print(f"restored account {result['account']}")
        return
    if options.action == "passphrase":
        print(f"the keystore is {'sealed' if result['sealed'] else 'not sealed any more'}")
        if result["sealed"]:
            _say("`cairn run` asks for the passphrase from now on, or reads it with --passphrase-file")
        return
    if "words" not in result:
        print(f"account {result['account']}")
        _say("`cairn recovery show --reveal` prints its 24 words; whoever reads them has the account")
        return
    words = result["words"]
    for row in range(0, len(words), 6):
        print(
            "  ".join(f"{row + column + 1:2} {word:<9}" for column, word in enumerate(words[row : row + 6]))
        )
    _say("write them down on paper: they bring this account back on any machine")


def _demo(_options: Options, result: Json) -> None:
    rows = [
        [step["name"], f"{step['seconds']:.1f}", "ok" if step["ok"] else "FAILED"] for step in result["steps"]
    ]
    rows.append(["total", f"{sum(step['seconds'] for step in result['steps']):.1f}", ""])
    _table(("step", "seconds", ""), rows)
    if result["link"]:
        _say(result["link"])
    print("ok" if result["ok"] else "failed")


_RENDERERS: Mapping[str, Callable[[Options, Json], None]] = {
    "put": _put,
    "get": _get,
    "link": _link,
    "url": _url,
    "ls": _ls,
    "health": _health,
    "renew": _renew,
    "rm": _rm,
    "repair": _repair,
    "drain": _drain,
    "donate": _donate,
    "credit": _credit,
    "status": _status,
    "peers": _peers,
    "recovery": _recovery,
    "demo": _demo,
}


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, header: bool = True) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE if header else None, show_header=header, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: a file's name must not be read as markup
    console = Console()
    if not console.is_terminal:
        console.width = 200  # nobody's window bounds a pipe
    console.print(table)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _minute(epoch_s: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(epoch_s))


def _day(epoch_s: int) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(epoch_s))
