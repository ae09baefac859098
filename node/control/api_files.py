"""The commands `link`, `ls` and `health`, as the daemon answers them: what is known of files. Layer 5."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import trio

from node.chunks.catalogue import CatalogueEntry
from node.chunks.get.health import HealthReport, SegmentHealth
from node.chunks.known_health import known_health
from node.control.api_waiting import join, wait_list
from node.control.fields import field, required
from node.control.server import Events, Json
from node.crypto.hashing import cid_text
from node.crypto.identity import peer_id_text
from node.crypto.links import Link, parse_hash_or_link, parse_link
from node.daemon.compose import Node
from node.errors import NodeError, NotFoundError
from node.net.bootstrap import peer_multiaddr
from node.units import FileHash, Multiaddr, PeerId, SegmentId

LS_HEALTH_WAIT_S = 20.0  # a list is worth more at once than complete
LS_CHECKS_AT_ONCE = 4
LS_JOIN_WAIT_S = 5.0
LINK_VIA_COUNT = 3  # addresses in a link: one that answers is enough, and a QR code has to hold them


async def link(node: Node, request: Json, events: Events) -> Json:
    """The link of one of my files, or of the link given."""
    given = await own_link(node, required(request, "link", str), events)
    if field(request, "via", bool):
        given = Link(given.file_hash, given.key, _via(node, given.file_hash), given.wrapped)
    return {"link": str(given), "verify_link": str(given.verify_link())}


async def own_link(node: Node, text: str, events: Events) -> Link:
    """A link with its key: the one in `text`, or that of my file whose hash `text` is.

    Raises `UsageError`, or `NotFoundError` for a hash that is not of my files.
    """
    given = parse_hash_or_link(text)
    if given.key is not None or given.wrapped is not None:
        return given
    await wait_list(node, events)
    entry = node.catalogue.get(given.file_hash)
    if entry is None:
        raise NotFoundError(f"{cid_text(given.file_hash)} isn't one of my files: see `cairn ls`")
    return parse_link(entry.link)


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
    """My files with their health (`brief`: without), or the entries of a folder."""
    text = field(request, "link", str)
    if text is None:
        await wait_list(node, events)
        if field(request, "brief", bool):
            return {
                "files": [_brief_json(each) for each in await node.ports.offload.run(node.catalogue.files)]
            }
        files = node.catalogue.files()
        now_s = node.ports.clock.now_s()
        known = {
            entry.file_hash: await node.ports.offload.run(
                partial(known_health, entry, node.catalogue, node.evidence, now_s=now_s)
            )
            for entry in files
        }
        threshold = node.config.repair.threshold
        states = {file_hash: each.word(threshold) for file_hash, each in known.items()}
        unknown = [file_hash for file_hash, word in states.items() if word == "unknown"]
        challenged = await _health_of_all(node, unknown)
        states.update(challenged)
        proved = {file_hash for file_hash, word in challenged.items() if word in ("healthy", "degraded")}
        return {
            "files": [
                _file_json(
                    entry,
                    states[entry.file_hash],
                    now_s if entry.file_hash in proved else known[entry.file_hash].proved_s,
                )
                for entry in files
            ]
        }
    wanted = parse_link(text)
    await join(node, wanted, events)
    remote = await node.downloader.open_file(wanted, password=field(request, "password", str))
    if remote.entries is None:
        return {"entries": [{"path": remote.name, "bytes": remote.size_bytes}]}
    return {"entries": [{"path": entry.path, "bytes": entry.byte_count} for entry in remote.entries]}


def _brief_json(entry: CatalogueEntry) -> Json:
    """What needs no look at evidence or holders."""
    return {
        "hash": cid_text(entry.file_hash),
        "name": entry.name,
        "bytes": entry.size_bytes,
        "created": entry.created_s,
    }


def _file_json(entry: CatalogueEntry, state: str, proved_s: int | None) -> Json:
    """`proved_s`: when what restores it was last proved; None if that is unknown."""
    return {
        "hash": cid_text(entry.file_hash),
        "name": entry.name,
        "bytes": entry.size_bytes,
        "health": state,
        "last_proved": proved_s,
        "code": [entry.data_shards, entry.total_shards],
        "created": entry.created_s,
        "expires": entry.expires_s,
    }


async def _health_of_all(node: Node, hashes: list[FileHash]) -> dict[FileHash, str]:
    """One word for each file that could be checked in time; none where this node is cut off itself."""
    states: dict[FileHash, str] = {}
    if hashes:
        await node.wait_joined(LS_JOIN_WAIT_S)
    if not node.ports.network.connected():
        return states
    limiter = trio.CapacityLimiter(LS_CHECKS_AT_ONCE)

    async def check(file_hash: FileHash) -> None:
        async with limiter:
            try:
                states[file_hash] = health_word(await node.health.check(file_hash))
            except NotFoundError:
                if node.ports.network.connected():
                    states[file_hash] = "lost"
            except NodeError:
                return  # nothing is known of it

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
    await join(node, wanted, events)

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
                "last_proved": _segment_proved_s(segment, proved[segment.index], now_s),
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


def _segment_proved_s(
    segment: SegmentHealth, before: Mapping[tuple[int, PeerId], int | None], now_s: int
) -> int | None:
    """When as many of its shards as restore it were last proved; None if that is unknown."""
    times: dict[int, int] = {}
    for holder in segment.holders:
        is_here = holder.state in ("proved", "slow")
        time_s = now_s if is_here else before.get((holder.shard, holder.peer_id)) or 0
        times[holder.shard] = max(time_s, times.get(holder.shard, 0))
    newest = sorted(times.values(), reverse=True)[: segment.needed]
    return newest[-1] or None if len(newest) == segment.needed else None


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
