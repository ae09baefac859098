"""The commands as the daemon answers them: JSON fields in, JSON fields out. Layer 5.

One handler a command of the command line; the names of the fields are the contract's. Requests come from
this machine's owner, and are still checked: a wrong field is a `UsageError`, never a traceback.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path

import trio

from node import limits
from node.chunks.catalogue import CatalogueEntry
from node.chunks.geometry import Code
from node.chunks.get.download import GetProgress
from node.chunks.get.health import HealthReport
from node.chunks.known_health import known_health
from node.chunks.put.upload import PutOptions, PutProgress
from node.control.api_credit import credit
from node.control.api_node import donate, peers, status
from node.control.fields import field, required
from node.control.server import Events, Handler, Json
from node.crypto.hashing import cid_text
from node.crypto.identity import peer_id_text
from node.crypto.links import Link, parse_hash_or_link, parse_link, parse_link_and_path
from node.daemon.compose import Node
from node.errors import NodeError, NotFoundError, UsageError
from node.net.bootstrap import parse_contact, peer_multiaddr
from node.units import DAY_S, FileHash, Multiaddr, PeerId, SegmentId, format_count

JOIN_WAIT_S = 15.0
LIST_WAIT_S = 5.0  # the file is stored by then; what is missing is that another machine would know of it
LIST_FOUND_WAIT_S = 30.0  # after a restore: the lookup, and parts of a long list
RELEASE_BATCH_SEGMENTS = 64
LS_HEALTH_WAIT_S = 20.0  # a list is worth more at once than complete
LS_CHECKS_AT_ONCE = 4
LINK_VIA_COUNT = 3  # addresses in a link: one that answers is enough, and a QR code has to hold them


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
    return {name: partial(handler, node) for name, handler in commands.items()}


# --- transfers ------------------------------------------------------------------------------------------


async def put(node: Node, request: Json, events: Events) -> Json:
    """Store a file or folder; with `dry_run` only say what it would take."""
    source = Path(required(request, "path", str))
    if not await node.ports.offload.run(partial(os.access, source, os.R_OK)):
        raise UsageError(f"{source} is missing, or this node may not read it")
    options = PutOptions(
        code=_code(node, field(request, "code", str)),
        name=field(request, "name", str),
        password=field(request, "password", str),
        lease_days=_days(field(request, "expires_s", int), node.config.lease.days),
        renews=field(request, "expires_s", int) is None,
    )
    if field(request, "dry_run", bool):
        return await _estimate(node, source, options)

    def on_progress(progress: PutProgress) -> None:
        events.progress(
            phase=progress.phase, done_bytes=progress.done_bytes, total_bytes=progress.total_bytes
        )

    await _wait_joined(node, events)
    report = await node.uploader.put(source, options, on_progress)
    for note in report.notes:
        await events.note(note)
    if not await node.file_list.wait_published(LIST_WAIT_S):
        await events.note(
            "the list of your files in the network does not have it yet: this node goes on trying"
        )
    return {
        "link": str(report.link),
        "hash": cid_text(report.file_hash),
        "name": report.name,
        "bytes": report.bytes,
        "stored_bytes": report.stored_bytes,
        "code": [report.code.data_shards, report.code.total_shards],
        "segments": report.segments,
        "holders": report.holders,
        "weak": report.weak,
        "expires": report.expires_s,
        "price": _credits(report.price_microcredits),
        "seconds": round(report.seconds, 3),
    }


async def _estimate(node: Node, source: Path, options: PutOptions) -> Json:
    estimate = await node.uploader.estimate(source, options)
    return {
        "link": None,
        "hash": None,
        "name": estimate.name,
        "bytes": estimate.bytes,
        "stored_bytes": estimate.stored_bytes,
        "code": [estimate.code.data_shards, estimate.code.total_shards],
        "segments": estimate.segments,
        "holders": 0,
        "weak": None,
        "expires": node.ports.clock.now_s() + options.lease_days * DAY_S,
        "price": _credits(estimate.price_microcredits),
        "seconds": 0.0,
    }


async def get(node: Node, request: Json, events: Events) -> Json:
    """Fetch to `output`, an absolute path, or (without one) as data events."""
    wanted, entry = parse_link_and_path(required(request, "link", str))
    password = field(request, "password", str)
    first, last = field(request, "first", int), field(request, "last", int)
    byte_range = None if first is None or last is None else (first, last)
    output = field(request, "output", str)
    await _join(node, wanted, events)
    if output is None:
        return await _get_stream(node, wanted, entry, byte_range, password, events)

    def on_progress(progress: GetProgress) -> None:
        events.progress(
            phase=progress.phase, done_bytes=progress.done_bytes, total_bytes=progress.total_bytes
        )

    report = await node.downloader.save(
        wanted,
        _absolute(output),
        entry=entry,
        byte_range=byte_range,
        password=password,
        force=bool(field(request, "force", bool)),
        on_progress=on_progress,
    )
    return {
        "path": str(report.path),
        "name": report.name,
        "bytes": report.bytes,
        "fetched_bytes": report.fetched_bytes,
        "seconds": round(report.seconds, 3),
    }


async def _get_stream(
    node: Node,
    wanted: Link,
    entry: str,
    byte_range: tuple[int, int] | None,
    password: str | None,
    events: Events,
) -> Json:
    began = trio.current_time()
    remote = await node.downloader.open_file(wanted, password=password)
    selection = remote.select(entry, byte_range)
    if selection.entries is not None:
        raise UsageError("a folder can't go to stdout: name one file in it, or a folder with -o")
    done = 0
    async with remote.stream(selection.start, selection.stop) as pieces:
        async for piece in pieces:
            await events.data(piece)
            done += len(piece)
            events.progress(phase="fetch", done_bytes=done, total_bytes=selection.length)
    return {
        "path": None,
        "name": selection.name,
        "bytes": done,
        "fetched_bytes": remote.fetched_bytes,
        "seconds": round(trio.current_time() - began, 3),
    }


# --- my files -------------------------------------------------------------------------------------------


async def link(node: Node, request: Json, events: Events) -> Json:
    """The link of one of my files, or of the link given."""
    given = parse_hash_or_link(required(request, "link", str))
    if given.key is None and given.wrapped is None:
        await _wait_list(node, events)
        entry = node.catalogue.get(given.file_hash)
        if entry is None:
            raise NotFoundError(f"{cid_text(given.file_hash)} isn't one of my files: see `cairn ls`")
        given = parse_link(entry.link)
    if field(request, "via", bool):
        given = Link(given.file_hash, given.key, _via(node, given.file_hash), given.wrapped)
    return {"link": str(given), "verify_link": str(given.verify_link())}


def _via(node: Node, file_hash: FileHash) -> tuple[Multiaddr, ...]:
    """Addresses to join through: holders first, then whoever we know, then ourselves."""
    me = node.keys.peer_id
    found: list[Multiaddr] = []
    contacts = [*node.catalogue.holders(file_hash), *(known.contact for known in node.contacts())]
    for contact in contacts:
        if contact.addresses and contact.peer_id != me:
            found.append(Multiaddr(peer_multiaddr(contact.addresses[0], contact.peer_id)))
        if len(found) == LINK_VIA_COUNT - 1:
            break
    own = node.ports.network.listen_addresses()
    found.extend(Multiaddr(peer_multiaddr(address, me)) for address in own[:1])
    return tuple(dict.fromkeys(found))


async def ls(node: Node, request: Json, events: Events) -> Json:
    """My files with their health, or the entries of a folder."""
    text = field(request, "link", str)
    if text is None:
        await _wait_list(node, events)
        files = node.catalogue.files()
        now_s = node.ports.clock.now_s()
        known = {
            entry.file_hash: await node.ports.offload.run(
                partial(known_health, entry, node.catalogue, node.evidence, now_s=now_s)
            )
            for entry in files
        }
        threshold = node.config.repair.threshold
        states = {file_hash: each.word(threshold) for file_hash, each in known.items() if each.is_known}
        unknown = [entry.file_hash for entry in files if entry.file_hash not in states]
        challenged = await _health_of_all(node, unknown)
        states.update(challenged)
        return {
            "files": [
                _file_json(
                    entry,
                    states.get(entry.file_hash, "unknown"),
                    now_s if entry.file_hash in challenged else known[entry.file_hash].proved_s,
                )
                for entry in files
            ]
        }
    wanted = parse_link(text)
    await _join(node, wanted, events)
    remote = await node.downloader.open_file(wanted, password=field(request, "password", str))
    if remote.entries is None:
        return {"entries": [{"path": remote.name, "bytes": remote.size_bytes}]}
    return {"entries": [{"path": entry.path, "bytes": entry.byte_count} for entry in remote.entries]}


def _file_json(entry: CatalogueEntry, state: str, proved_s: int | None) -> Json:
    """`proved_s`: when all of it was last proved; None if that is unknown."""
    return {
        "hash": cid_text(entry.file_hash),
        "name": entry.name,
        "bytes": entry.size_bytes,
        "health": state,
        "last_proved": proved_s if state in ("healthy", "degraded") else None,
        "code": [entry.data_shards, entry.total_shards],
        "created": entry.created_s,
        "expires": entry.expires_s,
    }


async def _health_of_all(node: Node, hashes: list[FileHash]) -> dict[FileHash, str]:
    """One word for each file that could be checked in time."""
    states: dict[FileHash, str] = {}
    limiter = trio.CapacityLimiter(LS_CHECKS_AT_ONCE)

    async def check(file_hash: FileHash) -> None:
        async with limiter:
            try:
                states[file_hash] = health_word(await node.health.check(file_hash))
            except NotFoundError:
                states[file_hash] = "lost"
            except NodeError:
                states[file_hash] = "unknown"

    with trio.move_on_after(LS_HEALTH_WAIT_S):
        async with trio.open_nursery() as nursery:
            for file_hash in hashes:
                nursery.start_soon(check, file_hash)
    return states


def health_word(report: HealthReport) -> str:
    """`healthy`, `degraded` (it can be restored, but repair is due) or `lost` (it can't, now)."""
    if any(segment.alive < segment.needed for segment in report.segments):
        return "lost"
    return "healthy" if report.healthy else "degraded"


async def health(node: Node, request: Json, events: Events) -> Json:
    """Ask and challenge every holder; the hash is enough."""
    wanted = parse_hash_or_link(required(request, "link", str))
    await _join(node, wanted, events)

    def on_progress(done: int, total: int) -> None:
        events.progress(phase="challenge", done_segments=done, total_segments=total)

    report = await node.health.check(
        wanted.file_hash,
        verify=bool(field(request, "verify", bool)),
        on_progress=on_progress,
    )
    now_s = node.ports.clock.now_s()
    proved = await node.ports.offload.run(partial(_proved_before, node, report))
    return {
        "hash": cid_text(report.file_hash),
        "healthy": report.healthy,
        "segments": [
            {
                "index": segment.index,
                "alive": segment.alive,
                "needed": segment.needed,
                "total": segment.total,
                "last_proved": now_s
                if segment.alive
                else max((s for s in proved[segment.index].values() if s), default=None),
                "holders": [
                    {
                        "peer_id": peer_id_text(holder.peer_id),
                        "shard": holder.shard,
                        "state": holder.state,
                        "last_proved": now_s
                        if holder.state in ("proved", "slow")
                        else proved[segment.index].get((holder.shard, holder.peer_id)),
                    }
                    for holder in segment.holders
                ],
            }
            for segment in report.segments
        ],
    }


def _proved_before(node: Node, report: HealthReport) -> dict[int, dict[tuple[int, PeerId], int | None]]:
    """When this node's evidence says that each shard was last proved at its holder, by segment."""
    found: dict[int, dict[tuple[int, PeerId], int | None]] = {}
    for segment in report.segments:
        evidence = node.evidence.of_segment(SegmentId(segment.segment_id))
        rows = found[segment.index] = {}
        for holder in segment.holders:
            proof = evidence.proved(holder.shard, holder=holder.peer_id)
            rows[holder.shard, holder.peer_id] = None if proof is None else proof.time_s
    return found


async def repair(node: Node, request: Json, events: Events) -> Json:
    """Remake what is missing of a file now; the hash is enough for its owner and its holders."""
    wanted = parse_hash_or_link(required(request, "link", str))
    await _join(node, wanted, events)
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
    await _wait_joined(node, events)

    def on_progress(moved: int, remaining: int) -> None:
        events.progress(phase="drain", done_shards=moved, total_shards=moved + remaining)

    report = await node.healing.drain(on_progress)
    return {"moved": report.moved, "remaining": report.remaining}


async def renew(node: Node, request: Json, events: Events) -> Json:
    """Keep a file for longer: one of mine, or another one that this account pays for from now on."""
    file_hash = parse_hash_or_link(required(request, "link", str)).file_hash
    days = _days(field(request, "duration_s", int), node.config.lease.days)
    await _wait_joined(node, events)
    leases = unreachable = 0
    is_short = False
    ends_s: list[int] = []
    for each in _with_index(node, file_hash):
        report = await node.renewer.renew(each, duration_s=days * DAY_S)
        leases += report.leases
        unreachable += report.unreachable_holders
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
    await _wait_joined(node, events)
    await _wait_list(node, events)
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
    if lost:
        await events.note(_lost_note(max(entry.expires_s for entry in lost), node.ports.clock.now_s()))
    if unreachable:
        for each in names:
            await node.ports.offload.run(partial(_renew_no_more, node, each))
        await events.note(
            f"{format_count(unreachable, 'holder')} did not answer: repeat `cairn rm` later, or let their "
            "leases run out; nothing renews them"
        )
    else:
        for each in names:
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
        f"no peer that answers has this file: it is off your list, and holders that are away let go of it by "
        f"themselves after {day}"
    )


def _renew_no_more(node: Node, file_hash: FileHash) -> None:
    entry = node.catalogue.get(file_hash)
    if entry is not None and entry.renews:
        node.catalogue.add(replace(entry, renews=False), [])


def _with_index(node: Node, file_hash: FileHash) -> tuple[FileHash, ...]:
    """A file and the file that keeps its large folder index, if it has one."""
    entry = node.catalogue.get(file_hash)
    if entry is None or entry.index_hash is None:
        return (file_hash,)
    return (file_hash, entry.index_hash)


# --- shared ---------------------------------------------------------------------------------------------


async def _join(node: Node, wanted: Link, events: Events) -> None:
    """Try the addresses in a link, and wait for the first join."""
    if wanted.via:
        node.join_through([parse_contact(address) for address in wanted.via])
    await _wait_joined(node, events)


async def _wait_list(node: Node, events: Events) -> None:
    """In a home restored from its words, wait for the list of files."""
    if not await node.file_list.wait_found(LIST_FOUND_WAIT_S):
        await events.note("the list of files of this account is not found yet: this node goes on looking")


async def _wait_joined(node: Node, events: Events) -> None:
    events.progress(phase="join")
    if not await node.wait_joined(JOIN_WAIT_S):
        await events.note("no peer answers yet: `cairn run --bootstrap MULTIADDR` names one to join through")


def _code(node: Node, text: str | None) -> Code:
    if text is None:
        return Code(node.config.code.data_shards, node.config.code.total_shards)
    return Code.parse(text)


def _days(duration_s: int | None, default_days: int) -> int:
    """Whole days, rounded up: leases end with a day."""
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


def _credits(microcredits: int) -> float:
    return microcredits / 1_000_000


def _absolute(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise UsageError("the output's path must be absolute")
    return path
