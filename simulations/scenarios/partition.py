"""The network falls apart and comes together again: islands, links that work one way, resets, slow lines.

Last it falls in two for so long that each half takes the other for dead and makes its shards again. When the
halves meet, every shard must come down to one holder.
"""

from __future__ import annotations

from random import Random

from node.chunks.geometry import Code
from node.units import HOUR_S, MIB, MINUTE_S
from simulations.afterwards import check_healed, check_one_copy
from simulations.faults import Fault
from simulations.host import HostSettings
from simulations.scenario import BRISK, JOIN_S, Plan, Scenario
from simulations.workload import Actions, Workload
from simulations.world import World

SPLIT_S = 2.25 * HOUR_S
"""A holder counts as dead after an hour; audits, turns and the remaking take what is left."""
MEETS_WITHIN_S = 4 * HOUR_S


def _plan(random: Random, brief: bool) -> Plan:
    count = 8 if brief else 12
    short_s = (0.3 if brief else 1.5) * HOUR_S
    faults = []
    at_s = JOIN_S + 60.0
    while at_s < short_s - 600:
        lasts_s = random.uniform(20, 600)
        island = tuple(sorted(random.sample(range(count), random.randrange(1, count // 2 + 1))))
        kind = random.choice(["partition", "one-way"])
        faults.append(Fault(at_s, kind, random.randrange(count), lasts_s=lasts_s, others=island))
        at_s += lasts_s + random.uniform(60, 600)
    split_s = max(short_s, at_s) + 10 * MINUTE_S
    half = tuple(sorted(random.sample(range(count), count // 2)))
    faults.append(Fault(split_s, "partition", half[0], lasts_s=SPLIT_S, others=half))
    duration_s = split_s + SPLIT_S + 5 * MINUTE_S
    for _ in range(6 if brief else 40):
        host, *others = random.sample(range(count), 4)
        faults.append(Fault(random.uniform(JOIN_S, duration_s), "reset", host, others=tuple(others)))
    for _ in range(2 if brief else 8):
        faults.append(
            Fault(
                random.uniform(JOIN_S, split_s), "slow-link", random.randrange(count),
                lasts_s=random.uniform(60, 900), amount=random.uniform(0.1, 0.8),
            )
        )  # fmt: skip
    return Plan(
        hosts=[HostSettings(donated_bytes=64 * MIB, config=BRISK) for _ in range(count)],
        faults=sorted(faults, key=lambda fault: fault.at_s),
        duration_s=duration_s,
        workload=Workload(code=Code(2, 6), mean_pause_s=240, files_max=16),
        judge=_judge,
    )


async def _judge(world: World, actions: Actions, random: Random) -> None:
    """Both halves have repaired; what is too much goes, and nothing that is needed."""
    await check_one_copy(world, within_s=MEETS_WITHIN_S)
    await check_healed(world, actions, random, within_s=MEETS_WITHIN_S, missing_max=0)


SCENARIO = Scenario("partition", "islands, one-way links, slow lines, and two halves that both repair", _plan)
