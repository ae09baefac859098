"""Credit of one node: the ledger, who is admitted, what is paid. Layer 4.

What the rest of the node sees of credit. Everything that reads or changes the ledger takes turns under one
lock, off the event loop. Nothing here wakes up by itself: exchanges follow contacts.
Source: credit.md.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from node.credit.admission import Policy
from node.credit.admitting import CreditAdmission
from node.credit.ledger import IsAssigned, Ledger
from node.credit.ledger_store import LedgerStore
from node.credit.wallet import Wallet
from node.crypto.keystore import NodeKeys
from node.ports import Clock, KeyValue, Network, Offload
from node.units import LeaseId


class CreditService:
    """One node's credit."""

    def __init__(
        self,
        *,
        network: Network,
        state: KeyValue,
        keys: NodeKeys,
        network_id: str,
        clock: Clock,
        offload: Offload,
        policy: Policy,
        is_assigned: IsAssigned = lambda receipt, lease: False,
    ) -> None:
        """Call `start` before anything else."""
        self._offload = offload
        self._lock = trio.Lock()
        self.ledger = Ledger(
            LedgerStore(state, network_id), me=keys.account_id, peer_id=keys.peer_id, is_assigned=is_assigned
        )
        self._policy = policy
        self.wallet = Wallet(self.ledger, keys, clock)
        self.admission = CreditAdmission(
            self.ledger, network=network, clock=clock, offload=offload, lock=self._lock
        )

    async def start(self, is_kept: Callable[[LeaseId], bool]) -> None:
        """Take up what is on the disk; `is_kept` says whether a lease's shard became durable."""
        await self.set_policy(self._policy)
        await self.admission.recover(is_kept)
        await self._offload.run(self.wallet.device_cert)

    async def set_policy(self, policy: Policy) -> None:
        """Give under these caps from now on."""
        await self.admission.run(lambda: self.ledger.set_policy(policy))
