"""The nodes of a large network and what their routing tables hold, drawn only where a lookup looks.

Nodes are numbered in the order of their keys, so that a subtree of the key space is a range of numbers. What
a node's bucket holds follows from the rules of `node.dht.membership` and `routing_table`: an entry that
answers keeps its place, so places go to nodes in proportion to how long they stay; a contact was online when
it was last asked, at most `CONTACT_AGE_S` ago, and may have gone since. Near its own key a node knows
everyone, newcomers included: they look up their own key when they come back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from node import limits
from node.dht.routing_table import RETRY_S
from node.units import Contact, PeerId
from simulations.churn import Profile
from simulations.models.churn import Bits, Churn, Floats, Indexes, mixed, residual_s, uniform

Keys = NDArray[np.uint64]

WORD_BITS = 64
"""Leading bits of a key that order it among a million others: two share them in one network of 2^25."""
CONTACT_AGE_S = limits.DHT_UNSEEN_S + 2 * RETRY_S + limits.DHT_MAINTENANCE_S
"""A silent contact is asked after DHT_UNSEEN_S, and no longer told after the second try that fails."""
JOIN_S = 60.0
"""Who is back for as long is known to its neighbours."""
_SAMPLE = 96
"""Nodes of a subtree that compete for a bucket's places, where it has more."""
_SAMPLE_TURNS = np.arange(_SAMPLE)
_FILLS_REPLY = 64
"""A bucket over a subtree of fewer nodes may not fill a reply: its neighbours are drawn with it."""


class Population:
    """The nodes of one network."""

    def __init__(self, count: int, mix: Sequence[Profile], *, seed: int) -> None:
        self.count = count
        self.seed = seed
        identities = np.random.default_rng([seed, count]).bytes(32 * count)
        words = np.frombuffer(
            b"".join(hashlib.sha256(identities[i : i + 32]).digest()[:8] for i in range(0, 32 * count, 32)),
            ">u8",
        ).astype(np.uint64)
        order = np.argsort(words)
        self.keys: Keys = words[order]
        self._identities = np.frombuffer(identities, np.uint8).reshape(count, 32)[order]
        self.churn = Churn(mix, count, seed=seed)
        kept_s = np.array([residual_s(profile) + CONTACT_AGE_S / 2 for profile in mix])
        self.weights: Floats = kept_s[self.churn.kinds]
        """How long each node keeps a place in a table, in proportion."""

    def contact(self, node: int) -> Contact:
        """A node as lookups know it."""
        return Contact(PeerId(self._identities[node].tobytes()))

    def subtree(self, first_bits: int, length: int) -> range:
        """The nodes whose keys share `length` leading bits with a key of `WORD_BITS` bits."""
        free = WORD_BITS - length
        first = first_bits >> free << free
        low = int(np.searchsorted(self.keys, np.uint64(first)))
        return range(low, int(np.searchsorted(self.keys, np.uint64(first | (1 << free) - 1), side="right")))


class World:
    """A population at one moment: who is online now and was before, and what tables hold."""

    def __init__(self, population: Population, number: int) -> None:
        self.population = population
        self._number = number
        self._contacts: dict[int, Contact] = {}
        self._nodes: dict[PeerId, int] = {}

    def online(self, nodes: Indexes, ago_s: Floats | float = 0.0) -> Bits:
        """Whether each node was online `ago_s` before now."""
        return self.population.churn.online(self._number, nodes, ago_s)

    def is_online(self, node: int, ago_s: float = 0.0) -> bool:
        """Whether a node was online `ago_s` before now."""
        return bool(self.online(np.array([node]), ago_s)[0])

    def contact(self, node: int) -> Contact:
        """A node as lookups know it."""
        known = self._contacts.get(node)
        if known is None:
            known = self._contacts[node] = self.population.contact(node)
            self._nodes[known.peer_id] = node
        return known

    def node_of(self, contact: Contact) -> int:
        """The number of a node that `contact` gave."""
        return self._nodes[contact.peer_id]

    def someone_online(self, label: int, ago_s: float = 0.0) -> int:
        """A random node that was online."""
        for turn in range(10_000):
            draw = mixed(self.population.seed, 50, self._number, label, turn)
            node = int(draw[0] % np.uint64(self.population.count))
            if self.is_online(node, ago_s):
                return node
        raise ValueError("nobody is online in this world")

    def nearest(self, node: int, target: int, count: int, *, ago_s: float = 0.0) -> list[int]:
        """The `count` nodes nearest to `target`'s leading bits that a node's table held, nearest first.

        As `RoutingTable.nearest` chooses: the target's own bucket, then all nearer to the node, then the
        others outwards, which is the order of distance.
        """
        keys = self.population.keys
        index = _shared_bits(int(keys[node]), target)
        depth = self._depth(node)
        if len(self._bucket_range(node, index)) >= _FILLS_REPLY:
            waves = [range(index, index + 1), range(index + 1, depth + 1), range(index)]
        else:
            start = max(0, min(index, depth + 1) - 3)
            waves = [range(start, depth + 1), range(start)]
        found = np.zeros(0, np.int64)
        for buckets in waves:
            found = np.concatenate([found, self._entries(node, buckets, ago_s)])
            if len(found) >= count:
                break
        order = np.argsort(keys[found] ^ np.uint64(target))[:count]
        return [int(member) for member in found[order]]

    def _depth(self, node: int) -> int:
        """The deepest bucket that is not empty."""
        keys = self.population.keys
        beside = [int(keys[i]) for i in (node - 1, node + 1) if 0 <= i < len(keys)]
        return max((_shared_bits(int(keys[node]), key) for key in beside), default=-1)

    def _bucket_range(self, node: int, index: int) -> range:
        key = int(self.population.keys[node])
        if index >= WORD_BITS:
            return range(0)
        return self.population.subtree(key ^ (1 << (WORD_BITS - 1 - index)), index + 1)

    def _entries(self, node: int, buckets: Iterable[int], ago_s: float) -> Indexes:
        """Whom a node would tell of these buckets: up to `DHT_BUCKET_CONTACTS` of each."""
        seed = self.population.seed
        candidates, places, is_all = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.bool_)]
        for index in buckets:
            members = self._bucket_range(node, index)
            if len(members) <= _SAMPLE:
                drawn = np.arange(members.start, members.stop)
            else:
                words = mixed(seed, 51, node, index, _SAMPLE_TURNS)
                drawn = np.unique(members.start + (words % np.uint64(len(members))).astype(np.int64))
            candidates.append(drawn)
            places.append(np.full(len(drawn), index))
            is_all.append(np.full(len(drawn), len(members) <= _SAMPLE))
        nodes, bucket, near = np.concatenate(candidates), np.concatenate(places), np.concatenate(is_all)
        checked_s = CONTACT_AGE_S * uniform(seed, 52, self._number, node, nodes)
        is_told = self.online(nodes, ago_s + checked_s)
        if near.any():
            is_told |= near & self.online(nodes, ago_s) & self.online(nodes, ago_s + JOIN_S)
        nodes, bucket = nodes[is_told], bucket[is_told]
        turn = -np.log(uniform(seed, 53, node, nodes)) / self.population.weights[nodes]
        order = np.lexsort((turn, bucket))
        nodes, bucket = nodes[order], bucket[order]
        rank = np.arange(len(bucket)) - np.searchsorted(bucket, bucket)
        return nodes[rank < limits.DHT_BUCKET_CONTACTS]


def _shared_bits(a: int, b: int) -> int:
    return WORD_BITS - (a ^ b).bit_length()
