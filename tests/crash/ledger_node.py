"""A whole node that makes transfers with another one, as told on stdin, until somebody kills it.

Every transfer is said on stdout once it is durable here: a receipt for bytes that the other one served, a put
of a small file, an audit of what the other one keeps.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import trio

from node.chunks.geometry import Code
from node.chunks.put.upload import PutOptions
from node.credit.ledger_store import KINDS, LedgerView
from node.credit.pair_ledger import balance
from node.credit.pair_records import PairRecord, Records
from node.crypto.identity import peer_id_of
from node.daemon.compose import Node
from node.daemon.config import build_config
from node.daemon.home import Home
from node.daemon.supervisor import RunOptions, _opened
from node.errors import NodeError, RemoteError
from node.net.bootstrap import parse_contact
from node.records.lease import Lease
from node.records.pair_state import PairState
from node.records.receipt import AuditReceipt, Outcome, ServeReceipt, join_lease_ids, session_of
from node.units import DAY_S, KIB, MIB, AccountId, Contact, LeaseId, Multiaddr

SYNC_EVERY = 40
PUT_EVERY = 60
AUDIT_EVERY = 15


def say(*words: object) -> None:
    print(*words, flush=True)


class Driver:
    """What this node does with the other one."""

    def __init__(self, node: Node, home: Path, other: Contact) -> None:
        self.node = node
        self.home = home
        self.other = other
        self.random = random.Random()
        self.served: dict[bytes, int] = {}
        self.kept: dict[bytes, LeaseId] = {}
        """Leases at the other one, by the id of their entry."""
        self.looked_at: set[bytes] = set()
        """Entries that were looked through for them."""
        self.count = 0

    @property
    def day(self) -> int:
        return self.node.ports.clock.now_s() // DAY_S

    async def transfers(self, count: int) -> None:
        """So many transfers, each said when it is durable."""
        for _ in range(count):
            self.count += 1
            try:
                if self.count % PUT_EVERY == 0:
                    await self.put()
                elif self.count % AUDIT_EVERY == 0:
                    await self.audit()
                else:
                    await self.read()
                if self.count % SYNC_EVERY == 0:
                    await self.node.credit.sync(self.other)
            except (RemoteError, NodeError):
                await trio.sleep(0.05)  # the other one was killed

    async def read(self) -> None:
        """A receipt for more bytes of an old session, or of a new one."""
        if self.served and self.random.random() < 0.5:
            session = self.random.choice(list(self.served))
        else:
            session = session_of(self.day, self.random.randbytes(12))
        self.served[session] = self.served.get(session, 0) + self.random.randrange(1, MIB)
        receipt = ServeReceipt(
            "cairn", session, self.other.peer_id, self.node.keys.account_id, LeaseId(bytes(16)),
            self.served[session],
        ).sign(self.node.keys.account)  # fmt: skip
        await self.node.credit.served(receipt)
        say("read", session.hex(), self.served[session])

    async def put(self) -> None:
        """A file of one shard."""
        path = self.home / f"file {self.random.randbytes(8).hex()}"
        path.write_bytes(self.random.randbytes(self.random.randrange(KIB, 64 * KIB)))
        report = await self.node.uploader.put(path, PutOptions(code=Code(1, 1), lease_days=3))
        say("put", report.file_hash.hex())

    async def audit(self) -> None:
        """A pass of everything that the other one keeps for this account."""
        self.look_for_leases(await self.account())
        if not self.kept:
            return
        receipt = AuditReceipt(
            "cairn", join_lease_ids(self.kept.values()), self.count,
            self.random.randbytes(32), 1, 1, 0, self.node.ports.clock.now_s(), Outcome.PASSED,
            peer_id_of(self.node.keys.account.public), self.other.peer_id,
        ).sign(self.node.keys.account)  # fmt: skip
        await self.node.credit.audited([receipt])
        say("audit", len(self.kept))

    def look_for_leases(self, account: AccountId) -> None:
        """Look through what is new in the pair's set."""
        ledger = self.node.credit.ledger

        def look(view: LedgerView) -> None:
            for name in ledger.ids(view, account) - self.looked_at:
                self.looked_at.add(name)
                entry = view.entry(account, name)
                if entry is not None and entry.tag == Lease.TYPE:
                    lease = Lease.decode(entry.data, network="cairn")
                    if lease.holder == self.other.peer_id:
                        self.kept[name] = lease.lease_id

        ledger.store.read(look)

    async def account(self) -> AccountId:
        account = await self.node.credit.account_of(self.other.peer_id)
        return account or await self.node.credit.exchange.sync(self.other)

    def records(self, account: AccountId) -> list[PairRecord]:
        def look(view: LedgerView) -> list[PairRecord]:
            return [e.record("cairn") for e in view.entries(account) if e.tag in KINDS]

        return self.node.credit.ledger.store.read(look)

    async def report(self) -> None:
        """This end, whole."""
        account = await self.account()
        ledger = self.node.credit.ledger
        records = self.records(account)
        today = ledger.today(self.day)
        whole = Records.of(
            r for r in records if not isinstance(r, PairState) or (r.low_signature and r.high_signature)
        )
        book = ledger.store.read(lambda view: ledger.book(view, account))
        kept = book.balance(today=today)
        scratch = balance(book.terms, whole, today=today)
        agreed = self.node.credit.pairing.agreed(account)
        say("report", json.dumps({
            "account": self.node.keys.account_id.hex(),
            "net": kept.net(self.node.keys.account_id),
            "scratch": scratch.net(self.node.keys.account_id),
            "same": (scratch.low, scratch.high) == (kept.low, kept.high),
            "low": str(kept.low), "high": str(kept.high),
            "ids": sorted(each.hex() for each in ledger.store.read(lambda view: ledger.ids(view, account))),
            "agreed": agreed and [agreed.record_id().hex(), agreed.low_to_high, agreed.high_to_low],
            "served": {
                r.session.hex(): r.byte_count for r in records if isinstance(r, ServeReceipt)
            },
        }))  # fmt: skip


async def main(home: Path, port: int, other: str) -> None:
    options = RunOptions(
        home=Home(home),
        listen=(Multiaddr(f"/ip4/127.0.0.1/tcp/{port}"),),
        bootstrap=(other,) if other else (),
        donate_bytes=64 * MIB,
        mdns=False,
    )
    options.home.make()
    listed = [parse_contact(other)] if other else []
    async with _opened(options, build_config({}), listed) as node:
        say("ready", node.keys.peer_id.hex())
        driver: Driver | None = None
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            command, *words = line.split()
            if command == "other":
                driver = Driver(node, home, parse_contact(words[0]))
                continue
            assert driver is not None
            try:
                if command == "go":
                    await driver.transfers(int(words[0]))
                elif command == "sync":
                    await node.credit.sync(driver.other)
                elif command == "report":
                    await driver.report()
                say("done", command)
            except NodeError as error:
                say("failed", error)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "")
