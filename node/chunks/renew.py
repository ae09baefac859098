"""Renew and release: further leases on the shards of one's own file, and their end. Layer 4.

Invariants: every lease and release is signed by the file's owner key, which derives from the account
secret and the salt in the file manifest; only the holder that countersigned counts as renewed.
Source: design.md, section 4 (renew, delete).
"""

from __future__ import annotations

from dataclasses import dataclass

from node.ports import Clock, Directory, Entropy, Network, Offload
from node.units import FileHash


@dataclass(frozen=True, slots=True)
class LeaseReport:
    """`leases` counts those that holders countersigned (renew) or ended (release)."""

    file_hash: FileHash
    leases: int
    unreachable_holders: int
    expires_s: int | None


class Renewer:
    """Extends or ends the leases that this account's owner key holds."""

    def __init__(
        self,
        *,
        network: Network,
        directory: Directory,
        clock: Clock,
        entropy: Entropy,
        offload: Offload,
        account_secret: bytes,
    ) -> None:
        raise NotImplementedError

    async def renew(self, file_hash: FileHash, *, duration_s: int) -> LeaseReport:
        """Lease every reachable shard until at least `duration_s` from now.

        Raises `NotFoundError`, and `UsageError` where the file is not this account's.
        """
        raise NotImplementedError

    async def release(self, file_hash: FileHash) -> LeaseReport:
        """End every lease of the file at every reachable holder. Raises as `renew` does."""
        raise NotImplementedError
