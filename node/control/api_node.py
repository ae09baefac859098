"""The commands about the node itself: what it gives, how it does, whom it knows. Layer 5.

Handlers as in node/control/api.py.
"""

from __future__ import annotations

import os

from node import limits
from node.chunks.store.space import check_cap
from node.control.fields import field
from node.control.server import Events, Json
from node.credit.units import MICROS_PER_CREDIT
from node.crypto.identity import account_text, peer_id_text
from node.daemon.compose import Node
from node.daemon.memory import Donation
from node.errors import UsageError
from node.net.bootstrap import peer_multiaddr


async def donate(node: Node, request: Json, _events: Events) -> Json:
    """Set or show what this node gives."""
    given = node.donation()
    cap, rate = field(request, "cap_bytes", int), field(request, "rate_bytes_s", int)
    pledge = field(request, "pledge_millionths", int)
    if min(cap or 0, rate or 0, pledge or 0) < 0 or (pledge or 0) > 1_000_000:
        raise UsageError("sizes and rates are 0 or more, a pledge is 0 to 100 %")
    check_cap(cap or 0)
    if rate is not None and 0 < rate < limits.RATE_BYTES_S_MIN:
        raise UsageError("a rate is 1 KiB/s or more: with less no transfer keeps its deadlines (0: no cap)")
    if cap is not None or rate is not None or pledge is not None:
        given = Donation(
            given.cap_bytes if cap is None else cap,
            given.rate_bytes_s if rate is None else rate or None,
            given.pledge if pledge is None else pledge / 1_000_000,
        )
        if cap:
            node.healing.leaving.set(False)
        await node.set_donation(given)
    store = node.store.statistics()
    result: Json = {
        "cap_bytes": given.cap_bytes,
        "used_bytes": store.used_bytes,
        "shards": store.shards,
        "rate_bytes_s": given.rate_bytes_s,
        "pledge": node.pledge(),
        "earned": (await node.credit.summary(peers_max=0)).earned / MICROS_PER_CREDIT,
        "_code": [node.config.code.data_shards, node.config.code.total_shards],
    }
    shrinking = await _shrinking_json(node)
    if shrinking is not None:
        result["shrinking"] = shrinking
    return result


async def status(node: Node, _request: Json, _events: Events) -> Json:
    """The node at a glance."""
    now = node.statistics()
    store = now.store
    network = node.ports.network
    return {
        "peer_id": peer_id_text(node.keys.peer_id),
        "account": account_text(node.keys.account_id),
        "addresses": [peer_multiaddr(address, node.keys.peer_id) for address in network.listen_addresses()],
        "nat": now.standing.value,
        "peers": now.peers,
        "dht": {
            "contacts": now.dht.contacts,
            "records": now.dht.records,
            "network_size": now.dht.network_size,
            "joined": now.dht.joined,
        },
        "store": {
            "cap_bytes": store.cap_bytes,
            "used_bytes": store.used_bytes,
            "reserved_bytes": store.reserved_bytes,
            "free_bytes": store.free_bytes,
            "shards": store.shards,
            "leases": store.leases,
            "packs": store.packs,
            "dead_bytes": store.dead_bytes,
            "quarantined": store.quarantined,
            "lost": store.lost,
        },
        "server": {
            "open_puts": now.server.open_puts,
            "blocks_received": now.server.blocks_received,
            "blocks_served": now.server.blocks_served,
            "refused": now.server.requests_refused,
        },
        "donor": {**_donor_json(node), "shrinking": await _shrinking_json(node)},
        "audits": _audits_json(node),
        "engine": node.engine_name,
        "files": len(node.catalogue.files()),
        "renewals": _renewals_json(node),
        "uptime_s": now.uptime_s,
        "pid": os.getpid(),
    }


def _renewals_json(node: Node) -> Json:
    """Files whose leases are about to end and could not be renewed, and why the first of them could not."""
    failing = node.leases.failing
    return {"failing": len(failing), "why": next(iter(failing.values()), None)}


async def _shrinking_json(node: Node) -> Json | None:
    """How far a node is whose cap was lowered below what it keeps."""
    now = await node.healing.evictor.progress()
    if now is None:
        return None
    return {
        "since": now.since_s,
        "moved": now.moved,
        "dropped": now.dropped,
        "left_bytes": now.left_bytes,
    }


def _donor_json(node: Node) -> Json:
    """How this node does as a donor, and why it takes nothing if it does not."""
    suspended = node.server.care.suspended
    given = node.donation()
    return {
        "suspended": None if suspended is None else {"reason": suspended.reason, "since": suspended.since_s},
        "uptime_permille": node.uptime.permille(),
        "outages": [{"from": from_s, "to": to_s} for from_s, to_s in node.uptime.outages],
        "rate_bytes_s": given.rate_bytes_s,
        "pledge": node.pledge(),
        "leaving": node.healing.leaving(),
    }


def _audits_json(node: Node) -> Json:
    """How others' audits of this node went, and why it is suspended if it is; and its audits of others."""
    own, ours = node.auditing.own_audits(), node.auditing.statistics
    return {
        "passed": own.passed,
        "slow": own.slow,
        "failed": own.failed,
        "missed": own.missed,
        "errors": own.errors,
        "last_passed": own.passed_s or None,
        "suspended": own.is_suspended,
        "trouble": own.trouble or None,
        "trouble_at": own.trouble_s or None,
        "made": {
            "audits": ours.audits,
            "samples": ours.samples,
            "passed": ours.passed,
            "slow": ours.slow,
            "failed": ours.failed,
            "no_answer": ours.no_answer,
        },
    }


async def peers(node: Node, _request: Json, _events: Events) -> Json:
    """Who this node knows: connected peers and the contacts of its routing table."""
    network = node.ports.network
    connected = set(network.connected())
    known = {contact.contact.peer_id: contact for contact in node.contacts()}
    rows = []
    for peer_id in sorted(connected | known.keys()):
        contact = known.get(peer_id)
        addresses = network.addresses_of(peer_id) or (contact.contact.addresses if contact else ())
        score = node.scores.score(peer_id)
        rows.append(
            {
                "peer_id": peer_id_text(peer_id),
                "addresses": list(addresses),
                "connected": peer_id in connected,
                "contact": contact is not None,
                "seen_s_ago": None if contact is None else round(contact.seen_s_ago, 1),
                "latency_s": None if score is None else round(score.latency_s, 4),
                "speed_bytes_s": None if score is None else int(score.speed_bytes_s),
            }
        )
    return {"peers": rows}
