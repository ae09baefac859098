"""The commands about credit: balances with each account, and lines for friends. Layer 5.

Handlers as in node/control/api.py. Amounts are credits; a line is given and shown in bytes as well, since a
credit is a MiB kept for a day and a line is meant for a month.
"""

from __future__ import annotations

from node import limits
from node.control.fields import field, required
from node.control.server import Events, Json
from node.credit.service import CreditSummary, PeerBalance, line_bytes
from node.credit.units import MICROS_PER_CREDIT
from node.crypto.identity import account_text, parse_account, parse_peer_id
from node.daemon.compose import Node
from node.errors import NotFoundError, UsageError
from node.units import AccountId


async def credit(node: Node, request: Json, events: Events) -> Json:
    """Balances; with `peer` and `line_bytes` a friend's line is set first."""
    text = field(request, "peer", str)
    if text is not None:
        return await credit_line(node, request, events)
    summary = await node.credit.summary()
    return {
        **summary_json(summary),
        "kept_for_others_bytes": node.store.kept_bytes(),
        "given_bytes": node.donation().cap_bytes,
        "code": [node.config.code.data_shards, node.config.code.total_shards],
        "peers": [peer_json(peer) for peer in summary.peers],
    }


async def credit_line(node: Node, request: Json, _events: Events) -> Json:
    """Set what a friend, named by account or peer id, may have kept on this disk for nothing."""
    account = await _account(node, required(request, "peer", str))
    byte_count = required(request, "line_bytes", int)
    if not 0 <= byte_count <= limits.BYTE_COUNT_MAX:
        raise UsageError("a line is a size such as 20GB; 0 takes it back")
    peer = await node.credit.set_line(account, byte_count)
    summary = await node.credit.summary(peers_max=0)
    return {"net": _credits(summary.net), "peers": [peer_json(peer)]}


def summary_json(summary: CreditSummary) -> Json:
    """The account as a whole."""
    return {
        "net": _credits(summary.net),
        "earned": _credits(summary.earned),
        "received": _credits(summary.received),
        "gifts": _credits(summary.gifts),
        "owed": _credits(summary.owed),
        "owes": _credits(summary.owes),
        "open_leases": _credits(summary.open_leases),
        "friends": summary.friends,
        "lines_bytes": line_bytes(summary.lines),
        "accounts": summary.accounts,
    }


def peer_json(peer: PeerBalance) -> Json:
    """One account."""
    return {
        "account": account_text(peer.account),
        "balance": _credits(peer.balance),
        "line": _credits(peer.line),
        "line_bytes": line_bytes(peer.line),
        "line_left_bytes": line_bytes(peer.line_left),
        "given": _credits(peer.given),
        "received": _credits(peer.received),
        "gifts": _credits(peer.gifts),
        "open_leases": _credits(peer.open_leases),
        "known": peer.is_known,
        "frozen": peer.is_frozen,
    }


async def _account(node: Node, text: str) -> AccountId:
    if text.startswith("z"):
        return parse_account(text)
    try:
        peer_id = parse_peer_id(text)
    except UsageError:
        raise UsageError(
            f"{text!r} is neither an account (z6Mk..., your friend sees it in `cairn status`) nor a peer id "
            "(12D3KooW..., `cairn peers` lists those that this node has met)"
        ) from None
    account = await node.credit.account_of(peer_id)
    if account is None:
        raise NotFoundError(
            "this node has not met that peer yet, so it does not know its account: "
            "give the account (z6Mk...), which its owner sees in `cairn status`"
        )
    return account


def _credits(micros: int) -> float:
    return micros / MICROS_PER_CREDIT
