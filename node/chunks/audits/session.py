"""One audit, as the auditor sees it: a stream of `/cairn/audits/1` to a donor. Layer 4.

Invariants: every wait has a deadline and every size is checked before it is allocated; an answer counts only
with the donor's signature under exactly these samples; what is illegal in the bytes is the donor's fault.
How late the answer is, is measured to its first message: the samples that follow may take as long as the
line needs. Source: credit.md, "Audits".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import trio

from node import limits
from node.asking import Session
from node.chunks import audit
from node.chunks.audits import messages
from node.chunks.bad_answer import BadAnswer
from node.chunks.bodies import receive_body, send_body
from node.chunks.geometry import SegmentGeometry
from node.chunks.holders import blaming
from node.crypto.identity import peer_id_of
from node.crypto.signing import KeyPair
from node.errors import ProtocolError
from node.framing import FramedStream, Preamble
from node.ports import Network, Offload
from node.records.lease import Lease
from node.records.receipt import AuditAnswer, AuditReceipt
from node.units import Contact, PeerId, SegmentId

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AuditItem:
    """A leased shard to audit, and what its segment is like."""

    lease: Lease
    geometry: SegmentGeometry

    @property
    def target(self) -> audit.Target:
        """What the challenge is about."""
        return audit.Target(self.lease.lease_id, self.lease.root, self.geometry)


@dataclass(frozen=True, slots=True)
class Auditor:
    """Who asks: this node as a holder, or as the owner of a file."""

    key: KeyPair
    is_owner: bool = False

    @property
    def peer_id(self) -> PeerId:
        """The name in receipts."""
        return peer_id_of(self.key.public)


@dataclass(frozen=True, slots=True)
class Answered:
    """What a donor showed."""

    challenge: audit.Challenge
    verdict: audit.Verdict
    samples: tuple[audit.Sample, ...]
    signed: AuditAnswer
    took_s: float
    round_trip_s: float

    def bad_answers(self, items: Sequence[AuditItem]) -> list[BadAnswer]:
        """A proof for each shard with a failed sample."""
        leases = {item.lease.lease_id: item.lease for item in items}
        found: dict[bytes, BadAnswer] = {}
        for index in sorted((*self.verdict.false, *self.verdict.missing), key=self._false_first):
            place = self.verdict.places[index]
            lease_id = place.target.lease_id
            if lease_id not in found:
                found[lease_id] = BadAnswer(
                    self.signed, index, place.block_index, place.chunk_index, self.samples[index],
                    leases[lease_id],
                )  # fmt: skip
        return list(found.values())

    def _false_first(self, index: int) -> tuple[bool, int]:
        return index not in self.verdict.false, index


class AuditSession(Session[messages.Message]):
    """Requests to one donor, one after another.

    Every method raises `UnreachableError`, `RefusedError` (the session is over) and `PeerMisbehavedError`.
    """

    def __init__(self, framed: FramedStream, preamble: Preamble, offload: Offload) -> None:
        super().__init__(framed, messages.TABLE)
        self._network = preamble.network_id
        self._offload = offload
        self._round_trip_s = 0.0

    @classmethod
    async def open(
        cls, network: Network, preamble: Preamble, offload: Offload, contact: Contact
    ) -> AuditSession:
        """A session; the caller closes it."""
        stream = await network.open_stream(contact, messages.PROTOCOL)
        return cls(FramedStream.opened(stream, preamble), preamble, offload)

    async def aclose(self) -> None:
        """End it in good order."""
        with trio.CancelScope(shield=True), trio.move_on_after(1.0):
            await self._framed.aclose()

    async def ask(
        self,
        auditor: Auditor,
        me: PeerId,
        items: Sequence[AuditItem],
        *,
        round_number: int,
        digests: Callable[[SegmentId], bytes],
    ) -> bytes:
        """What the donor says of each item (ascending by lease id); measures the round trip."""
        ask = messages.Ask(
            round_number,
            b"".join(item.lease.lease_id for item in items),
            b"".join(digests(item.lease.segment_id) for item in items),
        )
        if auditor.is_owner:
            body = ask.signed_bytes(self._network, me, self._framed.peer_id)
            signature = auditor.key.sign(messages.ASK_CONTEXT, body)
            ask = replace(ask, owner_key=auditor.key.public, signature=signature)
        started = trio.current_time()
        states = (await self._ask(ask, messages.Ready)).states
        self._round_trip_s = trio.current_time() - started
        with blaming(self._framed.peer_id):
            known = {messages.HELD, messages.NOT_HELD, messages.NOT_YOURS}
            if len(states) != len(items) or not {state & 0x7F for state in states} <= known:
                raise ProtocolError("a reply about other leases than those asked for")
        return states

    async def exchange_roster(self, segment_id: SegmentId, leases: Sequence[Lease]) -> list[Lease]:
        """Give the leases known of a segment; the donor's, not verified."""
        body = messages.pack_records(
            (lease.encode() for lease in leases), size_max=limits.LEASES_BODY_BYTES_MAX
        )
        await self._send(messages.Rosters(segment_id, len(body)))
        await send_body(self._framed, body)
        return [
            self._decoded(lambda data: Lease.decode(data, network=self._network), record)
            for record in await self._records()
        ]

    async def challenge(
        self, auditor: Auditor, items: Sequence[AuditItem], *, nonce: bytes, sample_count: int
    ) -> Answered:
        """Have the items sampled, and check the answer."""
        targets = tuple(item.target for item in items)
        challenge = audit.Challenge(nonce, targets, sample_count)
        await self._send(messages.Challenge(nonce, sample_count))
        started = trio.current_time()
        answer = await self._reply(messages.Answer, deadline_s=limits.AUDIT_ANSWER_DEADLINE_S)
        took_s = trio.current_time() - started
        with blaming(self._framed.peer_id):
            body = await receive_body(
                self._framed, answer.body_bytes, deadline_s=limits.AUDIT_ANSWER_DEADLINE_S
            )
            donor = self._framed.peer_id

            def check() -> Answered:
                samples = messages.unpack_samples(body)
                verdict = audit.verify_answer(challenge, samples)
                digests = audit.answer_digests(challenge, samples)
                signed = AuditAnswer(self._network, nonce, auditor.peer_id, donor, digests, answer.signature)
                signed.verify()
                return Answered(challenge, verdict, tuple(samples), signed, took_s, self._round_trip_s)

            return await self._offload.run(check)

    async def give_receipt(self, receipt: AuditReceipt, *, of_all: bool) -> None:
        """Let the donor have a receipt of this session's challenge."""
        await self._send(
            messages.Receipt(
                b"" if of_all else receipt.leases,
                receipt.asked_count,
                receipt.passed_count,
                receipt.failed_count,
                receipt.time_s,
                int(receipt.outcome),
                receipt.signature,
            )
        )

    async def tell(self, segment_ids: Sequence[SegmentId], receipts: Sequence[AuditReceipt]) -> int:
        """Tell of receipts about leases of these segments; how many were news."""
        body = messages.pack_records(
            (receipt.encode() for receipt in receipts), size_max=limits.AUDIT_TELL_BYTES_MAX
        )
        await self._send(messages.Tell(tuple(segment_ids), len(body)))
        await send_body(self._framed, body)
        return (await self._reply(messages.Done)).count

    async def tell_bad(self, bad: BadAnswer) -> int:
        """Hand on the proof that a shard is lost; 1 if it was news."""
        body = bad.encode()
        await self._send(messages.TellBad(len(body)))
        await send_body(self._framed, body)
        return (await self._reply(messages.Done)).count

    async def collect(self, segment_ids: Sequence[SegmentId], *, since_s: int) -> list[AuditReceipt]:
        """Receipts about these segments that the donor knows; not verified. After an owner's `ask`."""
        await self._send(messages.Collect(tuple(segment_ids), since_s))
        return [
            self._decoded(lambda data: AuditReceipt.decode(data, network=self._network), record)
            for record in await self._records()
        ]

    # --- plumbing ---------------------------------------------------------------------------------------

    async def _records(self) -> tuple[bytes, ...]:
        size = (await self._reply(messages.Body)).body_bytes
        with blaming(self._framed.peer_id):
            body = await receive_body(self._framed, size)
            return messages.unpack_records(body, size_max=limits.LEASES_BODY_BYTES_MAX)

    def _decoded(self, decode: Callable[[bytes], T], data: bytes) -> T:
        with blaming(self._framed.peer_id):
            return decode(data)
