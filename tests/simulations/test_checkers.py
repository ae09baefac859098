"""The checkers look at nodes without changing what they do next, and take twins for what they are."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import trio

from node.daemon.compose import NETWORK_ID
from node.records.lease import Lease, granted_nonce
from node.records.repair import RepairGrant
from node.units import HOUR_S
from simulations.afterwards import settle_accounts
from simulations.checkers import NetsAgree
from simulations.workload import Actions
from simulations.world import World
from tests.simulations.pair_of_hosts import run_with_two


def test_looking_at_balances_moves_no_book_ahead_of_its_ledger() -> None:
    async def act(world: World, actions: Actions) -> None:
        donor, putter = world.hosts
        assert await actions.put(putter, Random(0)) is not None
        assert donor.node is not None
        assert putter.node is not None
        putter.node.credit.ledger.today(donor.node.credit.admission.day + 1)  # its clock is fast
        await settle_accounts(world)
        NetsAgree().finish(world)
        assert world.figures.counts["pairs with one set of records"] > 0
        ledger, other = donor.node.credit.ledger, putter.keys.account_id
        day = donor.node.credit.admission.day
        ledger.update(lambda change: ledger.refresh(change, other, day=day))
        assert not world.violations

    run_with_two(act)


def test_a_last_copy_is_given_up_in_good_faith_only_right_after_the_other_was_lost() -> None:
    async def act(world: World, actions: Actions) -> None:
        holder, other = world.hosts
        file = await actions.put(other, Random(0))
        assert file is not None
        (segment_id,) = file.segments
        name = (segment_id, 0)
        (lease,) = world.promises.leases[holder.peer_id][name].values()
        assert holder.node is not None
        world.promises.leases[other.peer_id] = {name: {lease.lease_id: lease}}
        other.is_gone, other.gone_s = True, trio.current_time()
        assert world.promises.holders(name) == [holder.peer_id]
        assert holder.node.store.end_lease(lease.lease_id)
        assert not world.violations
        world.promises.leases[holder.peer_id] = {name: {lease.lease_id: lease}}
        await trio.sleep(HOUR_S)
        world.promises.give_up(holder, lease.lease_id)
        assert [violation.checker for violation in world.violations] == ["promises kept"]

    run_with_two(act)


def test_two_repairers_of_one_loss_are_told_from_one_that_takes_what_is_there() -> None:
    async def act(world: World, actions: Actions) -> None:
        holder, putter = world.hosts
        file = await actions.put(putter, Random(0))
        assert file is not None
        assert holder.node is not None
        (segment_id,) = file.segments
        encoded = holder.node.store.grant(segment_id)
        assert encoded is not None
        grant = RepairGrant.decode(encoded, network=NETWORK_ID)
        held = world.promises.leases[holder.peer_id][segment_id, 0]
        (first,) = held.values()

        def of_generation(number: int) -> Lease:
            return replace(first, nonce=granted_nonce(number, bytes(12))).under_grant(grant)

        held[first.lease_id] = of_generation(1)
        world.promises.on_granted(putter, of_generation(1))
        assert not world.violations
        world.promises.on_granted(putter, of_generation(2))
        assert [violation.checker for violation in world.violations] == ["evidence"]

    run_with_two(act)
