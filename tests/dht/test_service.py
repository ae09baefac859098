"""Many nodes over an internet in memory, in virtual time."""

from __future__ import annotations

from random import Random

import pytest
import trio
import trio.testing

from node import limits
from node.dht import messages
from node.dht.distance import key_of
from node.dht.messages import Message, MessageType
from node.dht.service import DhtSettings
from node.errors import ProtocolError
from node.ports import Stream
from node.units import Contact, Multiaddr, PeerId
from simulations.network import Link
from tests.dht.support import MemoryKeyValue, SwarmNode, contact_of, multihash_of, open_swarm, peer_id_of

KEY = b"/numbered/a"


def _ids(contacts: object) -> set[PeerId]:
    assert isinstance(contacts, list | tuple)
    return {contact.peer_id for contact in contacts}


def _known(node: SwarmNode) -> set[PeerId]:
    return {known.contact.peer_id for known in node.dht.contacts()}


def _told(node: SwarmNode) -> set[PeerId]:
    """Whom a node names to others."""
    return _ids(node.dht._table.nearest(0, 1_000))


async def test_found_by_any_node_on_the_first_try(autojump_clock: trio.testing.MockClock) -> None:
    async with open_swarm(50) as swarm:
        for turn in range(10):
            owner = swarm.nodes[5 + turn]
            key = multihash_of(turn)
            assert await owner.dht.provide([key]) >= 20
            for reader in swarm.nodes[turn::9]:
                if reader is not owner:
                    found = await reader.dht.find_providers(key, wanted=1)
                    assert _ids(found) == {owner.network.peer_id}
                    assert found[0].addresses == owner.network.listen_addresses()
        statistics = owner.dht.statistics()
        assert statistics.joined
        assert 30 < statistics.network_size < 80
        assert statistics.provided_keys == 1


async def test_found_by_a_node_that_has_just_joined_while_most_holders_are_dead(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_swarm(30) as swarm:
        owner = swarm.nodes[7]
        assert await owner.dht.provide([multihash_of(1)]) >= 20
        assert await owner.dht.put_value(KEY, b"1:x") >= 20
        rng = Random(3)
        for node in rng.sample(swarm.nodes[1:], 18):
            if node is not owner:
                await node.stop()
        fresh = await swarm.add(9_999, via=swarm.nodes[0])
        assert _ids(await fresh.dht.find_providers(multihash_of(1), wanted=1)) == {owner.network.peer_id}
        assert await fresh.dht.get_value(KEY) == b"1:x"


async def test_many_keys_at_once_reach_the_nearest_nodes_of_each(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_swarm(30) as swarm:
        owner = swarm.nodes[3]
        keys = [multihash_of(seed) for seed in range(40)]
        sent_before = owner.dht.statistics().requests_sent
        assert await owner.dht.provide(keys) >= limits.DHT_BUCKET_CONTACTS
        assert owner.dht.statistics().requests_sent - sent_before < 40 * 20 / 2  # regions, not single keys
        for key in keys:
            others = [node for node in swarm.nodes if node is not owner]
            others.sort(key=lambda node: key_of(node.network.peer_id) ^ key_of(key))
            for node in others[: limits.DHT_BUCKET_CONTACTS]:
                reply = await node.dht._server.answer(peer_id_of(1), Message(MessageType.GET_PROVIDERS, key))
                assert reply is not None
                assert _ids(reply.providers) == {owner.network.peer_id}


async def test_a_restart_keeps_records_contacts_and_announcements(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_swarm(5) as swarm:
        keeper, owner, reader = swarm.nodes[1:4]
        await owner.dht.provide([multihash_of(1)])
        await owner.dht.put_value(KEY, b"1:x")
        before = keeper.dht.statistics()
        assert before.provider_records == 1
        assert before.value_records == 1
        await keeper.stop()
        again = await swarm.add(1_001, key_values=keeper.key_values)  # nobody tells it a way in
        assert again.network.peer_id == keeper.network.peer_id
        assert await again.dht.wait_joined(30)
        assert again.dht.statistics().provider_records == 1
        for node in (swarm.nodes[0], owner, swarm.nodes[4]):
            await node.stop()
        found = await reader.dht.find_providers(multihash_of(1), wanted=1)
        assert _ids(found) == {owner.network.peer_id}
        assert await reader.dht.get_value(KEY) == b"1:x"


async def test_announcements_go_on_until_stopped_and_then_expire(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_swarm(4) as swarm:
        owner, reader = swarm.nodes[2], swarm.nodes[3]
        keys = [multihash_of(seed) for seed in range(8)]
        await owner.dht.provide(keys)
        await trio.sleep(1.5 * limits.DHT_PROVIDER_EXPIRY_S)
        for key in keys:
            assert _ids(await reader.dht.find_providers(key, wanted=1)) == {owner.network.peer_id}
        await owner.dht.stop_providing(keys[:4])
        await trio.sleep(limits.DHT_PROVIDER_EXPIRY_S + 60)
        for key in keys[:4]:
            assert await reader.dht.find_providers(key, wanted=1) == []
        for key in keys[4:]:
            assert _ids(await reader.dht.find_providers(key, wanted=1)) == {owner.network.peer_id}
        assert reader.dht.statistics().provider_records == 4


async def test_an_announcer_that_was_away_for_days_announces_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_swarm(3) as swarm:
        owner, reader = swarm.nodes[1], swarm.nodes[2]
        keys = [multihash_of(seed) for seed in range(8)]
        await owner.dht.provide(keys)
        await owner.stop()
        await trio.sleep(2 * limits.DHT_PROVIDER_EXPIRY_S)
        assert await reader.dht.find_providers(keys[0], wanted=1) == []
        await swarm.add(1_001, key_values=owner.key_values)
        await trio.sleep(3 * limits.DHT_SWEEP_STEP_S)
        for key in keys:
            assert _ids(await reader.dht.find_providers(key, wanted=1)) == {owner.network.peer_id}


async def test_the_best_value_wins_and_outdated_holders_are_corrected(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_swarm(10) as swarm:
        one, other, reader = swarm.nodes[1], swarm.nodes[2], swarm.nodes[3]
        assert await one.dht.put_value(KEY, b"5:new") == 9
        assert await other.dht.put_value(KEY, b"4:old") == 0  # everyone has a better one
        late = await swarm.add(77, via=swarm.nodes[0])
        await late.dht._server.store_value(KEY, b"3:older", sender_id=late.network.peer_id)
        assert await late.dht.get_value(KEY) == b"5:new"
        assert await reader.dht.get_value(KEY) == b"5:new"
        await trio.sleep(1)
        reply = await late.dht._server.answer(peer_id_of(1), Message(MessageType.GET_VALUE, KEY))
        assert reply is not None
        assert reply.record is not None
        assert reply.record.value == b"5:new"
        with pytest.raises(ProtocolError):
            await one.dht.put_value(KEY, b"no number")
        with pytest.raises(ProtocolError):
            await one.dht.put_value(b"/unknown/x", b"1:x")
        with pytest.raises(ProtocolError):
            await one.dht.provide([b"no multihash"])


async def test_idle_and_garbage_streams_stop_nobody(autojump_clock: trio.testing.MockClock) -> None:
    async with open_swarm(8) as swarm:
        victim, owner, attacker = swarm.nodes[0], swarm.nodes[1], swarm.nodes[2]
        rng = Random(1)
        garbage = [b"", b"\xff" * 100, b"\x05hello", bytes(9), messages.frame(rng.randbytes(500)), b"\x80"]
        streams: list[Stream] = []
        for turn in range(20):
            stream = await attacker.network.open_stream(victim.contact, messages.PROTOCOL)
            data = garbage[turn % len(garbage)]
            if data:
                await stream.send_all(data)
            streams.append(stream)
        assert await owner.dht.provide([multihash_of(1)]) == 7
        assert _ids(await victim.dht.find_providers(multihash_of(1), wanted=1)) == {owner.network.peer_id}
        found = await swarm.nodes[5].dht.find_providers(multihash_of(1), wanted=1)
        assert _ids(found) == {owner.network.peer_id}
        await trio.sleep(limits.DHT_IDLE_S + 1)
        service = victim.network.services[messages.PROTOCOL]
        assert service.open_streams.total() == 0  # none outlives its deadline


async def test_a_stream_carries_several_requests(autojump_clock: trio.testing.MockClock) -> None:
    async with open_swarm(3) as swarm:
        stream = await swarm.nodes[1].network.open_stream(swarm.nodes[0].contact, messages.PROTOCOL)
        requests = [
            Message(MessageType.PING),
            Message(MessageType.FIND_NODE, b"x"),
            Message(MessageType.PING),
        ]
        await stream.send_all(b"".join(messages.frame(messages.encode(request)) for request in requests))
        buffer = bytearray()
        types: list[MessageType] = []
        while len(types) < 3:
            while (data := messages.take_frame(buffer)) is None:
                buffer += await stream.receive_some(65_536)
            types.append(messages.decode(data).type)
        assert types == [request.type for request in requests]


async def test_only_the_sender_can_be_announced_and_quotas_are_seen_by_the_announcer(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_swarm(4) as swarm:
        server = swarm.nodes[0].dht._server
        foreign = Message(MessageType.ADD_PROVIDER, multihash_of(1), providers=(contact_of(5),))
        with pytest.raises(ProtocolError):
            await server.answer(peer_id_of(6), foreign)
        monkeypatch.setattr(limits, "DHT_PROVIDER_RECORDS_PER_PEER_MAX", 2)
        owner = swarm.nodes[1].dht
        assert await owner.provide([multihash_of(1), multihash_of(2)]) == 3
        assert await owner.provide([multihash_of(3)]) == 0
        assert await owner.provide([multihash_of(2)]) == 3  # refreshing is no growth


async def test_client_mode_asks_and_is_in_nobody_s_table(autojump_clock: trio.testing.MockClock) -> None:
    async with open_swarm(6) as swarm:
        client = await swarm.add(500, via=swarm.nodes[0], settings=DhtSettings(serve=False))
        await swarm.nodes[1].dht.provide([multihash_of(1)])
        found = await client.dht.find_providers(multihash_of(1), wanted=1)
        assert _ids(found) == {swarm.nodes[1].network.peer_id}
        await trio.sleep(60)
        assert all(client.network.peer_id not in _known(node) for node in swarm.nodes)
        client.dht.set_serving(True)
        await trio.sleep(limits.DHT_LEFT_ALONE_S)
        await client.dht.refresh()
        await trio.sleep(1)
        assert all(client.network.peer_id in _known(node) for node in swarm.nodes[:6])
        client.dht.set_serving(False)
        await trio.sleep(3 * limits.DHT_UNSEEN_S)
        assert all(client.network.peer_id not in _told(node) for node in swarm.nodes)


async def test_who_was_only_heard_of_is_in_no_table(autojump_clock: trio.testing.MockClock) -> None:
    async with open_swarm(3) as swarm:
        node = swarm.nodes[1]
        for seed in range(50_000, 50_100):
            node.dht.add_contact(contact_of(seed))
        await trio.sleep(30)
        assert _known(node) == {swarm.nodes[0].network.peer_id, swarm.nodes[2].network.peer_id}


async def test_peers_are_found_by_id_and_forgotten_when_dead(autojump_clock: trio.testing.MockClock) -> None:
    async with open_swarm(12) as swarm:
        sought = swarm.nodes[7]
        found = await swarm.nodes[4].dht.find_peer(sought.network.peer_id)
        assert found == sought.contact
        assert await swarm.nodes[4].dht.find_peer(peer_id_of(123_456)) is None
        await sought.stop()
        await trio.sleep(2 * limits.DHT_UNSEEN_S)
        assert all(sought.network.peer_id not in _told(node) for node in swarm.nodes if node is not sought)


async def test_a_peer_that_came_back_at_another_address_is_named_where_it_is(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A home's address changes; whoever has the peer in its table hears of it as soon as it is back."""
    async with open_swarm(12) as swarm:
        await swarm.nodes[7].stop()
        again = await swarm.add(1_007, via=swarm.nodes[0], address=Multiaddr("/ip4/10.9.9.9/tcp/4001"))
        assert again.contact.addresses != swarm.nodes[7].contact.addresses
        await trio.sleep(limits.DHT_LEFT_ALONE_S)
        for node in (swarm.nodes[1], swarm.nodes[4]):
            assert await node.dht.find_peer(again.network.peer_id) == again.contact
        # By whoever never heard of it before, too, so they don't name the old one to others.
        stranger = await swarm.add(5_000, via=swarm.nodes[0])
        assert await stranger.dht.find_peer(again.network.peer_id) == again.contact


async def test_a_sample_reaches_everyone_and_never_this_node(autojump_clock: trio.testing.MockClock) -> None:
    async with open_swarm(26) as swarm:
        node = swarm.nodes[8]
        some = await node.dht.sample_contacts(10)
        assert len(_ids(some)) == 10
        everyone = await node.dht.sample_contacts(1_000)
        assert len(_ids(everyone)) >= 23
        assert node.network.peer_id not in _ids(everyone)
        assert all(contact.addresses for contact in everyone)


async def test_a_sample_of_a_few_asks_each_of_them_twice(autojump_clock: trio.testing.MockClock) -> None:
    async with open_swarm(8) as swarm:
        node = swarm.nodes[3]
        before = node.dht.statistics().requests_sent
        assert len(_ids(await node.dht.sample_contacts(1_000))) == 7
        assert node.dht.statistics().requests_sent - before <= 2 * 7


async def test_silent_peers_do_not_hold_a_lookup_up(autojump_clock: trio.testing.MockClock) -> None:
    async with open_swarm(20) as swarm:
        owner, reader = swarm.nodes[3], swarm.nodes[11]
        await owner.dht.provide([multihash_of(1)])
        silent = [node.network.peer_id for node in swarm.nodes[12:]]
        for peer_id in silent:
            for node in swarm.nodes[:12]:
                swarm.internet.set_link(peer_id, node.network.peer_id, Link(latency_s=100.0))
        start_s = trio.current_time()
        assert _ids(await reader.dht.find_providers(multihash_of(1), wanted=1)) == {owner.network.peer_id}
        assert await reader.dht.find_providers(multihash_of(2), wanted=1) == []
        assert trio.current_time() - start_s <= 3 * limits.DHT_LOOKUP_SLOW_S


async def test_a_lone_node_answers_from_what_it_has(autojump_clock: trio.testing.MockClock) -> None:
    async with open_swarm(1) as swarm:
        (node,) = swarm.nodes
        assert not await node.dht.wait_joined(5)
        assert await node.dht.provide([multihash_of(1)]) == 0
        assert await node.dht.put_value(KEY, b"1:x") == 0
        assert await node.dht.get_value(KEY) == b"1:x"
        assert await node.dht.find_providers(multihash_of(1), wanted=5) == []
        assert await node.dht.sample_contacts(5) == []
        late = await swarm.add(55, via=node)
        assert await late.dht.get_value(KEY) == b"1:x"
        assert _ids(await late.dht.find_providers(multihash_of(1), wanted=1)) == {node.network.peer_id}


async def test_a_crowd_around_a_key_does_not_hide_its_providers(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """22 identities nearer to the key than any honest node, known to everyone, that store nothing."""
    async with open_swarm(30, seed=4) as swarm:
        key = multihash_of(1)
        place = key_of(key)
        honest = min(key_of(node.network.peer_id) ^ place for node in swarm.nodes)
        seeds = (seed for seed in range(10**6, 10**7) if key_of(peer_id_of(seed)) ^ place < honest // 2)
        for _ in range(22):
            sybil = await swarm.add(next(seeds), via=swarm.nodes[0])
            sybil.dht._server.answer = _forgetful(sybil)  # type: ignore[method-assign]
        await trio.sleep(20)  # the first nodes learn how many came after them
        owner, reader = swarm.nodes[5], swarm.nodes[25]
        await owner.dht.provide([key])
        lookup = await reader.dht._finder.find_nodes(key)
        nearest = {contact.peer_id for contact in lookup.closest()[:20]}
        assert not nearest & {node.network.peer_id for node in swarm.nodes[:30]}  # the eclipse is complete
        assert _ids(await reader.dht.find_providers(key, wanted=1)) == {owner.network.peer_id}


def _forgetful(node: SwarmNode):  # type: ignore[no-untyped-def]
    """A server that takes announcements and keeps none."""
    honest = node.dht._server.answer

    async def answer(sender_id: PeerId, request: Message) -> Message | None:
        if request.type is MessageType.ADD_PROVIDER:
            return None
        return await honest(sender_id, request)

    return answer


async def test_one_subnet_does_not_fill_the_tables(autojump_clock: trio.testing.MockClock) -> None:
    async with open_swarm(6) as swarm:
        for turn in range(15):
            address = Multiaddr(f"/ip4/8.8.4.{turn + 1}/tcp/4001")
            await swarm.add(700 + turn, via=swarm.nodes[0], address=address)
        crowd = {node.network.peer_id for node in swarm.nodes[6:]}
        for node in swarm.nodes[:6]:
            assert len(_known(node) & crowd) <= limits.DHT_SUBNET_TABLE_MAX
            assert len(_known(node) - crowd) == 5


async def test_a_peer_that_breaks_streams_over_unknown_keys_still_leads_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_swarm(5) as swarm:
        odd, owner = swarm.nodes[0], swarm.nodes[1]
        await owner.dht.provide([multihash_of(1)])
        honest = odd.dht._server.answer

        async def answer(sender_id: PeerId, request: Message) -> Message | None:
            if request.type in (MessageType.GET_PROVIDERS, MessageType.ADD_PROVIDER):
                raise ProtocolError("a key of no known kind")
            return await honest(sender_id, request)

        odd.dht._server.answer = answer  # type: ignore[method-assign]
        fresh = await swarm.add(321, via=odd)
        for _ in range(5):
            found = await fresh.dht.find_providers(multihash_of(1), wanted=1)
            assert _ids(found) == {owner.network.peer_id}
        assert odd.network.peer_id in _known(fresh)


async def test_runs_do_not_start_without_tables_and_stop_cleanly(
    autojump_clock: trio.testing.MockClock,
) -> None:
    key_values = MemoryKeyValue()
    async with open_swarm(2) as swarm:
        node = await swarm.add(50, via=swarm.nodes[0], key_values=key_values)
        await node.stop()
        assert Contact(swarm.nodes[0].network.peer_id, swarm.nodes[0].network.listen_addresses()) in (
            node.dht._store.contacts()
        )
