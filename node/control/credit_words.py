"""Credit as a person reads it: never a number without what it buys. Layer 5.

A credit keeps 1 MiB on one donor for a day. What a person wants to know is how large a file that is: at 10/30
a file takes three times its size, for 30 days.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from node.units import MIB, format_count, format_size

PERIOD_DAYS = 30
_NOTHING = 0.005
"""Credits that round to nothing."""


def format_credits(credits: float) -> str:
    """`1,234.56 credits`."""
    return f"{credits:,.2f} {'credit' if round(credits, 2) == 1 else 'credits'}"


def file_bytes(credits: float, code: Sequence[int]) -> int:
    """How large a file so many credits keep for 30 days at a code (data shards, total shards)."""
    data_shards, total_shards = code
    return int(max(0.0, credits) / PERIOD_DAYS * MIB * data_shards / total_shards)


def worth(credits: float, code: Sequence[int]) -> str:
    """`1.2 GB at 10/30 for 30 days`."""
    return f"{format_size(file_bytes(credits, code))} at {code[0]}/{code[1]} for {PERIOD_DAYS} days"


def price_words(credits: float) -> str:
    """What a price means to somebody who gives: `30.00 credits: what keeping 1.0 MB for others ... earns`."""
    kept = format_size(_kept_bytes(credits))
    return f"{format_credits(credits)}: what keeping {kept} for others for {PERIOD_DAYS} days earns"


def summary_lines(result: Mapping[str, Any]) -> list[str]:
    """How this node stands, in sentences; `result` is what the command `credit` returns."""
    code, kept = result["code"], result["kept_for_others_bytes"]
    lines = []
    if kept:
        own = format_size(kept * code[0] // code[1])
        lines.append(
            f"You keep {format_size(kept)} for others; that lets you keep {own} at {code[0]}/{code[1]}."
        )
    elif result["given_bytes"]:
        given = format_size(result["given_bytes"])
        lines.append(
            f"You give {given} and keep nothing for others yet: what they put here will earn you credit."
        )
    else:
        lines.append("You keep nothing for others yet: `cairn donate 20GiB` starts to earn credit.")
    net = result["net"]
    if net >= _NOTHING:
        lines.append(f"Others owe you {format_credits(net)}, all in all: that keeps {worth(net, code)}.")
    elif net <= -_NOTHING:
        lines.append(
            f"You owe others {format_credits(-net)}, all in all: keeping {format_size(_kept_bytes(-net))} "
            f"for them for {PERIOD_DAYS} days gives it back."
        )
    else:
        lines.append("Nobody owes you anything, all in all, and you owe nobody.")
    if result["earned"] >= _NOTHING:
        lines.append(
            f"Since the start you have earned {format_credits(result['earned'])}: as much as "
            f"{worth(result['earned'], code)} cost."
        )
    lines.append(_friends(result["friends"], result["lines_bytes"]))
    return lines


def peer_words(peer: Mapping[str, Any], code: Sequence[int]) -> str:
    """What a balance with one account means."""
    balance = peer["balance"]
    if balance >= _NOTHING:
        words = f"owes you {format_credits(balance)}: keeps {worth(balance, code)} for you"
    elif balance <= -_NOTHING:
        words = (
            f"you owe {format_credits(-balance)}: keep {format_size(_kept_bytes(-balance))} for it "
            f"for {PERIOD_DAYS} days"
        )
    else:
        words = "nothing owed"
    return words + ("; frozen: it signed two different states" if peer["frozen"] else "")


def line_words(peer: Mapping[str, Any]) -> str:
    """What a friend's line means."""
    if not peer["line_bytes"]:
        return ""
    left, line = format_size(peer["line_left_bytes"]), format_size(peer["line_bytes"])
    return line if left == line else f"{line}, {left} of it left"


def _friends(count: int, lines_bytes: int) -> str:
    if not count:
        return "No friend has a line on your disk: `cairn credit line ACCOUNT 20GB` gives one."
    return f"{format_count(count, 'friend')} can use {format_size(lines_bytes)} of yours."


def _kept_bytes(credits: float) -> int:
    """Bytes kept for 30 days that earn so many credits."""
    return int(credits / PERIOD_DAYS * MIB)
