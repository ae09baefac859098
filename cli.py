"""The `cairn` command: parse, one control call, render. Layer 6.

Invariants: with `--json` stdout carries exactly one JSON document (the daemon: one a line), an error's
included; every error is one line on stderr and an exit code of the contract; there is no traceback. Nothing
heavy is imported before a command needs it.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence

from node.control import streams
from node.errors import NodeError, TransferInterruptedError

_INTERRUPTED = (
    "interrupted: what was done is kept, and the same command goes on from there (a put within seven days)"
)


def main() -> None:
    """Entry point of the console script."""
    streams.open_missing()
    sys.exit(run(sys.argv[1:]))


def run(argv: Sequence[str]) -> int:
    """Run one command line; the exit code."""
    words = list(argv[: argv.index("--")]) if "--" in argv else list(argv)
    as_json = "--json" in words
    try:
        return _version(as_json) if "--version" in words else _run(argv)
    except NodeError as error:
        return _fail(error.exit_code, error.kind, str(error), as_json=as_json)
    except KeyboardInterrupt:
        stopped = TransferInterruptedError(_INTERRUPTED)
        return _fail(stopped.exit_code, stopped.kind, str(stopped), as_json=as_json)
    except BrokenPipeError:
        # Whoever read our output has enough.
        streams.drop_stdout()
        return TransferInterruptedError.exit_code
    except Exception as error:  # noqa: BLE001  # the boundary of the program: whatever a bug raises
        # A bug in a command ends as one line, its traceback in a file.
        from node.control.error_log import write_traceback

        where = write_traceback(argv)
        message = f"internal error ({type(error).__name__}): the details are in {where}"
        return _fail(1, "internal", message, as_json=as_json)


def _run(argv: Sequence[str]) -> int:
    from node.control.arguments import parse

    with streams.stdout_errors():  # of `--help`
        options = parse(argv)
    if options.command == "simulate":
        from simulations.command import simulate

        result, exit_code = simulate(options)
    else:
        from node.control.commands import COMMANDS

        result, exit_code = COMMANDS[options.command](options)
    if result is not None:
        with streams.stdout_errors():
            if options.json:
                print(json.dumps(result), flush=True)
            else:
                from node.control.render import render

                render(options, result)
                sys.stdout.flush()
    return exit_code


def _version(as_json: bool) -> int:
    from node import __version__

    with streams.stdout_errors():
        print(json.dumps({"version": __version__}) if as_json else f"cairn {__version__}", flush=True)
    return 0


def _fail(exit_code: int, kind: str, message: str, *, as_json: bool) -> int:
    line = " ".join(message.split())
    with contextlib.suppress(OSError):  # then the exit code has to say it
        print(f"cairn: {line}", file=sys.stderr)
    try:
        if as_json:
            print(json.dumps({"error": {"code": exit_code, "kind": kind, "message": line}}))
        sys.stdout.flush()
    except OSError:
        streams.drop_stdout()
    return exit_code


if __name__ == "__main__":
    main()
