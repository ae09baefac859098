"""`python -m benchmarks [NAME [OPTIONS]]`: run one benchmark, or all with their defaults."""

from __future__ import annotations

import importlib
import sys
from typing import Final

BENCHMARKS: Final = {
    "startup": "how soon commands answer, in bare interpreter starts",
    "pipeline": "seal + code + hash, and the way back, against the roofline of this machine",
    "store": "into and out of a donor's store, beside a bare append log",
    "swarm": "MB/s of put and get on a swarm of real nodes, with CPU seconds of client and holders",
    "mount": "reading through a mount beside get, and what single reads of 4 KiB take",
    "receipts": "what serving receipts cost a download, as a ratio",
    "latency": "how soon a small file is stored, and found by a node that never heard of it",
}
"""Each is a module of this package with `main(arguments) -> None`."""


def main(arguments: list[str]) -> int:
    """Run what `arguments` name; the exit code."""
    if arguments and arguments[0] not in BENCHMARKS:
        print("usage: python -m benchmarks [NAME [OPTIONS]]", file=sys.stderr)
        for name, purpose in BENCHMARKS.items():
            print(f"  {name:10} {purpose}", file=sys.stderr)
        return 2
    for name in arguments[:1] or BENCHMARKS:
        importlib.import_module(f"benchmarks.{name}").main(arguments[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
