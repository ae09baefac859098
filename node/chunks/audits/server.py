"""The donor's side of audits, and the ear for what others found. Layer 4.

Invariants: only leases that are kept here are answered for, and only to an auditor whose turn it can be by
this node's own roster, or to the key that signed the lease; at most `AUDIT_SAMPLES_MAX` samples an auditor
and round, `AUDIT_ANSWERS_AT_ONCE` challenges at a time; what the disk can't read now is refused in words,
never signed as missing; what is heard enters through `Evidence`, which verifies.
Source: credit.md, "Audits".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from node import limits
from node.chunks import audit
from node.chunks.audits import messages
from node.chunks.audits.duties import may_ask
from node.chunks.audits.journal import AuditJournal
from node.chunks.bad_answer import BadAnswer
from node.chunks.bodies import receive_body, send_body
from node.chunks.evidence import Evidence
from node.chunks.manifest import SegmentManifest
from node.chunks.reputations import ReputationLog
from node.chunks.roster import check_lease
from node.chunks.serve.rosters import Rosters
from node.chunks.store.shard_store import ShardStore
from node.crypto.hashing import HASH_BYTES
from node.crypto.identity import peer_id_of
from node.crypto.signing import KeyPair, verify
from node.errors import (
    CorruptBlockError,
    CryptoError,
    NotFoundError,
    ProtocolError,
    RefusedError,
    StoreError,
)
from node.framing import FramedStream, Preamble
from node.ports import Clock, Network, Offload, Stream
from node.records.lease import Lease
from node.records.receipt import AuditAnswer, AuditReceipt, Outcome, join_lease_ids
from node.units import DAY_S, LeaseId, PeerId, SegmentId

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the stubs that py-libp2p brings leave it out of trio

OnNoAnswer = Callable[[AuditReceipt, Sequence[SegmentId]], None]
"""Called with what another auditor says of a donor that did not answer, and the segments it is about."""


class DeclinedError(Exception):
    """Why this node does not answer, for the auditor."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True)
class _Asked:
    """What an auditor may have sampled on a stream."""

    request: messages.Ask
    auditor: PeerId
    leases: list[Lease] = field(default_factory=list)
    """Those that are held, in the order asked."""
    challenge: audit.Challenge | None = None


class AuditServer:
    """Answers challenges, and takes in receipts and bad answers."""

    def __init__(
        self,
        *,
        network: Network,
        preamble: Preamble,
        store: ShardStore,
        rosters: Rosters,
        evidence: Evidence,
        reputations: ReputationLog,
        journal: AuditJournal,
        identity: KeyPair,
        clock: Clock,
        offload: Offload,
        interval_s: int,
    ) -> None:
        self._network = network
        self.preamble = preamble
        self.store = store
        self.rosters = rosters
        self.evidence = evidence
        self.reputations = reputations
        self.journal = journal
        self.identity = identity
        self.peer_id = peer_id_of(identity.public)
        self.clock = clock
        self.offload = offload
        self.interval_s = interval_s
        self.on_no_answer: OnNoAnswer = lambda receipt, segment_ids: None
        self.answered = 0
        self.samples_answered = 0
        self._working = trio.CapacityLimiter(limits.AUDIT_ANSWERS_AT_ONCE)
        self._spent: dict[PeerId, int] = {}
        self._spent_round = -1

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; started once requests are taken."""
        self._network.serve(
            messages.PROTOCOL,
            self._serve_stream,
            streams_max=limits.AUDIT_STREAMS_MAX,
            streams_max_per_peer=limits.AUDIT_STREAMS_PER_PEER_MAX,
        )
        task_status.started()
        await trio.sleep_forever()

    @property
    def round_number(self) -> int:
        """The round that it is."""
        return self.clock.now_s() // self.interval_s

    def spend(self, auditor: PeerId, samples: int) -> None:
        """Count samples against an auditor's share of a round. Raises `DeclinedError` beyond it."""
        if self._spent_round != self.round_number:
            self._spent_round, self._spent = self.round_number, {}
        spent = self._spent.get(auditor, 0) + samples
        if spent > 2 * limits.AUDIT_SAMPLES_MAX:  # a challenge whose answer was lost is asked again
            raise DeclinedError(messages.REFUSED_BUSY, "that is more than a round's samples")
        self._spent[auditor] = spent

    async def answer(self, challenge: audit.Challenge, leases: Sequence[Lease]) -> list[audit.Sample]:
        """The samples, off the loop. Raises `StoreError` where the disk can't be read."""
        places = {lease.lease_id: (lease.segment_id, lease.shard_index) for lease in leases}
        leaves: dict[LeaseId, bytes | None] = {}

        def read_block(lease_id: LeaseId, block_index: int) -> bytes | None:
            try:
                return self.store.read_block(*places[lease_id], block_index)
            except (NotFoundError, CorruptBlockError):
                return None

        def read_leaves(lease_id: LeaseId) -> bytes | None:
            if lease_id not in leaves:
                found = self.store.leaves(*places[lease_id])
                leaves[lease_id] = found if found and len(found) % HASH_BYTES == 0 else None
            return leaves[lease_id]

        async with self._working:
            samples = await self.offload.run(lambda: audit.answer(challenge, read_block, read_leaves))
        self.answered += 1
        self.samples_answered += len(samples)
        return samples

    async def _serve_stream(self, stream: Stream) -> None:
        try:
            framed = await FramedStream.accepted(stream, self.preamble)
        except RefusedError:
            return  # the opener was told why; raising would reset the stream before it has read that
        try:
            await _Conversation(self, framed).run()
        except DeclinedError as error:
            await framed.send_error(error.code, str(error))
        except (ProtocolError, CryptoError) as error:
            await framed.send_error(messages.REFUSED_INVALID, str(error))
        except StoreError as error:
            text, now_s = str(error), self.clock.now_s()
            await framed.send_error(messages.REFUSED_DISK, "the disk can't be read now")
            await self.offload.run(lambda: self.journal.note_disk(now_s, text))


class _Conversation:
    """One stream."""

    def __init__(self, server: AuditServer, framed: FramedStream) -> None:
        self._server = server
        self._framed = framed
        self._network = server.preamble.network_id
        self._asked: _Asked | None = None

    async def run(self) -> None:
        """Serve until the opener ends the stream."""
        while True:
            frame = await self._framed.receive_or_end(deadline_s=limits.AUDIT_IDLE_S)
            if frame is None:
                return
            if frame.block is not None:
                raise ProtocolError("a block where a message was due")
            match messages.decode(frame.values):
                case messages.Ask() as ask:
                    await self._ask(ask)
                case messages.Rosters() as rosters:
                    await self._exchange(rosters)
                case messages.Challenge() as challenge:
                    await self._challenge(challenge)
                case messages.Receipt() as receipt:
                    await self._receipt(receipt)
                case messages.Tell() as tell:
                    await self._told(tell)
                case messages.TellBad() as bad:
                    await self._told_bad(bad)
                case messages.Collect() as collect:
                    await self._collect(collect)
                case other:
                    raise ProtocolError(f"{type(other).__name__} is no request")

    async def _reply(self, message: messages.Message) -> None:
        await self._framed.send(messages.encode(message))

    async def _reply_body(self, body: bytes) -> None:
        await self._reply(messages.Body(len(body)))
        await send_body(self._framed, body)

    # --- an audit ---------------------------------------------------------------------------------------

    async def _ask(self, ask: messages.Ask) -> None:
        auditor = self._framed.peer_id
        if ask.owner_key:
            body = ask.signed_bytes(self._network, self._framed.peer_id, self._server.peer_id)
            verify(ask.owner_key, messages.ASK_CONTEXT, body, ask.signature)
            auditor = peer_id_of(ask.owner_key)
        asked = _Asked(ask, auditor)
        states = await self._server.offload.run(lambda: self._states(asked))
        self._asked = asked
        await self._reply(messages.Ready(states))

    def _states(self, asked: _Asked) -> bytes:
        """A byte a lease. Blocks on the disk."""
        server, ask = self._server, asked.request
        rosters: dict[SegmentId, tuple[Lease, ...]] = {}
        states = bytearray()
        for number, lease_id in enumerate(ask.lease_ids()):
            held = server.store.lease(lease_id)
            if held is None or server.store.promised_manifest(held.segment_id) is None:
                states.append(messages.NOT_HELD)
                continue
            lease = Lease.decode(held.lease.data, network=self._network)
            roster = rosters.get(lease.segment_id)
            if roster is None:
                roster = rosters[lease.segment_id] = server.rosters.known_leases(lease.segment_id)
            state = messages.HELD if self._may_ask(asked, lease, roster) else messages.NOT_YOURS
            start = number * messages.DIGEST_BYTES
            if ask.digests[start : start + messages.DIGEST_BYTES] != messages.roster_digest(roster):
                state |= messages.OTHER_ROSTER
            states.append(state)
            if state & ~messages.OTHER_ROSTER == messages.HELD:
                asked.leases.append(lease)
        return bytes(states)

    def _may_ask(self, asked: _Asked, lease: Lease, roster: Sequence[Lease]) -> bool:
        server = self._server
        if asked.request.owner_key:
            return asked.request.owner_key == lease.owner_key
        return may_ask(
            asked.auditor,
            lease,
            current_holders(roster, server.clock.now_s()),
            round_number=asked.request.round_number,
            now_round=server.round_number,
            interval_s=server.interval_s,
        )

    async def _exchange(self, request: messages.Rosters) -> None:
        body = await receive_body(self._framed, request.body_bytes)
        records = messages.unpack_records(body, size_max=limits.LEASES_BODY_BYTES_MAX)
        server = self._server

        def merge() -> bytes:
            own = server.rosters.known_leases(request.segment_id)
            if not own:
                return messages.pack_records([], size_max=limits.LEASES_BODY_BYTES_MAX)
            encoded = server.store.segment_manifest(request.segment_id)
            news = [Lease.decode(record, network=self._network) for record in records]
            known = {lease.lease_id for lease in own}
            news = [lease for lease in news if lease.lease_id not in known]
            if encoded is not None and news:
                manifest = SegmentManifest.decode(encoded)
                for lease in news:
                    check_lease(lease, manifest)
                server.rosters.learn_leases(request.segment_id, news)
            theirs = {lease.lease_id for lease in news}
            give = [lease.encode() for lease in own if lease.lease_id not in theirs]
            return messages.pack_records(give, size_max=limits.LEASES_BODY_BYTES_MAX)

        await self._reply_body(await server.offload.run(merge))

    async def _challenge(self, request: messages.Challenge) -> None:
        asked, server = self._asked, self._server
        if asked is None or not asked.leases:
            raise ProtocolError("a challenge without leases that may be sampled")
        server.spend(asked.auditor, request.sample_count)
        leases = asked.leases

        def targets() -> tuple[audit.Target, ...]:
            found = []
            for lease in leases:
                encoded = server.store.promised_manifest(lease.segment_id)
                if encoded is None:
                    raise DeclinedError(messages.REFUSED_BUSY, "that segment has just gone from here")
                geometry = SegmentManifest.decode(encoded).geometry
                found.append(audit.Target(lease.lease_id, lease.root, geometry))
            return tuple(found)

        challenge = audit.Challenge(request.nonce, await server.offload.run(targets), request.sample_count)
        samples = await server.answer(challenge, leases)

        def sign() -> tuple[bytes, bytes]:
            digests = audit.answer_digests(challenge, samples)
            unsigned = AuditAnswer(self._network, request.nonce, asked.auditor, server.peer_id, digests)
            return unsigned.sign(server.identity).signature, messages.pack_samples(samples)

        signature, body = await server.offload.run(sign)
        asked.challenge = challenge
        await self._reply(messages.Answer(signature, len(body)))
        await send_body(self._framed, body)

    async def _receipt(self, said: messages.Receipt) -> None:
        asked, server = self._asked, self._server
        if asked is None or asked.challenge is None:
            raise ProtocolError("a receipt before an answer")
        answered = {lease.lease_id: lease for lease in asked.leases}
        receipt = AuditReceipt(
            self._network,
            said.leases or join_lease_ids(answered),
            asked.request.round_number,
            asked.challenge.nonce,
            said.asked_count,
            said.passed_count,
            said.failed_count,
            said.time_s,
            Outcome(said.outcome),
            asked.auditor,
            server.peer_id,
            said.signature,
        )
        segments = {lease.segment_id for lease in answered.values()}
        await server.offload.run(lambda: self._take([receipt], segments))

    # --- what others found ------------------------------------------------------------------------------

    def _take(self, receipts: Sequence[AuditReceipt], segments: set[SegmentId]) -> list[AuditReceipt]:
        """Receipts that are news. Blocks on the disk."""
        server = self._server
        roster = [lease for segment in sorted(segments) for lease in server.rosters.known_leases(segment)]
        news = server.evidence.take_receipts(receipts, roster, now_s=server.clock.now_s())
        for receipt in news:
            if receipt.donor == server.peer_id:
                server.journal.note(receipt)
        return list(news)

    async def _told(self, request: messages.Tell) -> None:
        body = await receive_body(self._framed, request.body_bytes)
        records = messages.unpack_records(body, size_max=limits.AUDIT_TELL_BYTES_MAX)
        receipts = [AuditReceipt.decode(record, network=self._network) for record in records]
        news = await self._server.offload.run(lambda: self._take(receipts, set(request.segment_ids)))
        await self._reply(messages.Done(len(news)))
        for receipt in news:
            if receipt.outcome is Outcome.NO_ANSWER and receipt.donor != self._server.peer_id:
                self._server.on_no_answer(receipt, request.segment_ids)

    async def _told_bad(self, request: messages.TellBad) -> None:
        body = await receive_body(self._framed, request.body_bytes)
        bad = BadAnswer.decode(body, network=self._network)
        server = self._server

        def take() -> bool:
            encoded = server.store.segment_manifest(bad.segment_id)
            if encoded is None:
                return False
            return server.evidence.add_bad_answer(
                bad, bad.segment_id, SegmentManifest.decode(encoded).geometry
            )

        is_new = await server.offload.run(take)
        if is_new:
            server.reputations.failed(bad.donor, 1, contradicts=bad.is_false)
        await self._reply(messages.Done(int(is_new)))

    async def _collect(self, request: messages.Collect) -> None:
        if self._asked is None or not self._asked.request.owner_key:
            raise ProtocolError("receipts are collected by an owner")
        server = self._server

        def collect() -> bytes:
            found: dict[bytes, AuditReceipt] = {}
            for segment_id in request.segment_ids:
                for receipt in server.evidence.receipts(segment_id):
                    ours = receipt.donor == server.peer_id
                    bad = receipt.outcome in (Outcome.FAILED, Outcome.NO_ANSWER)
                    if receipt.time_s >= request.since_s and (ours or bad):
                        found[receipt.record_id()] = receipt
            newest = sorted(found.values(), key=lambda receipt: -receipt.time_s)
            return messages.pack_records(
                (receipt.encode() for receipt in newest), size_max=limits.EVIDENCE_RECEIPTS_BYTES_MAX
            )

        await self._reply_body(await server.offload.run(collect))


def current_holders(roster: Sequence[Lease], now_s: int) -> set[PeerId]:
    """Who promises to keep something of a segment today."""
    today = now_s // DAY_S
    return {lease.holder for lease in roster if lease.end_day > today}
