"""The services of a node that take a few lines to wire, each from the parts. Layer 5."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from node.chunks.audit import is_auditor
from node.chunks.evidence import Evidence
from node.chunks.geometry import Code
from node.chunks.lease_keeper import LeaseKeeper
from node.chunks.list_keeper import ListKeeper
from node.chunks.list_store import ListStore
from node.chunks.removals import Removals
from node.chunks.serve.announcing import AnnouncingTurns
from node.chunks.serve.rosters import Rosters
from node.chunks.serve.server import ShardServer
from node.credit.admission import UNLIMITED, Policy
from node.credit.service import CreditService
from node.credit.units import MICROS_PER_CREDIT, PERIOD_DAYS
from node.daemon.background import Housekeeping
from node.daemon.config import ALL, Config
from node.daemon.healing import Healing, Leaving
from node.daemon.memory import Donation
from node.daemon.parts import Parts
from node.daemon.transfers import Transfers
from node.daemon.uptime import UptimeLog
from node.net.reachability import Standing
from node.records.lease import Lease
from node.records.receipt import AuditReceipt
from node.units import MIB


def credit_policy(config: Config, donation: Donation) -> Policy:
    """What strangers, newcomers and neighbours may have kept here."""
    credit = config.credit
    pledge = credit.pledge if donation.pledge is None else donation.pledge
    line = UNLIMITED
    if credit.local_line != ALL:
        line = credit.local_line * PERIOD_DAYS * MICROS_PER_CREDIT // MIB
    return Policy.of(
        donation.cap_bytes,
        pledge_permille=round(pledge * 1000),
        known_permille=round(credit.known * 1000),
        newcomer_credits=credit.newcomer_credits,
        local_line=line,
    )


def _was_due(rosters: Rosters, evidence: Evidence, receipt: AuditReceipt, lease: Lease) -> bool:
    """Whether it was the auditor's turn: by the roster of a segment that is held, else by what was heard."""
    roster = {known.holder for known in rosters.known_leases(lease.segment_id)}
    if roster:
        return is_auditor(receipt.auditor, lease.segment_id, roster, lease.holder, now_s=receipt.time_s)
    return evidence.vests(receipt, lease)


def build_credit(parts: Parts) -> CreditService:
    """What this account owes and is owed; it signs for nothing before its `start`."""
    return CreditService(
        network=parts.network,
        state=parts.state,
        keys=parts.keys,
        preamble=parts.preamble,
        entropy=parts.entropy,
        addresses=parts.dht,
        clock=parts.clock,
        offload=parts.offload,
        policy=credit_policy(parts.config, parts.memory.donation()),
        is_assigned=partial(_was_due, Rosters(parts.store, parts.network_id), parts.evidence),
        takes_receipts=parts.config.credit.receipts,
    )


def build_shard_server(
    parts: Parts, credit: CreditService, leaving: Leaving, uptime: UptimeLog
) -> ShardServer:
    """The side that keeps shards for others."""
    return ShardServer(
        network=parts.network,
        store=parts.store,
        directory=parts.dht,
        keys=parts.keys,
        preamble=parts.preamble,
        clock=parts.clock,
        offload=parts.offload,
        grace_days=parts.config.lease.grace_days,
        uptime_permille=uptime.permille,
        admission=credit.admission,
        serving=credit.serving,
        is_leaving=leaving,
    )


def build_lease_keeper(parts: Parts, transfers: Transfers) -> LeaseKeeper:
    """What renews this account's leases."""
    return LeaseKeeper(
        catalogue=parts.catalogue,
        renewer=transfers.renewer,
        clock=parts.clock,
        offload=parts.offload,
        lease_days=parts.config.lease.days,
        wait_joined=parts.dht.wait_joined,
    )


def build_removals(parts: Parts, transfers: Transfers) -> Removals:
    """What goes on removing files at holders that were away."""
    return Removals(
        catalogue=parts.catalogue,
        renewer=transfers.renewer,
        clock=parts.clock,
        offload=parts.offload,
        interval_s=parts.config.repair.check_interval_s,
    )


def build_file_list(parts: Parts, transfers: Transfers) -> ListKeeper:
    """What keeps the list of this account's files."""
    code = parts.config.code
    return ListKeeper(
        store=ListStore(parts.state),
        catalogue=parts.catalogue,
        uploader=transfers.uploader,
        downloader=transfers.downloader,
        renewer=transfers.renewer,
        directory=parts.dht,
        clock=parts.clock,
        entropy=parts.entropy,
        offload=parts.offload,
        network=parts.network_id,
        account_seed=parts.keys.account.seed,
        code=Code(code.data_shards, code.total_shards),
    )


def build_housekeeping(
    parts: Parts,
    transfers: Transfers,
    server: ShardServer,
    healing: Healing,
    uptime: UptimeLog,
    standing: Callable[[], Standing],
) -> Housekeeping:
    """What is done from time to time. `standing` says whether others can dial this node."""
    return Housekeeping(
        store=parts.store,
        uploader=transfers.uploader,
        dht=parts.dht,
        scores=parts.scores,
        memory=parts.memory,
        turns=AnnouncingTurns(
            store=parts.store,
            rosters=server.rosters,
            directory=parts.dht,
            peer_id=parts.keys.peer_id,
            clock=parts.clock,
            offload=parts.offload,
        ),
        state=parts.state,
        care=server.care,
        uptime=uptime,
        standing=standing,
        clock=parts.clock,
        offload=parts.offload,
        losses=healing.losses,
    )
