"""A donor's admission over its ledger: what is accepted counts, survives a kill, and never leaks."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from node import limits
from node.chunks.admission import Asker, Paid, Wanted
from node.credit.admission import UNLIMITED, Ledger, Policy, Standing
from node.credit.ledger_store import LedgerView
from node.credit.service import CreditService
from node.crypto.keystore import NodeKeys
from node.errors import CreditError, CryptoError, ProtocolError
from node.framing import Preamble
from node.records.charge import BILLED_EXTRA_BYTES, Charge
from node.records.lease import Lease, granted_nonce
from node.records.offer import DeviceCert
from node.records.repair import RepairGrant
from node.units import DAY_S, GIB, MIB, AccountId, Contact, LeaseId, Multiaddr
from simulations.disk import FakeDisk
from simulations.key_value import FakeKeyValue
from simulations.machine import InlineOffload, SeededEntropy
from simulations.network import Internet
from tests.clocks import HandClock
from tests.conftest import FULL
from tests.credit.actors import CREDIT, DAY, NETWORK, Actor, charge_of, lease_of, release_of

T = TypeVar("T")
POLICY = Policy.of(GIB, newcomer_credits=100, local_line=0)
CAP = POLICY.account_cap // CREDIT
DONOR = Actor(0)


def keys_of(actor: Actor) -> NodeKeys:
    return NodeKeys(actor.device, actor.key, b"entropy")


def cert_of(actor: Actor, epoch: int = 1, *, days: int = 400) -> bytes:
    cert = DeviceCert(NETWORK, actor.account, actor.peer_id, epoch, (DAY + days) * DAY_S)
    return cert.sign(actor.key).encode()


@dataclass
class Place:
    """A donor's disk and the internet around it."""

    disk: FakeDisk = field(default_factory=FakeDisk)
    clock: HandClock = field(default_factory=lambda: HandClock(DAY * DAY_S + 60))
    kept: set[LeaseId] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.internet = Internet(random.Random(1))
        self.tables = FakeKeyValue(self.disk)

    def crash(self) -> None:
        self.disk.crash()
        self.tables = self.tables.reopened()

    @asynccontextmanager
    async def open(
        self, *callers: Actor, same_subnet: bool = False, neighbours: Sequence[Actor] = (),
        policy: Policy = POLICY,
    ) -> AsyncIterator[CreditService]:  # fmt: skip
        """One life of the donor, with these peers connected, from networks of their own or one, and with
        neighbours on a private one."""
        async with AsyncExitStack() as stack:
            donor = await stack.enter_async_context(self.internet.join(DONOR.peer_id))
            contact = Contact(DONOR.peer_id, donor.listen_addresses())
            for number, actor in enumerate(callers):
                subnet = 0 if same_subnet else number
                address = Multiaddr(f"/ip4/203.0.{subnet}.{number + 1}/tcp/1")
                caller = await stack.enter_async_context(self.internet.join(actor.peer_id, address=address))
                await caller.connect(contact)
            for number, actor in enumerate(neighbours):
                address = Multiaddr(f"/ip4/192.168.0.{number + 1}/tcp/1")
                caller = await stack.enter_async_context(self.internet.join(actor.peer_id, address=address))
                await caller.connect(contact)
            service = CreditService(
                network=donor, state=self.tables, keys=keys_of(DONOR), preamble=Preamble(NETWORK, 1),
                entropy=SeededEntropy("donor"),
                clock=self.clock, offload=InlineOffload(), policy=policy,
            )  # fmt: skip
            await service.start(lambda lease_id: lease_id in self.kept)
            yield service


def asker(actor: Actor, **cert: int) -> Asker:
    return Asker(actor.peer_id, cert_of(actor, **cert))


def lease_for(payer: Actor, number: int, credits: int) -> Lease:
    """A lease of some credits, for a day."""
    return lease_of(payer, DONOR, number, days=1, mib=credits)


def paid(payer: Actor, *leases: Lease) -> list[Paid]:
    return [Paid(lease, charge_of(lease, payer).encode(), 0) for lease in leases]


def wanted(credits: int) -> Wanted:
    return Wanted(1, credits * MIB - BILLED_EXTRA_BYTES, 0, 1, CREDIT)


async def put(service: CreditService, place: Place, payer: Actor, number: int, credits: int) -> None:
    """A whole put of one lease."""
    name, lease = number.to_bytes(4, "big"), lease_for(payer, number, credits)
    await service.admission.reserve(name, asker(payer), wanted(credits))
    await service.admission.settle(name, asker(payer), paid(payer, lease))
    place.kept.add(lease.lease_id)
    await service.admission.settled([lease.lease_id], kept=True)


async def room(service: CreditService, actor: Actor) -> int:
    return await service.admission.room(asker(actor)) // CREDIT


def granted_for(payer: Actor, number: int, credits: int) -> tuple[Lease, RepairGrant]:
    """A lease of about so many credits under a repair grant of the payer's."""
    like = lease_for(payer, number, credits)
    grant = RepairGrant(
        network=NETWORK, segment_id=like.segment_id, owner_key=like.owner_key, generation_max=9,
        rate=2 * CREDIT, data_shards=1, total_shards=3, account=payer.account,
        max_credits=limits.CREDIT_MICRO_MAX, expires_s=(DAY + 40) * DAY_S,
    ).sign(payer.owner, payer.key)  # fmt: skip
    bare = replace(like, nonce=granted_nonce(1, bytes(12)), owner_signature=b"", holder_signature=b"")
    return bare.under_grant(grant).countersign(DONOR.device), grant


async def repaired(
    service: CreditService, place: Place, granted: tuple[Lease, RepairGrant], by: Actor
) -> None:
    """A lease under a grant that a repairer asks for."""
    lease, grant = granted
    await service.admission.admit_granted(lease, grant, 0, by.peer_id)
    place.kept.add(lease.lease_id)
    await service.admission.settled([lease.lease_id], kept=True)


ONE, TWO, THREE = (Actor(number) for number in (1, 2, 3))


async def test_two_strangers_may_store_at_once_up_to_the_allowance() -> None:
    place = Place()
    async with place.open(ONE, TWO) as service:
        for number, payer in enumerate((ONE, TWO)):
            assert await room(service, payer) == CAP
            await put(service, place, payer, number, CAP)
            assert await room(service, payer) == 0
            with pytest.raises(CreditError, match="cairn donate"):
                await service.admission.reserve(b"more", asker(payer), wanted(1))


async def test_strangers_of_one_subnet_share_one_allowance() -> None:
    place = Place()
    async with place.open(ONE, TWO, THREE, same_subnet=True) as service:
        await put(service, place, ONE, 1, CAP - 100)
        assert await room(service, TWO) == 100
        await service.admission.reserve(b"two", asker(TWO), wanted(60))
        assert await room(service, THREE) == 40  # running uploads count
        service.admission.cancel(b"two")
        assert await room(service, THREE) == 100


async def test_reservations_are_void_at_a_restart_and_claims_are_not() -> None:
    place = Place()
    async with place.open(ONE) as service:
        await put(service, place, ONE, 1, 100)
        await service.admission.reserve(b"running", asker(ONE), wanted(50))
        assert await room(service, ONE) == CAP - 150
    place.crash()
    async with place.open(ONE) as service:
        assert await room(service, ONE) == CAP - 100


async def test_a_claim_whose_shard_did_not_become_durable_goes_at_the_next_start() -> None:
    place = Place()
    lost, kept = lease_for(ONE, 1, 100), lease_for(ONE, 2, 30)
    async with place.open(ONE) as service:
        await service.admission.settle(b"", asker(ONE), paid(ONE, lost, kept))
        assert await room(service, ONE) == CAP - 130
    place.crash()
    place.kept.add(kept.lease_id)
    async with place.open(ONE) as service:
        assert await room(service, ONE) == CAP - 30
        assert service.ledger.store.read(LedgerView.unconfirmed) == []
        await service.admission.settled([kept.lease_id], kept=False)
        assert await room(service, ONE) == CAP


async def test_a_charge_settles_once_however_often_it_is_shown() -> None:
    place = Place()
    async with place.open(ONE) as service:
        lease = lease_for(ONE, 1, CAP)
        for _ in range(3):
            await service.admission.settle(b"", asker(ONE), paid(ONE, lease))
        assert await room(service, ONE) == 0


async def test_more_than_was_reserved_is_decided_anew_and_less_gives_back() -> None:
    place = Place()
    async with place.open(ONE) as service:
        await service.admission.reserve(b"put", asker(ONE), wanted(100))
        await service.admission.settle(b"put", asker(ONE), paid(ONE, lease_for(ONE, 1, 90)))
        assert await room(service, ONE) == CAP - 90
        await service.admission.reserve(b"put", asker(ONE), wanted(10))
        with pytest.raises(CreditError):
            await service.admission.settle(b"put", asker(ONE), paid(ONE, lease_for(ONE, 2, CAP)))
        service.admission.cancel(b"put")
        assert await room(service, ONE) == CAP - 90


async def test_a_released_lease_is_open_no_more() -> None:
    place = Place()
    async with place.open(ONE) as service:
        await put(service, place, ONE, 1, 100)
        await service.admission.released([release_of(lease_for(ONE, 1, 100), ONE)])
        assert await room(service, ONE) == CAP


async def test_what_was_never_proved_is_open_until_thirty_days_after_its_end() -> None:
    place = Place()
    async with place.open(ONE) as service:
        await put(service, place, ONE, 1, 100)
        place.clock.time_s += 30 * DAY_S
        assert await room(service, ONE) == CAP - 100
        place.clock.time_s += DAY_S
        assert await room(service, ONE) == CAP


async def test_a_friends_line_is_a_gift_that_its_running_leases_use_up() -> None:
    place = Place()
    async with place.open(ONE) as service:
        await service.admission.run(lambda: service.ledger.set_line(ONE.account, 1000 * CREDIT, day=DAY))
        await put(service, place, ONE, 1, 900)
        assert await room(service, ONE) == 100 + CAP
        await service.admission.run(lambda: service.ledger.set_line(ONE.account, 0, day=DAY))
        assert await room(service, ONE) == CAP  # nothing is owed for what was given
    async with place.open(ONE) as service:
        assert await room(service, ONE) == CAP


@pytest.mark.parametrize(
    ("charge", "kind"),
    [
        (lambda lease: charge_of(lease, TWO), ProtocolError),
        (lambda lease: replace(charge_of(lease, ONE), signature=bytes(64)), CryptoError),
        (lambda lease: charge_of(lease_for(ONE, 8, 5), ONE), ProtocolError),
        (lambda lease: Charge.of(lease, ONE.account, manifest_bytes=9).sign(ONE.key), ProtocolError),
        (lambda lease: Charge("other", lease.record_id(), ONE.account).sign(ONE.key), ProtocolError),
    ],
)
async def test_a_charge_that_does_not_hold_settles_nothing(
    charge: Callable[[Lease], Charge], kind: type[Exception]
) -> None:
    place = Place()
    lease = lease_for(ONE, 1, 5)
    async with place.open(ONE) as service:
        with pytest.raises(kind):
            await service.admission.settle(b"", asker(ONE), [Paid(lease, charge(lease).encode(), 0)])
        assert await room(service, ONE) == CAP


async def test_a_price_below_the_donors_is_refused() -> None:
    place = Place()
    async with place.open(ONE) as service:
        with pytest.raises(CreditError):
            await service.admission.reserve(b"", asker(ONE), replace(wanted(1), rate=CREDIT - 1))
        cheap = lease_of(ONE, DONOR, 1, rate=0)
        with pytest.raises(CreditError):
            await service.admission.settle(b"", asker(ONE), paid(ONE, cheap))


async def test_only_the_newest_device_of_an_account_spends() -> None:
    place = Place()
    old, new = ONE, Actor(9)
    newer = DeviceCert(NETWORK, ONE.account, new.peer_id, 2, (DAY + 9) * DAY_S).sign(ONE.key).encode()
    async with place.open(old, new) as service:
        assert await room(service, old) == CAP
        assert await service.admission.room(Asker(new.peer_id, newer)) == CAP * CREDIT
        assert await room(service, old) == 0
        with pytest.raises(CreditError, match="newer device"):
            await service.admission.reserve(b"", asker(old), wanted(1))


@pytest.mark.parametrize(
    "asked",
    [
        Asker(ONE.peer_id, b""),
        Asker(TWO.peer_id, cert_of(ONE)),
        Asker(ONE.peer_id, cert_of(ONE, days=-1)),
        Asker(ONE.peer_id, cert_of(ONE, days=5000)),
        Asker(ONE.peer_id, cert_of(ONE, 2**32)),
        Asker(ONE.peer_id, cert_of(ONE)[:-1] + b"x"),
    ],
)
async def test_who_shows_no_certificate_that_holds_gets_nothing(asked: Asker) -> None:
    place = Place()
    async with place.open(ONE, TWO) as service:
        assert await service.admission.room(asked) == 0
        with pytest.raises((CreditError, ProtocolError, CryptoError)):
            await service.admission.reserve(b"", asked, wanted(1))


async def test_another_policy_counts_everyone_anew() -> None:
    place = Place()
    async with place.open(ONE, TWO) as service:
        await put(service, place, ONE, 1, CAP)
        await service.set_policy(replace(POLICY, pledge=2 * POLICY.account_cap))
        assert await room(service, TWO) == 0
        await service.set_policy(replace(POLICY, local_line=5))
        assert await room(service, TWO) == CAP


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 150), st.integers(0, 4)), max_size=25), st.booleans()
)
@settings(max_examples=100 if FULL else 15, deadline=None)
def test_the_running_sums_are_those_of_the_rules(steps: list[tuple[int, int, int]], same: bool) -> None:
    """Puts, running uploads, releases and lines of six accounts; after each step the naive sums agree."""

    async def play() -> None:
        place, actors = Place(), [Actor(number) for number in range(1, 7)]
        async with place.open(*actors, same_subnet=same) as service:
            ledger, running = service.ledger, dict[int, int]()
            for number, (who, credits, what) in enumerate(steps):
                actor = actors[who]
                with suppress(CreditError):
                    if what <= 1:
                        await put(service, place, actor, number, credits)
                    elif what == 2:
                        await service.admission.reserve(bytes([who]), asker(actor), wanted(credits))
                        running[who] = credits * CREDIT
                    elif what == 3:
                        service.admission.cancel(bytes([who]))
                        running.pop(who, None)
                    else:
                        await service.admission.run(
                            lambda actor=actor, credits=credits: ledger.set_line(  # type: ignore[misc]
                                actor.account, credits * CREDIT, day=DAY
                            )
                        )
                standings: dict[AccountId, Standing] = {}
                for index, each in enumerate(actors):
                    row = ledger.store.read(lambda view, each=each: view.account(each.account))  # type: ignore[misc]
                    subnet = service.admission.place_of(each.peer_id).subnet
                    standings[each.account] = replace(
                        row.standing, subnet=subnet, unvested=row.standing.unvested + running.get(index, 0)
                    )
                naive = Ledger(POLICY, standings)
                for each in actors:
                    has = naive.decide(each.account, standings[each.account], cost=0, day=DAY).have
                    assert await service.admission.room(asker(each)) == has

    trio.run(play)


KNOWN = POLICY.known // CREDIT
AT_HOME = replace(POLICY, local_line=UNLIMITED)


async def test_repairs_among_neighbours_need_no_credit() -> None:
    place = Place()
    async with place.open(TWO, neighbours=[ONE], policy=AT_HOME) as service:
        for number in range(3):  # each of them alone is more than strangers' repairs may come to
            await repaired(service, place, granted_for(ONE, number, KNOWN + 1), by=ONE)
        # Nobody else is worse off for it: strangers' caps are whole.
        await repaired(service, place, granted_for(THREE, 10, KNOWN - 1), by=TWO)
        with pytest.raises(CreditError, match="left for repairs"):
            await repaired(service, place, granted_for(THREE, 11, 2), by=TWO)
        await repaired(service, place, granted_for(ONE, 12, 10), by=ONE)
    place.crash()
    async with place.open(TWO, neighbours=[ONE], policy=AT_HOME) as service:
        await repaired(service, place, granted_for(ONE, 13, KNOWN + 1), by=ONE)
        with pytest.raises(CreditError, match="left for repairs"):
            await repaired(service, place, granted_for(THREE, 14, 2), by=TWO)


async def test_strangers_repairs_stay_under_their_caps_beside_neighbours() -> None:
    place = Place()
    async with place.open(TWO, neighbours=[ONE], policy=AT_HOME) as service:
        with pytest.raises(CreditError, match="left for repairs"):
            await repaired(service, place, granted_for(THREE, 1, KNOWN + 1), by=TWO)
        await repaired(service, place, granted_for(THREE, 2, KNOWN - 10), by=TWO)
        # A neighbour may bring more of that account's, but frees nothing of what strangers brought.
        await repaired(service, place, granted_for(THREE, 3, 100), by=ONE)
        with pytest.raises(CreditError, match="left for repairs"):
            await repaired(service, place, granted_for(THREE, 4, 20), by=TWO)


async def test_a_neighbour_s_line_ends_where_it_is_drawn() -> None:
    place = Place()
    line = replace(POLICY, local_line=50 * CREDIT)
    async with place.open(neighbours=[ONE], policy=line) as service:
        await repaired(service, place, granted_for(ONE, 1, KNOWN + 40), by=ONE)
        with pytest.raises(CreditError, match="left for repairs"):
            await repaired(service, place, granted_for(ONE, 2, 20), by=ONE)
