"""What moves files, put together: put, get, health, renewal. Layer 5."""

from __future__ import annotations

from dataclasses import dataclass

from node.chunks.get.download import Downloader
from node.chunks.get.health import HealthChecker
from node.chunks.get.renew import Renewer
from node.chunks.put.put_file import PutServices
from node.chunks.put.upload import Uploader
from node.credit.service import CreditService
from node.daemon.parts import Parts


@dataclass(frozen=True, slots=True)
class Transfers:
    """All that a person does with files."""

    uploader: Uploader
    downloader: Downloader
    health: HealthChecker
    renewer: Renewer


def build_transfers(parts: Parts, credit: CreditService) -> Transfers:
    """The parts, wired; `credit` pays for what is stored, and signs for what is read."""
    client, known_holders = parts.client(), parts.catalogue.holders
    return Transfers(
        uploader=Uploader(
            PutServices(
                network=parts.network,
                client=client,
                directory=parts.dht,
                catalogue=parts.catalogue,
                clock=parts.clock,
                entropy=parts.entropy,
                offload=parts.offload,
                engine=parts.engine,
                account_seed=parts.keys.account.seed,
                scores=parts.scores,
                payer=credit.wallet,
            ),
            parts.files,
        ),
        downloader=Downloader(
            client=client,
            directory=parts.dht,
            clock=parts.clock,
            offload=parts.offload,
            engine=parts.engine,
            scores=parts.scores,
            known_holders=known_holders,
            reader=credit.serving if parts.config.credit.receipts else None,
        ),
        health=HealthChecker(
            client=client,
            directory=parts.dht,
            clock=parts.clock,
            entropy=parts.entropy,
            scores=parts.scores,
            known_holders=known_holders,
        ),
        renewer=Renewer(
            client=client,
            directory=parts.dht,
            clock=parts.clock,
            entropy=parts.entropy,
            scores=parts.scores,
            account_seed=parts.keys.account.seed,
            known_holders=known_holders,
            payer=credit.wallet,
        ),
    )
