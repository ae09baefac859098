"""Many nodes over an internet in memory, in virtual time."""

from __future__ import annotations

import trio
import trio.testing

from tests.dht.support import multihash_of, open_swarm


async def test_found_by_any_node_on_the_first_try(autojump_clock: trio.testing.MockClock) -> None:
    async with open_swarm(50) as swarm:
        for turn in range(10):
            owner = swarm.nodes[5 + turn]
            key = multihash_of(turn)
            assert await owner.dht.provide([key]) >= 20
            for reader in swarm.nodes[turn::9]:
                if reader is not owner:
                    found = await reader.dht.find_providers(key, wanted=1)
                    assert [contact.peer_id for contact in found] == [owner.network.peer_id]
                    assert found[0].addresses == owner.network.listen_addresses()
