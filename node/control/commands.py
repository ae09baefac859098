"""What each command does on this side: read its words, make one control call, hand back the result. Layer 5.

Invariants: paths that leave here are absolute, since the daemon has another working directory; passwords and
links travel in bodies; nothing heavy is imported by a command that only talks to the daemon.
"""

from __future__ import annotations

import getpass
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node.control.arguments import Options
from node.control.client import Json, call
from node.control.streams import flush_stdout, stdout_errors, write_stdout
from node.daemon.home import Home
from node.errors import NotEnoughPeersError, UsageError
from node.units import format_count, parse_duration, parse_rate, parse_size

if TYPE_CHECKING:
    from node.daemon.supervisor import Ready

PASSWORD_FILE_BYTES_MAX = 64 * 1024
PHRASE_INPUT_CHARS_MAX = 4096
PASSPHRASE_VARIABLE = "CAIRN_PASSPHRASE_FILE"  # noqa: S105  # where to find it, not what it is

Outcome = tuple[Json | None, int]
"""What to print (None: it is printed already), and the exit code."""


def run(options: Options) -> Outcome:
    """The daemon, in the foreground."""
    donate_bytes = None if options.donate is None else parse_size(options.donate)
    from node.control.web import PageAddress
    from node.daemon.supervisor import RunOptions, run_node
    from node.units import Multiaddr

    page = PageAddress() if options.web is None else PageAddress.parse(options.web)

    def on_ready(ready: Ready) -> None:
        if options.json:
            fields = {
                "event": "ready",
                "peer_id": ready.peer_id,
                "addresses": list(ready.addresses),
                "account": ready.account,
                "web": ready.web,
                "pid": ready.pid,
            }
            with stdout_errors():
                print(json.dumps(fields), flush=True)
        else:
            from node.control.render import render_ready

            with stdout_errors():
                render_ready(ready, _home(options))

    run_node(
        RunOptions(
            home=_home(options),
            listen=tuple(Multiaddr(text) for text in options.listen or ()),
            announce=tuple(Multiaddr(text) for text in options.announce or ()),
            bootstrap=tuple(options.bootstrap) if options.bootstrap else None,
            donate_bytes=donate_bytes,
            mdns=not options.no_mdns,
            web=None if options.no_web else page,
            overrides=tuple(options.overrides or ()),
            verbose=options.verbose,
            passphrase=_passphrase(options),
        ),
        on_ready,
    )
    return None, 0


def put(options: Options) -> Outcome:
    """Store a file or a folder."""
    request: Json = {
        "path": os.path.abspath(options.path),
        "code": options.code,
        "name": options.name,
        "password": _password(options.password_file),
        "expires_s": None if options.expires is None else parse_duration(options.expires),
        "dry_run": options.dry_run,
    }
    return _transfer(options, "put", request), 0


def get(options: Options) -> Outcome:
    """Fetch a file, an entry, a folder or a range."""
    to_stdout = options.output == "-"
    if to_stdout and options.json:
        raise UsageError("`-o -` and --json both want stdout: leave one out")
    if to_stdout and sys.__stdout__ is None:
        raise UsageError("`-o -` writes to stdout, and it is closed")
    first, last = _range(options.range)
    request: Json = {
        "link": _argument(options.link),
        "password": _password(options.password_file),
        "first": first,
        "last": last,
        "force": options.force,
        "output": None if to_stdout else _output(options.output),
    }
    result = _transfer(options, "get", request)
    if to_stdout:
        flush_stdout()
        return None, 0
    return result, 0


def link(options: Options) -> Outcome:
    """Show a link again."""
    return _call(options, "link", {"link": _argument(options.link), "via": options.via}), 0


def url(options: Options) -> Outcome:
    """A loopback URL of a file; without a link that of the page."""
    text = None if options.link is None else _argument(options.link)
    return _call(options, "url", {"link": text, "password": _password(options.password_file)}), 0


def ls(options: Options) -> Outcome:
    """My files, or a folder's entries."""
    text = None if options.link is None else _argument(options.link)
    return _call(options, "ls", {"link": text, "password": _password(options.password_file)}), 0


def mount(options: Options) -> Outcome:
    """Files and folders through FUSE, in the foreground."""
    from node.mount.command import Mounted, MountOptions, run_mount

    def on_mounted(mounted: Mounted) -> None:
        with stdout_errors():
            if options.json:
                print(json.dumps({"mounted": mounted.folder}), flush=True)
            else:
                from node.control.render import render_mounted

                render_mounted(mounted)

    words = MountOptions(
        link=_argument(options.link),
        folder=options.folder,
        password=_password(options.password_file),
        allow_other=options.allow_other,
    )
    run_mount(_home(options), words, on_mounted, _note)
    return None, 0


def health(options: Options) -> Outcome:
    """Ask and challenge the holders."""
    return _transfer(options, "health", {"link": _argument(options.link), "verify": options.verify}), 0


def renew(options: Options) -> Outcome:
    """Extend leases."""
    seconds = None if options.duration is None else parse_duration(options.duration)
    result = _call(options, "renew", {"link": _argument(options.link), "duration_s": seconds})
    if options.json:  # the contract's keys are exact; the day is for people
        result.pop("expires", None)
    return result, 0


def rm(options: Options) -> Outcome:
    """Release leases."""
    return _call(options, "rm", {"link": _argument(options.link)}), 0


def repair(options: Options) -> Outcome:
    """Remake what is missing of a file."""
    return _transfer(options, "repair", {"link": _argument(options.link)}), 0


def drain(options: Options) -> Outcome:
    """Move everything elsewhere."""
    result = _transfer(options, "drain", {})
    if result["remaining"]:
        _note(
            f"{format_count(result['remaining'], 'shard')} found no other place yet: leave this node on, and "
            "say `cairn drain` again when more nodes give space"
        )
    return result, NotEnoughPeersError.exit_code if result["remaining"] else 0


def donate(options: Options) -> Outcome:
    """Set or show what is given."""
    request: Json = {
        "cap_bytes": None if options.size is None else parse_size(options.size),
        "rate_bytes_s": None if options.rate is None else _rate(options.rate),
        "pledge_millionths": None if options.pledge is None else parse_share(options.pledge),
    }
    return _call(options, "donate", request), 0


def credit(options: Options) -> Outcome:
    """Balances, or a friend's line."""
    if options.peer is None:
        return _call(options, "credit", {}), 0
    request: Json = {"peer": options.peer, "line_bytes": parse_size(options.amount)}
    return _call(options, "credit", request), 0


def status(options: Options) -> Outcome:
    """The node at a glance."""
    return _call(options, "status", {}), 0


def peers(options: Options) -> Outcome:
    """Who the node knows."""
    return _call(options, "peers", {}), 0


def recovery(options: Options) -> Outcome:
    """Show or restore the phrase; needs no daemon."""
    from node.control import recovery as commands

    home, passphrase = _home(options), _passphrase(options)
    if options.action == "restore":
        return commands.restore(home, _phrase(), passphrase), 0
    if options.action == "passphrase":
        return commands.change_passphrase(home, passphrase, _new_passphrase(options)), 0
    return commands.show(home, reveal=options.reveal, passphrase=passphrase), 0


def demo(options: Options) -> Outcome:
    """A swarm of real nodes on this machine."""
    from node.control.demo import DemoOptions, run_demo
    from node.control.render import demo_step

    result = run_demo(
        DemoOptions(
            nodes=options.nodes,
            kill=options.kill,
            file=None if options.file is None else Path(options.file).absolute(),
            keep=options.keep,
        ),
        on_step=None if options.json else demo_step,
    )
    return result, 0 if result["ok"] else 1


COMMANDS: Mapping[str, Callable[[Options], Outcome]] = {
    "run": run,
    "put": put,
    "get": get,
    "link": link,
    "url": url,
    "ls": ls,
    "mount": mount,
    "health": health,
    "renew": renew,
    "rm": rm,
    "repair": repair,
    "drain": drain,
    "donate": donate,
    "credit": credit,
    "status": status,
    "peers": peers,
    "recovery": recovery,
    "demo": demo,
}


def parse_share(text: str) -> int:
    """Millionths of `10%` or `0.1`. Raises `UsageError`."""
    number, percent = (text[:-1], 100.0) if text.endswith("%") else (text, 1.0)
    try:
        share = float(number) / percent
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UsageError(f"{text!r} is not a share: write it like 10% or 0.1, from 0 to 1")
    return round(share * 1_000_000)


def _rate(text: str) -> int:
    """Bytes a second; 0 for `none`: no cap."""
    return 0 if text == "none" else parse_rate(text)


def _home(options: Options) -> Home:
    return Home.locate(options.home)


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def _call(options: Options, command: str, request: Mapping[str, Any]) -> Json:
    return call(_home(options), command, request, on_note=_note)


def _transfer(options: Options, command: str, request: Mapping[str, Any]) -> Json:
    """A call with a progress bar, where stderr is a terminal."""
    home = _home(options)
    if not sys.stderr.isatty():
        return call(home, command, request, on_note=_note, on_data=write_stdout)
    from node.control.render import ProgressBar

    with ProgressBar(command) as bar:
        return call(home, command, request, on_progress=bar.update, on_note=bar.note, on_data=write_stdout)


def _argument(text: str) -> str:
    """The argument itself, or for `-` one line of stdin: so a key need not show in a process list."""
    if text != "-":
        return text
    line = sys.stdin.readline(64 * 1024).strip()
    if not line:
        raise UsageError("`-` reads a link from stdin, and there was none")
    return line


def _password(path: str | None) -> str | None:
    """The first line of a password file."""
    return None if path is None else _first_line(path, "password")


def _passphrase(options: Options) -> str | None:
    """What opens this home's keystore: from a file, else, if it is sealed, from whoever sits there."""
    path = options.passphrase_file or os.environ.get(PASSPHRASE_VARIABLE)
    if path:
        return _first_line(path, "passphrase")
    if not sys.stdin.isatty():
        return None
    from node.control.recovery import needs_passphrase

    return _ask("Passphrase of the keystore: ") if needs_passphrase(_home(options)) else None


def _new_passphrase(options: Options) -> str | None:
    """The passphrase to seal with; None for none."""
    if options.remove:
        return None
    if options.new_passphrase_file is not None:
        return _first_line(options.new_passphrase_file, "passphrase")
    if not sys.stdin.isatty():
        raise UsageError("name a file with --new-passphrase-file, or say --remove: there is nobody to ask")
    new = _ask("New passphrase: ")
    if not new:
        raise UsageError("an empty passphrase protects nothing: --remove takes it away")
    if new != _ask("Once more: "):
        raise UsageError("the two are not the same: nothing has changed")
    return new


def _ask(prompt: str) -> str:
    """A line that the terminal does not show."""
    try:
        return getpass.getpass(prompt)
    except EOFError:
        raise UsageError("no passphrase was given") from None


def _first_line(path: str, what: str) -> str:
    """The first line of a file with a secret: an argument would show in the process list."""
    try:
        with open(path, "rb") as file:
            line = file.read(PASSWORD_FILE_BYTES_MAX).decode().split("\n", 1)[0].rstrip("\r")
    except OSError as error:
        raise UsageError(f"can't read the {what} file {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UsageError(f"the {what} file {path} isn't text") from None
    if not line:
        raise UsageError(f"the first line of the {what} file {path} is empty")
    return line


def _range(text: str | None) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    first, dash, last = text.partition("-")
    if not dash or not first.isascii() or not first.isdigit() or not last.isascii() or not last.isdigit():
        raise UsageError(f"{text!r} is not a range: write it like 0-1023, both ends included")
    if int(first) > int(last):
        raise UsageError(f"range {text} runs backwards")
    return int(first), int(last)


def _output(path: str | None) -> str:
    """Where to write, absolute: a folder that is there, or the name of the output."""
    if path is None:
        return os.getcwd()
    if not path:
        raise UsageError("-o needs the path of a file or a folder; `-` is stdout")
    if path.endswith(os.sep) and not os.path.isdir(path):
        raise UsageError(
            f"there is no folder {path}: make it first, or leave the {os.sep} at the end away for a name"
        )
    # A link to a folder is replaced or refused as any link is, unless the person says that it is a folder.
    return os.path.realpath(path) if path.endswith(os.sep) else os.path.abspath(path)


def _phrase() -> str:
    """The recovery phrase from stdin: an argument would show in the process list."""
    if sys.stdin.isatty():
        print("Type or paste the 24 words, then Enter:", file=sys.stderr)
        return sys.stdin.readline(PHRASE_INPUT_CHARS_MAX)
    return sys.stdin.read(PHRASE_INPUT_CHARS_MAX)
