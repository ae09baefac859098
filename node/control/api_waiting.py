"""What several commands begin with: the join, the list of files, a length of time. Layer 5.

Invariant: a command waits for its node no longer than said here; what it did not wait for is a note.
"""

from __future__ import annotations

from node import limits
from node.control.server import Events
from node.crypto.links import Link
from node.daemon.compose import Node
from node.errors import UsageError
from node.net.bootstrap import parse_contact
from node.units import DAY_S

JOIN_WAIT_S = 15.0
LIST_FOUND_WAIT_S = 30.0  # after a restore: the lookup, and parts of a long list
LIST_WAIT_S = 5.0  # the file is stored by then; what is missing is that another machine would know of it


async def join(node: Node, wanted: Link, events: Events) -> None:
    """Try the addresses in a link, and wait for the first join."""
    if wanted.via:
        node.join_through([parse_contact(address) for address in wanted.via])
    await wait_joined(node, events)


async def wait_list(node: Node, events: Events) -> None:
    """In a home restored from its words, wait for the list of files."""
    if not await node.file_list.wait_found(LIST_FOUND_WAIT_S):
        await events.note("the list of files of this account is not found yet: this node goes on looking")


async def wait_joined(node: Node, events: Events) -> None:
    """Wait a while for the first join; say so if nobody answers."""
    events.progress(phase="join")
    if not await node.wait_joined(JOIN_WAIT_S):
        await events.note("no peer answers yet: `cairn run --bootstrap MULTIADDR` names one to join through")


def whole_days(duration_s: int | None, default_days: int) -> int:
    """Days of a length of time, rounded up: leases end with a day. Raises `UsageError`."""
    if duration_s is None:
        return default_days
    if duration_s <= 0:
        raise UsageError("a file is kept for at least a day")
    days = -(-duration_s // DAY_S)
    if days > limits.LEASE_DAYS_MAX:
        raise UsageError(
            f"a lease lasts at most {limits.LEASE_DAYS_MAX} days: keep it longer by renewing it in time"
        )
    return days
