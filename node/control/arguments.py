"""The words of the command line: commands, options, help. Layer 5.

argparse, because `cairn put --help` has a budget of fifteen bare interpreter starts, which the larger
libraries spend on their own import. The common options stand before and after the command. Raises
`UsageError` where argparse would print and exit, so that one dispatcher renders every error.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from node.errors import UsageError

_EXAMPLES = """\
examples:
  cairn run --donate 20GiB              start a node that gives 20 GiB
  cairn put holiday.mp4                 store a file, print its link
  cairn get 'cairn:...#...' -o film.mp4
  cairn health cairn:...                who holds it, right now
  cairn demo                            a whole swarm on this machine, in a minute

Times are written 30d or 12h, sizes 500MB or 20GiB. A LINK may be `-`: one line from stdin, so that the key
does not show in the process list."""


@dataclass(frozen=True, slots=True)
class _Command:
    name: str
    help: str
    examples: str


_COMMANDS = (
    _Command(
        "run", "run the node in the foreground", "cairn run --donate 20GiB\ncairn run --set lease.days=60"
    ),
    _Command(
        "put",
        "store a file or a folder and print its link",
        "cairn put holiday.mp4\ncairn put thesis/ --expires 90d --code 10/30",
    ),
    _Command(
        "get",
        "fetch a file, a folder or one entry of it",
        "cairn get 'cairn:...#...'\n"
        "cairn get 'cairn:...#.../photos/1.jpg' -o 1.jpg\necho \"$LINK\" | cairn get - -o -",
    ),
    _Command(
        "link", "show the link of one of my files again", "cairn link bafk... --qr\ncairn link bafk... --via"
    ),
    _Command(
        "ls", "list my files with their health, or a folder's entries", "cairn ls\ncairn ls 'cairn:...#...'"
    ),
    _Command(
        "health",
        "ask and challenge every holder of a file",
        "cairn health cairn:...\ncairn health cairn:... --verify",
    ),
    _Command("renew", "keep a file of mine for longer", "cairn renew bafk... --for 90d"),
    _Command("rm", "release the leases of a file of mine", "cairn rm bafk..."),
    _Command("donate", "set or show what this node gives", "cairn donate 50GiB\ncairn donate"),
    _Command("status", "the node at a glance", "cairn status\ncairn --json status"),
    _Command("peers", "the peers this node knows", "cairn peers"),
    _Command(
        "recovery",
        "show or restore the recovery phrase",
        "cairn recovery show --reveal\ncairn recovery restore < words.txt",
    ),
    _Command(
        "demo",
        "a swarm of real nodes here: put, kill, get, verify",
        "cairn demo\ncairn demo --nodes 8 --kill 2 --file film.mp4",
    ),
    _Command(
        "simulate",
        "run a scenario of the simulated world: one seed, one history",
        "cairn simulate churn --seed 7\ncairn simulate partition --seed 3 --plot pictures\n"
        "cairn simulate all --seeds 1-100",
    ),
)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command and its options; `home`, `json` and `verbose` are always set. Raises `UsageError`.

    `--help` prints and raises `SystemExit(0)`.
    """
    options = _parser().parse_args(argv)
    for name, default in (("home", None), ("json", False), ("verbose", 0)):
        if not hasattr(options, name):
            setattr(options, name, default)
    return options


class _Parser(argparse.ArgumentParser):
    """Raises instead of printing, and keeps the layout of examples."""

    def __init__(self, **keywords: Any) -> None:
        keywords.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **keywords)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see `{self.prog} --help`)")


def _common() -> _Parser:
    """Options that every command takes, before it and after it.

    The defaults are suppressed: a subcommand's default would overwrite what stood before the command.
    """
    common = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    group = common.add_argument_group("common options")
    group.add_argument("--home", metavar="DIR", help="the node's folder (or CAIRN_HOME)")
    group.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    group.add_argument("-v", dest="verbose", action="count", help="say more on stderr")
    group.add_argument("--version", action="store_true", help="print the version and exit")
    return common


def _parser() -> _Parser:
    common = _common()
    parser = _Parser(
        prog="cairn",
        description="Storage that nobody can switch off: put a file, share its link, get it back.",
        epilog=_EXAMPLES,
        parents=[common],
    )
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", title="commands", required=True, parser_class=_Parser
    )
    made: dict[str, argparse.ArgumentParser] = {}
    for command in _COMMANDS:
        epilog = "examples:\n" + "\n".join(f"  {line}" for line in command.examples.splitlines())
        made[command.name] = commands.add_parser(
            command.name,
            help=command.help,
            description=command.help[0].upper() + command.help[1:] + ".",
            epilog=epilog,
            parents=[] if command.name == "recovery" else [common],
        )
    _add_run(made["run"])
    _add_put(made["put"])
    _add_get(made["get"])
    _add_file_commands(made)
    _add_donate(made["donate"])
    _add_recovery(made["recovery"], common)
    _add_demo(made["demo"])
    _add_simulate(made["simulate"])
    return parser


def _add_run(run: argparse.ArgumentParser) -> None:
    run.add_argument(
        "--listen",
        metavar="MULTIADDR",
        action="append",
        help="where to listen (repeatable); default: a port chosen once",
    )
    run.add_argument(
        "--bootstrap",
        metavar="MULTIADDR",
        action="append",
        help="a peer to join through (repeatable); replaces bootstrap_peers.toml",
    )
    run.add_argument("--donate", metavar="SIZE", help="disk to give, a hard cap that counts the whole home")
    web = run.add_mutually_exclusive_group()
    web.add_argument("--web", metavar="HOST:PORT", help="where to serve the page")
    web.add_argument("--no-web", action="store_true", help="serve no page")
    run.add_argument("--no-mdns", action="store_true", help="neither look for nor answer peers on this LAN")
    run.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="override a setting of config.toml (repeatable)",
    )


def _add_put(put: argparse.ArgumentParser) -> None:
    put.add_argument("path", metavar="PATH", help="a file or a folder")
    put.add_argument("--code", metavar="D/T", help="any D of T shards restore the file (default 10/30)")
    put.add_argument("--name", metavar="N", help="store it under this name")
    put.add_argument(
        "--password-file", metavar="F", help="wrap the link's key with the password on the first line of F"
    )
    put.add_argument("--expires", metavar="TIME", help="keep it this long (default 30d)")
    put.add_argument("--dry-run", action="store_true", help="say what it would take, send nothing")


def _add_get(get: argparse.ArgumentParser) -> None:
    get.add_argument("link", metavar="LINK[/path]", help="a link, or one entry of a folder's link")
    get.add_argument("-o", dest="output", metavar="PATH", help="where to write; `-` is stdout")
    get.add_argument("--range", metavar="A-B", help="only bytes A to B, both included")
    get.add_argument("--force", action="store_true", help="overwrite what is there")
    get.add_argument("--password-file", metavar="F", help="the link's password, on the first line of F")


def _add_file_commands(made: dict[str, argparse.ArgumentParser]) -> None:
    made["link"].add_argument("link", metavar="HASH|LINK")
    made["link"].add_argument("--qr", action="store_true", help="print it as a QR code as well")
    made["link"].add_argument(
        "--via", action="store_true", help="put addresses to join through into the link"
    )
    made["ls"].add_argument("link", metavar="LINK", nargs="?", help="a folder's link; without it, my files")
    made["ls"].add_argument(
        "--password-file", metavar="F", help="the link's password, on the first line of F"
    )
    made["health"].add_argument("link", metavar="HASH|LINK")
    made["health"].add_argument("--verify", action="store_true", help="read every block of every shard")
    made["renew"].add_argument("link", metavar="HASH")
    made["renew"].add_argument("--for", dest="duration", metavar="TIME", help="from now on (default 30d)")
    made["rm"].add_argument("link", metavar="HASH")


def _add_donate(donate: argparse.ArgumentParser) -> None:
    donate.add_argument("size", metavar="SIZE", nargs="?", help="a hard cap, such as 20GiB; 0 gives nothing")
    donate.add_argument("--rate", metavar="RATE", help="bandwidth to give, such as 2MiB/s")
    donate.add_argument("--pledge", metavar="SHARE", help="the part given freely to newcomers, such as 10%%")


def _add_recovery(recovery: argparse.ArgumentParser, common: _Parser) -> None:
    actions = recovery.add_subparsers(
        dest="action", metavar="show|restore", required=True, parser_class=_Parser
    )
    show = actions.add_parser("show", help="show the phrase", parents=[common])
    show.add_argument("--reveal", action="store_true", help="print the 24 words")
    actions.add_parser("restore", help="read 24 words from stdin and restore the account", parents=[common])


def _add_demo(demo: argparse.ArgumentParser) -> None:
    demo.add_argument("--nodes", type=int, default=12, metavar="N", help="nodes in the swarm (default 12)")
    demo.add_argument(
        "--kill", type=int, default=4, metavar="N", help="nodes to kill with SIGKILL (default 4)"
    )
    demo.add_argument("--file", metavar="PATH", help="store this file instead of 64 MiB of random bytes")
    demo.add_argument("--keep", action="store_true", help="leave the swarm's folders and logs for a look")


def _add_simulate(simulate: argparse.ArgumentParser) -> None:
    simulate.add_argument("scenario", metavar="SCENARIO", help="a module of simulations/scenarios, or `all`")
    simulate.add_argument("--seed", type=int, default=1, metavar="N", help="which history (default 1)")
    simulate.add_argument("--seeds", default="1-10", metavar="A-B", help="of `all`: which (default 1-10)")
    simulate.add_argument("--plot", metavar="DIR", help="draw what happened (needs cairn[plot])")
    simulate.add_argument("--brief", action="store_true", help="fewer machines, less time")
    simulate.add_argument("--faults", metavar="N,N", help="only these faults of the seed's list")
    simulate.add_argument("--shrink", action="store_true", help="find a smallest list of faults that fails")
    simulate.add_argument("--jobs", type=int, metavar="N", help="of `all`: runs at once (default: cores)")
