"""The commands `put` and `get`, as the daemon answers them. Layer 5."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import trio

from node.chunks.geometry import Code
from node.chunks.get.download import GetProgress
from node.chunks.put.put_report import PutProgress
from node.chunks.put.upload import PutOptions
from node.control.api_waiting import LIST_WAIT_S, join, wait_joined, whole_days
from node.control.fields import field, required
from node.control.server import Events, Json
from node.crypto.hashing import cid_text
from node.crypto.links import Link, parse_link_and_path
from node.daemon.compose import Node
from node.errors import CreditError, UsageError
from node.units import DAY_S


async def put(node: Node, request: Json, events: Events) -> Json:
    """Store a file or folder; with `dry_run` only say what it would take."""
    source = Path(required(request, "path", str))
    if not await node.ports.offload.run(partial(os.access, source, os.R_OK)):
        raise UsageError(f"{source} is missing, or this node may not read it")
    options = PutOptions(
        code=_code(node, field(request, "code", str)),
        name=field(request, "name", str),
        password=field(request, "password", str),
        lease_days=whole_days(field(request, "expires_s", int), node.config.lease.days),
        renews=field(request, "expires_s", int) is None,
    )
    if field(request, "dry_run", bool):
        return await _estimate(node, source, options)

    def on_progress(progress: PutProgress) -> None:
        events.progress(
            phase=progress.phase, done_bytes=progress.done_bytes, total_bytes=progress.total_bytes
        )

    await wait_joined(node, events)
    try:
        report = await node.uploader.put(source, options, on_progress)
    except CreditError:
        elsewhere = await node.credit.acts_elsewhere()
        if elsewhere is None:
            raise
        raise CreditError(elsewhere) from None
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
    await join(node, wanted, events)
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


def _code(node: Node, text: str | None) -> Code:
    if text is None:
        return Code(node.config.code.data_shards, node.config.code.total_shards)
    return Code.parse(text)


def _credits(microcredits: int) -> float:
    return microcredits / 1_000_000


def _absolute(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise UsageError("the output's path must be absolute")
    return path
