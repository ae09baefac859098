"""The commands as the daemon answers them: JSON fields in, JSON fields out. Layer 5.

One handler a command of the command line; the names of the fields are the contract's. Requests come from
this machine's owner, and are still checked: a wrong field is a `UsageError`, never a traceback. Here are all
handlers by name, and those of the commands that keep files and shards where they are, or end that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from itertools import islice

from node.chunks.catalogue import CatalogueEntry
from node.control.api_credit import credit
from node.control.api_files import health, link, ls
from node.control.api_node import donate, peers, status
from node.control.api_reading import OpenFiles
from node.control.api_transfers import get, put
from node.control.api_waiting import LIST_WAIT_S, join, wait_joined, wait_list, whole_days
from node.control.fields import field, required
from node.control.server import Events, Handler, Json
from node.crypto.hashing import cid_text
from node.crypto.links import parse_hash_or_link
from node.daemon.compose import Node
from node.errors import NotFoundError
from node.units import DAY_S, FileHash, format_count

RELEASE_BATCH_SEGMENTS = 64


def control_handlers(node: Node) -> Mapping[str, Handler]:
    """Every command this node answers, by name."""
    commands: Mapping[str, Callable[[Node, Json, Events], Awaitable[Json]]] = {
        "put": put,
        "get": get,
        "link": link,
        "ls": ls,
        "health": health,
        "renew": renew,
        "rm": rm,
        "donate": donate,
        "repair": repair,
        "drain": drain,
        "credit": credit,
        "status": status,
        "peers": peers,
    }
    handlers: dict[str, Handler] = {name: partial(handler, node) for name, handler in commands.items()}
    return {**handlers, **OpenFiles(node).handlers()}


async def repair(node: Node, request: Json, events: Events) -> Json:
    """Remake what is missing of a file now; the hash is enough for its owner and its holders."""
    wanted = parse_hash_or_link(required(request, "link", str))
    await join(node, wanted, events)
    node.healing.ask_anew()
    repaired = segments = 0

    def on_progress(done: int, total: int) -> None:
        events.progress(phase="repair", done_segments=done, total_segments=total)

    for each in _with_index(node, wanted.file_hash):
        report = await node.healing.repairer.repair(each, on_progress)
        repaired += report.repaired
        segments += report.segments
        for note in report.notes:
            await events.note(note)
    return {"repaired": repaired, "segments": segments}


async def drain(node: Node, _request: Json, events: Events) -> Json:
    """Take nothing new, and move every shard elsewhere."""
    if not await node.healing.leave():
        return {"moved": 0, "remaining": 0}
    await wait_joined(node, events)
    node.healing.ask_anew()

    def on_progress(moved: int, remaining: int) -> None:
        events.progress(phase="drain", done_shards=moved, total_shards=moved + remaining)

    report = await node.healing.drain(on_progress)
    return {"moved": report.moved, "remaining": report.remaining}


async def renew(node: Node, request: Json, events: Events) -> Json:
    """Keep a file for longer: one of mine, or another one that this account pays for from now on."""
    file_hash = parse_hash_or_link(required(request, "link", str)).file_hash
    days = whole_days(field(request, "duration_s", int), node.config.lease.days)
    await wait_joined(node, events)
    leases = unreachable = 0
    is_short = False
    ends_s: list[int] = []
    for each in _with_index(node, file_hash):
        report = await node.renewer.renew(each, duration_s=days * DAY_S)
        leases += report.leases
        unreachable += report.unreachable_holders
        await node.removals.end(each)
        if not report.is_own and report.leases:
            await events.note(
                "this file is another account's: its new leases are yours to pay for and to end"
            )
        if report.expires_s is None:
            is_short = True
            continue
        ends_s.append(report.expires_s)
        await node.ports.offload.run(partial(node.catalogue.set_expiry, each, report.expires_s))
    if is_short:
        await events.note(
            "fewer holders answered than restore the file: it is not sure to be kept for longer"
        )
    if unreachable:
        await events.note(f"{format_count(unreachable, 'holder')} did not answer: renew again later")
    return {"hash": cid_text(file_hash), "leases": leases, "expires": None if is_short else min(ends_s)}


async def rm(node: Node, request: Json, events: Events) -> Json:
    """Release the leases of a file of mine, and forget it once every holder has let go."""
    file_hash = parse_hash_or_link(required(request, "link", str)).file_hash
    await wait_joined(node, events)
    await wait_list(node, events)
    names = _with_index(node, file_hash)
    leases = unreachable = 0
    lost: list[CatalogueEntry] = []
    # The index first: a repetition of what was cut short still finds it through the file.
    for each in reversed(names):
        try:
            report = await node.renewer.release(each)
        except NotFoundError:
            entry = node.catalogue.get(each)
            if entry is None or not node.contacts():
                raise  # not a file of this list; or it is this node that reaches nobody
            leases += await _release_lost(node, entry)
            lost.append(entry)
            continue
        leases += report.leases
        unreachable += report.unreachable_holders
    now_s = node.ports.clock.now_s()
    if lost:
        await events.note(_lost_note(max(entry.expires_s for entry in lost), now_s))
    if unreachable:
        await events.note(
            f"{format_count(unreachable, 'holder')} did not answer: this node goes on asking, and takes the "
            "file off your list once all have let go; nothing renews it"
        )
    for each in names:
        entry = node.catalogue.get(each)
        until_s = now_s + node.config.lease.days * DAY_S if entry is None else entry.expires_s
        if unreachable or (entry in lost and until_s > now_s):
            await node.removals.begin(each, until_s)
        else:
            await node.removals.end(each)
        if not unreachable:
            await node.ports.offload.run(partial(node.catalogue.remove, each))
    await node.file_list.wait_published(LIST_WAIT_S)
    return {"hash": cid_text(file_hash), "leases": leases}


async def _release_lost(node: Node, entry: CatalogueEntry) -> int:
    """End the leases of a file whose manifest nobody has, by what this node remembers of them."""
    contacts = {contact.peer_id: contact for contact in node.catalogue.holders(entry.file_hash)}
    ended = 0
    segments = node.catalogue.segments(entry.file_hash)
    while batch := await node.ports.offload.run(lambda: list(islice(segments, RELEASE_BATCH_SEGMENTS))):
        leases = [lease for segment in batch for lease in segment.leases]
        ended += await node.renewer.release_known(leases, entry.owner_salt, contacts)
    return ended


def _lost_note(expires_s: int, now_s: int) -> str:
    if expires_s <= now_s:
        return "nobody has this file any more, and its leases have run out: it is off your list"
    day = datetime.fromtimestamp(expires_s, tz=UTC).date()
    return (
        f"no peer that answers has this file: it is off your list, and this node ends its leases if holders "
        f"come back before {day}"
    )


def _with_index(node: Node, file_hash: FileHash) -> tuple[FileHash, ...]:
    """A file and the file that keeps its large folder index, if it has one."""
    entry = node.catalogue.get(file_hash)
    if entry is None or entry.index_hash is None:
        return (file_hash,)
    return (file_hash, entry.index_hash)
