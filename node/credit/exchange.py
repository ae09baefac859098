"""Exchanges of records with counterparties: `/cairn/credit/1`, both sides. Layer 4.

Invariants: an exchange follows a contact, never a clock: it is owed to a peer until it has succeeded, and is
tried when there is news, when the peer connects, and with growing pauses while it is connected; at rest
nothing wakes. Both ends have the same set after one, whatever either had lost or seen twice; states are
proposed after that, so never before the other side's are known. A broken exchange leaves what came whole.
Source: credit.md, "Records".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from node import limits
from node.chunks.bodies import receive_body, send_body
from node.credit import messages
from node.credit.admitting import CreditAdmission
from node.credit.fold import FOLD_TAG, Fold
from node.credit.ledger import Ledger
from node.credit.messages import EntryData
from node.credit.pairing import Pairing
from node.credit.reconcile import Difference, IdSet
from node.credit.wallet import Wallet
from node.errors import (
    CreditError,
    CryptoError,
    PeerMisbehavedError,
    ProtocolError,
    RefusedError,
    RemoteError,
)
from node.framing import FramedStream, Preamble
from node.ports import Network, Stream
from node.records.offer import DeviceCert
from node.records.pair_state import PairState
from node.units import AccountId, Contact, PeerId

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the stubs that py-libp2p brings leave it out of trio

T = TypeVar("T")
Reply = TypeVar("Reply", bound=messages.Message)

SETTLE_S: Final = 2.0
"""So long an exchange waits for more news of the same peer: a put signs many leases at once."""
PAUSE_FIRST_S: Final = 30.0
PAUSE_S_MAX: Final = 3_600.0
"""Between tries with a peer that stays connected and fails."""
TRIES_MAX: Final = 6
"""Then the next try waits for news, or for the peer to connect again."""
AT_ONCE: Final = 4

Extra = Callable[[messages.Message, AccountId, FramedStream], Awaitable[messages.Message]]


class Session:
    """The opener's side of one exchange; a context in `Exchange.session`."""

    def __init__(self, framed: FramedStream, other: AccountId) -> None:
        self._framed = framed
        self.other = other

    async def ask(
        self, request: messages.Message, *kinds: type[messages.Message], body: bytes | None = None
    ) -> messages.Message:
        """The reply to a request, of one of these kinds."""
        await self._framed.send(messages.encode(request))
        if body is not None:
            await send_body(self._framed, body)
        with blaming(self._framed):
            values = await self._framed.receive(deadline_s=limits.CREDIT_REPLY_DEADLINE_S)
            reply = messages.decode(values)
            if not isinstance(reply, kinds):
                raise ProtocolError(f"a {type(reply).__name__} in reply to a {type(request).__name__}")
            return reply

    async def entries(self, ids: Sequence[bytes]) -> list[EntryData]:
        """Entries of the other side's set."""
        reply = await self.ask(messages.Want(tuple(ids)), messages.Body)
        assert isinstance(reply, messages.Body)
        with blaming(self._framed):
            return messages.unpack_entries(await receive_body(self._framed, reply.body_bytes))


@contextmanager
def blaming(framed: FramedStream) -> Iterator[None]:
    """What is illegal in what came is the other side's fault."""
    try:
        yield
    except (ProtocolError, CryptoError) as error:
        raise PeerMisbehavedError(framed.peer, str(error)) from error


class Exchange:
    """All exchanges of one node."""

    def __init__(
        self,
        *,
        network: Network,
        preamble: Preamble,
        ledger: Ledger,
        pairing: Pairing,
        admission: CreditAdmission,
        wallet: Wallet,
    ) -> None:
        self._network = network
        self._preamble = preamble
        self._ledger = ledger
        self._pairing = pairing
        self._admission = admission
        self._wallet = wallet
        self._owed: dict[PeerId, Contact] = {}
        """Peers that an exchange is owed to."""
        self._met: set[PeerId] = set()
        """Peers that an exchange has succeeded with in this life of the node."""
        self._busy: set[PeerId] = set()
        self._news = trio.Event()
        self._nursery: trio.Nursery | None = None
        self.extra: dict[type[messages.Message], Extra] = {}
        """Requests beyond the exchange of records, by their kind."""
        self.exchanges = 0

    @property
    def network(self) -> Network:
        """The network that exchanges go over."""
        return self._network

    # --- when ---------------------------------------------------------------------------------------------

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve and exchange, until cancelled; started once requests are taken."""
        self._network.serve(
            messages.PROTOCOL,
            self._serve,
            streams_max=limits.CREDIT_STREAMS_MAX,
            streams_max_per_peer=limits.CREDIT_STREAMS_PER_PEER_MAX,
        )
        self._network.on_connected(self._on_connected)
        limiter = trio.CapacityLimiter(AT_ONCE)
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            while True:
                for peer_id in [peer for peer in self._owed if peer not in self._busy]:
                    self._busy.add(peer_id)
                    self._nursery.start_soon(self._keep_trying, peer_id, limiter)
                await self._news.wait()
                self._news = trio.Event()

    def owe(self, contact: Contact) -> None:
        """There is news for this peer."""
        if len(self._owed) < limits.EXCHANGES_QUEUED_MAX:
            self._owed[contact.peer_id] = contact
            self._news.set()

    def _on_connected(self, peer_id: PeerId) -> None:
        """Meet again whom this node has a ledger with: once in each of its lives, or where it is owed."""
        if peer_id in self._met and peer_id not in self._owed:
            return
        if self._ledger.store.read(lambda view: view.account_of(peer_id)) is not None:
            self.owe(Contact(peer_id, self._network.addresses_of(peer_id)))

    async def _keep_trying(self, peer_id: PeerId, limiter: trio.CapacityLimiter) -> None:
        try:
            await trio.sleep(SETTLE_S)
            pause_s = PAUSE_FIRST_S
            for _ in range(TRIES_MAX):
                contact = self._owed.pop(peer_id, None)
                if contact is None:
                    return
                try:
                    async with limiter:
                        await self.sync(contact)
                except RefusedError:
                    return  # it keeps no ledger, or does not take this device's word
                except RemoteError:
                    self._owed.setdefault(peer_id, contact)
                    if peer_id not in self._network.connected():
                        return  # tried again when it connects
                    await trio.sleep(pause_s)
                    pause_s = min(PAUSE_S_MAX, 4 * pause_s)
        finally:
            self._busy.discard(peer_id)
            if peer_id in self._owed and peer_id in self._network.connected():
                self._news.set()

    # --- the opener's side --------------------------------------------------------------------------------

    async def sync(self, contact: Contact) -> AccountId:
        """One exchange with a peer; its account. Raises `UnreachableError`, `RefusedError`,
        `PeerMisbehavedError`."""
        stream = await self._network.open_stream(contact, messages.PROTOCOL)
        framed = FramedStream.opened(stream, self._preamble)
        try:
            session = await self._greet(framed)
            await self._reconcile(session)
            with suppress(CreditError):  # nothing that this node could sign now
                await self._agree(session)
            self._met.add(contact.peer_id)
            self.exchanges += 1
        except BaseException:
            await framed.reset()
            raise
        await framed.aclose()
        return session.other

    async def open(self, contact: Contact) -> tuple[Session, FramedStream]:
        """A session for something else than records; the caller closes the stream. Raises as `sync` does."""
        stream = await self._network.open_stream(contact, messages.PROTOCOL)
        framed = FramedStream.opened(stream, self._preamble)
        try:
            return await self._greet(framed), framed
        except BaseException:
            await framed.reset()
            raise

    async def _greet(self, framed: FramedStream) -> Session:
        cert = await self._run(self._wallet.device_cert)
        session = Session(framed, cert.account)
        reply = await session.ask(messages.Hello(cert.encode()), messages.Hello)
        assert isinstance(reply, messages.Hello)
        try:
            session.other = await self._meet(reply.cert, framed.peer_id)
        except (ProtocolError, CryptoError, CreditError) as error:
            raise PeerMisbehavedError(framed.peer, str(error)) from error
        return session

    async def _reconcile(self, session: Session) -> None:
        other, day = session.other, self._admission.day
        own = IdSet(await self._run(lambda: self._pairing.ids(other, day=day)))
        difference = Difference(own)
        with blaming(session._framed):
            while asked := difference.next_ranges():
                reply = await session.ask(messages.Ask(asked), messages.Answers)
                assert isinstance(reply, messages.Answers)
                if len(reply.answers) != len(asked):
                    raise ProtocolError("an answer for each range")
                for each, answer in zip(asked, reply.answers, strict=True):
                    difference.take(each, answer)
        step = limits.CREDIT_ENTRIES_PER_MESSAGE_MAX
        for start in range(0, len(difference.theirs_only), step):
            ids = difference.theirs_only[start : start + step]
            while ids:
                entries = await session.entries(ids)
                if not entries:
                    break
                await self._run(lambda entries=entries: self._pairing.take(other, entries, day=day))  # type: ignore[misc]
                ids = ids[len(entries) :]
        # What was taken in may have closed periods here.
        left = set(await self._run(lambda: self._pairing.ids(other, day=day)))
        await self._give(session, [each for each in difference.ours_only if each in left], day)
        whole = IdSet(await self._run(lambda: self._pairing.ids(other, day=day))).whole()
        await session.ask(messages.Settled(whole), messages.Done)
        await self._run(lambda: self._pairing.note_synced(other))

    async def _give(self, session: Session, ids: Sequence[bytes], day: int) -> None:
        other, rest = session.other, list(ids)
        while rest:
            part = rest[: limits.CREDIT_ENTRIES_PER_MESSAGE_MAX]
            entries = fitting(await self._run(lambda: self._pairing.entries(other, part, day=day)))  # noqa: B023
            if not entries:
                break
            body = messages.pack_entries(entries)
            await session.ask(messages.Give(len(body)), messages.Done, body=body)
            rest = rest[len(entries) :]

    async def _agree(self, session: Session) -> None:
        """Have the totals of the periods signed by both."""
        other, day = session.other, self._admission.day
        for state in await self._run(lambda: self._pairing.propose(other, day=day)):
            await self._have_signed(session, messages.Propose(state.encode()), state, [])
        closing = await self._run(lambda: self._pairing.propose_close(other, day=day))
        if closing is not None:
            state, fold = closing
            request = messages.Close(state.encode(), fold.encode())
            await self._have_signed(session, request, state, [(FOLD_TAG, fold.encode())])

    async def _have_signed(
        self, session: Session, request: messages.Message, state: PairState, more: list[EntryData]
    ) -> None:
        """Ask for the second signature of a state, and keep it with what counts for its sake."""
        other, day = session.other, self._admission.day
        reply = await session.ask(request, messages.Signed, messages.Declined)
        if not isinstance(reply, messages.Signed):
            return
        with blaming(session._framed):
            signed = PairState.decode(reply.record, network=self._ledger.store.network)
            if signed.body() != state.body():
                raise ProtocolError("another state than the one proposed")
            signed.verify()
        entries = [(PairState.TYPE, reply.record), *more]
        await self._run(lambda: self._pairing.take(other, entries, day=day))

    # --- the other side -----------------------------------------------------------------------------------

    async def _serve(self, stream: Stream) -> None:
        try:
            framed = await FramedStream.accepted(stream, self._preamble)
        except RefusedError:
            return  # the opener was told why
        try:
            await self._converse(framed)
        except CreditError as error:
            await framed.send_error(messages.REFUSED_DEVICE, str(error))
        except (ProtocolError, CryptoError) as error:
            await framed.send_error(messages.REFUSED_INVALID, str(error))

    async def _converse(self, framed: FramedStream) -> None:
        hello = messages.decode(await framed.receive(deadline_s=limits.CREDIT_REPLY_DEADLINE_S))
        if not isinstance(hello, messages.Hello):
            raise ProtocolError("an exchange begins with the certificates")
        other = await self._meet(hello.cert, framed.peer_id)
        own = await self._run(self._wallet.device_cert)
        await framed.send(messages.encode(messages.Hello(own.encode())))
        ids: IdSet | None = None
        while True:
            frame = await framed.receive_or_end(deadline_s=limits.CREDIT_REPLY_DEADLINE_S)
            if frame is None:
                return
            if frame.block is not None:
                raise ProtocolError("a body that was not announced")
            request = messages.decode(frame.values)
            if isinstance(request, messages.Ask):
                day = self._admission.day
                ids = ids or IdSet(await self._run(lambda: self._pairing.ids(other, day=day)))  # noqa: B023
                answers = tuple(ids.answer(each) for each in request.ranges)
                await framed.send(messages.encode(messages.Answers(answers)))
                continue
            if not isinstance(request, messages.Want):
                ids = None
            await self._answer(request, other, framed)

    async def _answer(self, request: messages.Message, other: AccountId, framed: FramedStream) -> None:
        day = self._admission.day
        match request:
            case messages.Want():
                found = await self._run(lambda: self._pairing.entries(other, request.ids, day=day))
                body = messages.pack_entries(fitting(found))
                await framed.send(messages.encode(messages.Body(len(body))))
                await send_body(framed, body)
            case messages.Give():
                entries = messages.unpack_entries(await receive_body(framed, request.body_bytes))
                new = await self._run(lambda: self._pairing.take(other, entries, day=day))
                await framed.send(messages.encode(messages.Done(new)))
            case messages.Settled():
                own = IdSet(await self._run(lambda: self._pairing.ids(other, day=day))).whole()
                if own == request.whole:
                    await self._run(lambda: self._pairing.note_synced(other))
                    self._met.add(framed.peer_id)
                await framed.send(messages.encode(messages.Done(int(own == request.whole))))
            case messages.Propose() | messages.Close():
                await framed.send(messages.encode(await self._countersign(request, other, day)))
            case _:
                handler = self.extra.get(type(request))
                if handler is None:
                    raise ProtocolError(f"{type(request).__name__} is no request")
                await framed.send(messages.encode(await handler(request, other, framed)))

    async def _countersign(
        self, request: messages.Propose | messages.Close, other: AccountId, day: int
    ) -> messages.Signed | messages.Declined:
        network = self._ledger.store.network
        state = PairState.decode(request.record, network=network)
        fold = Fold.decode(request.fold, network=network) if isinstance(request, messages.Close) else None

        def sign() -> PairState:
            return self._pairing.countersign(other, state, fold=fold, day=day)

        try:
            return messages.Signed((await self._run(sign)).encode())
        except (CreditError, ProtocolError) as error:
            # Its half is kept all the same: two at one number are a proof.
            entry = (PairState.TYPE, request.record)
            await self._run(lambda: self._pairing.take(other, [entry], day=day))
            return messages.Declined(str(error)[: limits.ERROR_TEXT_CHARACTERS_MAX])

    # --- shared -------------------------------------------------------------------------------------------

    async def _meet(self, data: bytes, peer_id: PeerId) -> AccountId:
        """The account of a certificate that its own peer shows."""
        cert = DeviceCert.decode(data, network=self._ledger.store.network)
        if cert.peer_id != peer_id:
            raise ProtocolError("the certificate of another peer")
        if cert.account == self._ledger.me:
            raise CreditError("an account keeps no ledger with itself")
        await self._run(lambda: self._admission.check_cert(cert))
        return cert.account

    async def _run(self, work: Callable[[], T]) -> T:
        return await self._admission.run(work)


def fitting(entries: Sequence[EntryData]) -> list[EntryData]:
    """As many of the entries, from the first, as a body may take: at least one."""
    total, count = 0, 0
    for tag, data in entries:
        total += len(tag) + len(data) + 16
        if count and total > limits.CREDIT_BODY_BYTES_MAX - 64:
            break
        count += 1
    return list(entries[:count])
