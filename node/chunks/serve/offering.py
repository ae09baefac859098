"""What a donor takes: offers of room, and the opening of puts. Layer 4.

Invariants: a node without a cap, one that is leaving and one with a sick disk take nothing; no offer promises
a peer more than it may reserve. Source: design.md, section 4 (put, step 1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from node import limits
from node.chunks import messages
from node.chunks.admission import Admission, Asker
from node.chunks.serve.incoming import BlockFeed, PutTable, RefusalError
from node.chunks.serve.suspension import StoreCare
from node.chunks.store.shard_store import ShardStore, StoreStatistics
from node.crypto.keystore import NodeKeys
from node.ports import Clock, Offload
from node.records.offer import PRICE_MICROCREDITS, Offer
from node.units import HOUR_S, AccountId, PeerId

OFFER_LIFE_S: Final = HOUR_S


class Offering:
    """The room of one donor."""

    def __init__(
        self,
        *,
        store: ShardStore,
        puts: PutTable,
        care: StoreCare,
        keys: NodeKeys,
        network: str,
        clock: Clock,
        offload: Offload,
        uptime_permille: Callable[[], int],
        admission: Admission | None,
        is_leaving: Callable[[], bool],
    ) -> None:
        """The store's cap decides whether this node is a donor at all, `admission` for whom it keeps."""
        self._store = store
        self._puts = puts
        self._care = care
        self._keys = keys
        self._network = network
        self._clock = clock
        self._offload = offload
        self._uptime_permille = uptime_permille
        self._admission = admission
        self._is_leaving = is_leaving

    async def offer(self, request: messages.OfferRequest, peer_id: PeerId) -> messages.OfferReply:
        """What this donor would keep now, and for how much credit. Raises `RefusalError`, `CryptoError`."""
        statistics = await self._check_giving()
        free_bytes = self._puts.room(peer_id, statistics.free_bytes)
        offer = Offer(
            network=self._network,
            donor=self._keys.peer_id,
            account=AccountId(self._keys.account.public),
            free_bytes=free_bytes,
            price=PRICE_MICROCREDITS,
            pledge_left_bytes=free_bytes,
            uptime_permille=self._uptime_permille(),
            cap_bytes=statistics.cap_bytes,
            expires_s=self._clock.now_s() + OFFER_LIFE_S,
        )
        signed = offer.sign(self._keys.identity).encode()
        if self._admission is None:
            return messages.OfferReply(signed)
        room = await self._admission.room(Asker(peer_id, request.payer))
        return messages.OfferReply(signed, min(limits.CREDIT_MICRO_MAX, max(0, room)))

    async def accept_put(self, request: messages.PutOpen, peer_id: PeerId) -> BlockFeed:
        """Reserve. Raises as `PutTable.open` does."""
        await self._check_giving()
        return await self._puts.open(request, peer_id)

    async def _check_giving(self) -> StoreStatistics:
        self._care.check()
        statistics = await self._offload.run(self._store.statistics)
        if statistics.cap_bytes == 0 or self._is_leaving():
            raise RefusalError(messages.REFUSED_NOT_A_DONOR, "this node gives no space")
        return statistics
