"""The words of the command line: commands, options, help. Layer 5.

Each command is a function whose parameters are its words; it does nothing but refuse those that exclude each
other. The common options stand before and after every command. Raises `UsageError` where the parser would
print and exit, so that one dispatcher renders every error. Typer is imported without Rich: `cairn put --help`
has a budget of fifteen bare interpreter starts (docs/decisions/0006).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Annotated, Any

import typer

from node.errors import UsageError

Options = SimpleNamespace
"""The words of one command line: `command`, `home`, `json`, `verbose`, and what the command takes."""

_PARSER_ERROR: Any = typer.BadParameter.__base__
"""What the parser raises for wrong words; Typer carries its own copy of Click and exports subclasses only."""

_EXAMPLES = """\
cairn run --donate 20GiB              start a node that gives 20 GiB
cairn put holiday.mp4                 store a file, print its link
cairn get 'cairn:...#...' -o film.mp4
cairn health cairn:...                who holds it, right now
cairn demo                            a whole swarm on this machine, in a minute"""

HomeOption = Annotated[
    str | None, typer.Option("--home", metavar="DIR", help="the node's folder (or CAIRN_HOME)")
]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON document on stdout")]
VerboseOption = Annotated[int, typer.Option("-v", count=True, show_default=False, help="say more on stderr")]
VersionOption = Annotated[bool, typer.Option("--version", help="print the version and exit")]
LinkArgument = Annotated[str, typer.Argument(metavar="HASH|LINK", help="`-` reads it from stdin")]
HashArgument = Annotated[
    str, typer.Argument(metavar="HASH", help="of a file of mine; `-` reads it from stdin")
]
PasswordOption = Annotated[
    str | None,
    typer.Option("--password-file", metavar="F", help="the link's password is the first line of F"),
]
PassphraseOption = Annotated[
    str | None,
    typer.Option(
        "--passphrase-file",
        metavar="F",
        help="the keystore's passphrase is the first line of F (or of the file CAIRN_PASSPHRASE_FILE); "
        "a terminal asks for it",
    ),
]


def _examples(text: str) -> str:
    """An epilog that keeps its lines."""
    return "\b\nexamples:\n" + "\n".join(f"  {line}" for line in text.splitlines())


def _app(**keywords: Any) -> typer.Typer:
    return typer.Typer(
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        **keywords,
    )


_cairn = _app(name="cairn", epilog=_examples(_EXAMPLES))
_recovery = _app(
    name="recovery",
    epilog=_examples(
        "cairn recovery show --reveal\ncairn recovery restore < words.txt\ncairn recovery passphrase"
    ),
)
_credit = _app(
    name="credit",
    epilog=_examples("cairn credit\ncairn credit line z6Mk... 20GB"),
    invoke_without_command=True,
)
_cairn.add_typer(_credit, help="who owes whom, and what it buys; lines for friends")
_cairn.add_typer(_recovery, help="show or restore the recovery phrase; protect it with a passphrase")


def parse(argv: Sequence[str]) -> Options:
    """The command and its options. Raises `UsageError`; `--help` prints and raises `SystemExit(0)`."""
    command = typer.main.get_command(_cairn)
    try:
        options = command.main(list(argv), prog_name="cairn", standalone_mode=False)
    except _PARSER_ERROR as error:
        where = error.ctx.command_path if error.ctx is not None else "cairn"
        text = error.format_message().rstrip(".")
        raise UsageError(f"{text[:1].lower()}{text[1:]} (see `{where} --help`)") from None
    if not isinstance(options, SimpleNamespace):
        raise SystemExit(0)  # help was printed
    return options


def _common(
    home: HomeOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    version: VersionOption = False,
) -> None:
    """Storage that nobody can switch off: put a file, share its link, get it back.

    Times are written 30d or 12h, sizes 500MB or 20GiB. A LINK may be `-`: one line from stdin, so that the
    key does not show in the process list.
    """


_COMMON = inspect.signature(_common, eval_str=True).parameters


def _with_common(function: Callable[..., None], **constant: str | None) -> Callable[..., Options | None]:
    """What the parser calls: its words are those of `function` and the common ones.

    `function` may refuse words that do not go together; all of them are handed on, with `constant`.
    """
    own = inspect.signature(function, eval_str=True).parameters

    def hand_on(context: typer.Context, **words: Any) -> Options | None:
        if context.invoked_subcommand is not None:
            return None
        function(**{name: words[name] for name in own})
        del words["version"]
        for outer in (context.parent, context.parent and context.parent.parent):
            before = outer.params if outer else {}
            words["home"] = words["home"] or before.get("home")
            words["json"] = words["json"] or before.get("json", False)
            words["verbose"] += before.get("verbose", 0)
        return SimpleNamespace(**{"command": context.info_name, **words, **constant})

    first = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    parameters = [first, *({**own, **_COMMON}.values())]
    hand_on.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    hand_on.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    hand_on.__doc__ = function.__doc__
    return hand_on


def _command(
    name: str, examples: str, app: typer.Typer = _cairn, **constant: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def add(function: Callable[..., None]) -> Callable[..., None]:
        app.command(name, epilog=_examples(examples))(_with_common(function, **constant))
        return function

    return add


def _credit_all() -> None:
    """who owes whom, and what it buys; lines for friends"""


_cairn.callback()(_with_common(_common))
_credit.callback()(_with_common(_credit_all, command="credit", peer=None, amount=None))


@_command("run", "cairn run --donate 20GiB\ncairn run --set lease.days=60")
def _run(
    listen: Annotated[
        list[str] | None,
        typer.Option(metavar="MULTIADDR", help="where to listen (repeatable); default: a port chosen once"),
    ] = None,
    announce: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MULTIADDR",
            help="tell others to dial this as well: a forwarded port, a name (repeatable)",
        ),
    ] = None,
    bootstrap: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MULTIADDR", help="a peer to join through (repeatable); replaces bootstrap_peers.toml"
        ),
    ] = None,
    donate: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="disk to give, a hard cap that counts the whole home; from 16MiB on"
        ),
    ] = None,
    web: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="where to serve the page, on loopback; port 0 is any free one (default 127.0.0.1:0)",
        ),
    ] = None,
    no_web: Annotated[bool, typer.Option("--no-web", help="serve no page")] = False,
    no_mdns: Annotated[
        bool, typer.Option("--no-mdns", help="neither look for nor answer peers on this LAN")
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="override a setting of config.toml (repeatable)"),
    ] = None,
    passphrase_file: PassphraseOption = None,
) -> None:
    """run the node in the foreground"""
    if web is not None and no_web:
        raise UsageError("--web and --no-web exclude each other (see `cairn run --help`)")


@_command("put", "cairn put holiday.mp4\ncairn put thesis/ --expires 90d --code 10/30")
def _put(
    path: Annotated[str, typer.Argument(metavar="PATH", help="a file or a folder")],
    code: Annotated[
        str | None, typer.Option(metavar="D/T", help="any D of T shards restore the file (default 10/30)")
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="N", help="store it under this name")] = None,
    password_file: Annotated[
        str | None,
        typer.Option(
            "--password-file",
            metavar="F",
            help="wrap the link's key with the password on the first line of F",
        ),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="keep it this long (default 30d)")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what it would take, send nothing")] = False,
) -> None:
    """store a file or a folder and print its link"""


@_command(
    "get",
    "cairn get 'cairn:...#...'\n"
    "cairn get 'cairn:...#.../photos/1.jpg' -o 1.jpg\n"
    'echo "$LINK" | cairn get - -o -',
)
def _get(
    link: Annotated[
        str, typer.Argument(metavar="LINK[/path]", help="a link, or one entry of a folder's link")
    ],
    output: Annotated[
        str | None, typer.Option("-o", metavar="PATH", help="where to write; `-` is stdout")
    ] = None,
    range: Annotated[str | None, typer.Option(metavar="A-B", help="only bytes A to B, both included")] = None,
    force: Annotated[bool, typer.Option("--force", help="overwrite what is there")] = False,
    password_file: PasswordOption = None,
) -> None:
    """fetch a file, a folder or one entry of it"""


@_command("link", "cairn link bafk... --qr\ncairn link bafk... --via")
def _link(
    link: LinkArgument,
    qr: Annotated[bool, typer.Option("--qr", help="print it as a QR code as well")] = False,
    via: Annotated[bool, typer.Option("--via", help="put addresses to join through into the link")] = False,
) -> None:
    """show the link of one of my files again"""


@_command("url", "cairn url 'cairn:...#...'\nmpv \"$(cairn url bafk...)\"\ncairn url")
def _url(
    link: Annotated[
        str | None,
        typer.Argument(
            metavar="LINK[/path]",
            help="a link, an entry of a folder's link, or the hash of my file; without it, the page's URL",
        ),
    ] = None,
    password_file: PasswordOption = None,
) -> None:
    """a URL on this machine for players and browsers"""


@_command(
    "mount",
    "cairn mount 'cairn:...#...' film/\ncairn mount mine ~/cairn\necho \"$LINK\" | cairn mount - photos/",
)
def _mount(
    link: Annotated[
        str,
        typer.Argument(metavar="LINK|mine", help="a link, the hash of my file, or `mine`: all of my files"),
    ],
    folder: Annotated[str, typer.Argument(metavar="DIR", help="an empty folder, where they appear")],
    allow_other: Annotated[
        bool, typer.Option("--allow-other", help="let other users of this machine read them as well")
    ] = False,
    password_file: PasswordOption = None,
) -> None:
    """show files as a folder to read from, until Ctrl-C or umount"""


@_command("ls", "cairn ls\ncairn ls 'cairn:...#...'")
def _ls(
    link: Annotated[
        str | None, typer.Argument(metavar="LINK", help="a folder's link; without it, my files")
    ] = None,
    password_file: PasswordOption = None,
) -> None:
    """list my files with their health, or a folder's entries"""


@_command("health", "cairn health cairn:...\ncairn health cairn:... --verify")
def _health(
    link: LinkArgument,
    verify: Annotated[bool, typer.Option("--verify", help="read every block of every shard")] = False,
) -> None:
    """ask and challenge every holder of a file"""


@_command("renew", "cairn renew bafk... --for 90d")
def _renew(
    link: HashArgument,
    duration: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="from now on (default 30d)")
    ] = None,
) -> None:
    """keep a file of mine for longer"""


@_command("rm", "cairn rm bafk...")
def _rm(
    link: HashArgument,
) -> None:
    """release the leases of a file of mine"""


@_command("repair", "cairn repair bafk...\ncairn repair 'cairn:...'")
def _repair(
    link: LinkArgument,
) -> None:
    """remake what is missing of a file now, instead of waiting"""


@_command("drain", "cairn drain")
def _drain() -> None:
    """move my shards elsewhere, then say that it is safe to leave"""


@_command("donate", "cairn donate 50GiB\ncairn donate")
def _donate(
    size: Annotated[
        str | None,
        typer.Argument(metavar="SIZE", help="a hard cap, such as 20GiB, from 16MiB on; 0 gives nothing"),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            metavar="RATE", help="bandwidth to give, up and down together, such as 2MiB/s; none: all"
        ),
    ] = None,
    pledge: Annotated[
        str | None, typer.Option(metavar="SHARE", help="the part given freely to newcomers, such as 10%")
    ] = None,
) -> None:
    """set or show what this node gives"""


@_command(
    "line",
    "cairn credit line z6Mk... 20GB\ncairn credit line 12D3KooW... 0",
    _credit,
    command="credit",
)
def _credit_line(
    peer: Annotated[str, typer.Argument(metavar="ACCOUNT", help="an account, or the peer id of a node met")],
    amount: Annotated[
        str, typer.Argument(metavar="AMOUNT", help="a size that it may have kept here; 0 takes it back")
    ],
) -> None:
    """let a friend keep so much on my disk for nothing"""


@_command("status", "cairn status\ncairn --json status")
def _status() -> None:
    """the node at a glance"""


@_command("peers", "cairn peers")
def _peers() -> None:
    """the peers this node knows"""


@_command("show", "cairn recovery show --reveal", _recovery, command="recovery", action="show")
def _recovery_show(
    reveal: Annotated[bool, typer.Option("--reveal", help="print the 24 words")] = False,
    passphrase_file: PassphraseOption = None,
) -> None:
    """show the phrase"""


@_command("restore", "cairn recovery restore < words.txt", _recovery, command="recovery", action="restore")
def _recovery_restore(
    passphrase_file: PassphraseOption = None,
) -> None:
    """read 24 words from stdin and restore the account"""


@_command(
    "passphrase",
    "cairn recovery passphrase\n"
    "cairn recovery passphrase --passphrase-file old.txt --new-passphrase-file new.txt\n"
    "cairn recovery passphrase --remove",
    _recovery,
    command="recovery",
    action="passphrase",
)
def _recovery_passphrase(
    new_passphrase_file: Annotated[
        str | None,
        typer.Option(
            "--new-passphrase-file", metavar="F", help="the new one is the first line of F; a terminal asks"
        ),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="seal the keystore with none")] = False,
    passphrase_file: PassphraseOption = None,
) -> None:
    """set, change or remove the passphrase that seals the keystore"""
    if remove and new_passphrase_file is not None:
        raise UsageError(
            "--remove and --new-passphrase-file exclude each other (see `cairn recovery passphrase --help`)"
        )


@_command("demo", "cairn demo\ncairn demo --nodes 8 --kill 2 --file film.mp4")
def _demo(
    nodes: Annotated[int, typer.Option(metavar="N", help="nodes in the swarm")] = 12,
    kill: Annotated[int, typer.Option(metavar="N", help="nodes to kill with SIGKILL")] = 4,
    file: Annotated[
        str | None, typer.Option(metavar="PATH", help="store this file instead of 64 MiB of random bytes")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="leave the swarm's folders and logs for a look")
    ] = False,
) -> None:
    """a swarm of real nodes here: put, kill, get, verify, heal"""


@_command(
    "simulate",
    "cairn simulate churn --seed 7\n"
    "cairn simulate partition --seed 3 --plot pictures\n"
    "cairn simulate all --seeds 1-100\n"
    "cairn simulate attack --json",
)
def _simulate(
    scenario: Annotated[
        str,
        typer.Argument(
            metavar="SCENARIO",
            help="real nodes in a simulated world: churn, eclipse, filling, flash_crowd, hostile_holders, "
            "mass_failure, partition, slow_disks, steady, upgrade, or `all` of them; or what is computed: "
            "attack (300 attackers against the rules of credit), availability, durability, lookups, sweep, "
            "year",
        ),
    ],
    seed: Annotated[int, typer.Option(metavar="N", help="which history")] = 1,
    seeds: Annotated[str, typer.Option(metavar="A-B", help="of `all`: which")] = "1-10",
    plot: Annotated[
        str | None, typer.Option(metavar="DIR", help="draw what happened (needs cairn[plot])")
    ] = None,
    brief: Annotated[bool, typer.Option("--brief", help="fewer machines, less time")] = False,
    days: Annotated[float | None, typer.Option(metavar="N", help="so many virtual days (churn only)")] = None,
    faults: Annotated[
        str | None, typer.Option(metavar="N,N", help="only these faults of the seed's list")
    ] = None,
    shrink: Annotated[
        bool, typer.Option("--shrink", help="find a smallest list of faults that fails")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(metavar="N", help="of `all`: runs at once (default: cores)")
    ] = None,
) -> None:
    """run a scenario of the simulated world, or a model: one seed, one history"""
