"""What all segments of one put share. Layer 4."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from node.chunks.admission import Payer
from node.chunks.client import HolderClient
from node.chunks.erasure import CodingEngine
from node.chunks.geometry import FileGeometry
from node.chunks.pipeline import BufferPool
from node.chunks.put.donors import DonorPool
from node.chunks.put.journal import Journal
from node.chunks.put.journal_queue import JournalQueue
from node.chunks.put.source import Reader
from node.chunks.scores import Scoreboard
from node.crypto.sealing import FileKeys, Suite
from node.crypto.signing import KeyPair
from node.ports import Clock, Entropy, Offload


@dataclass(frozen=True, slots=True)
class PutContext:
    """What all segments of one put share."""

    client: HolderClient
    donors: DonorPool
    journal: Journal
    journal_queue: JournalQueue
    reader: Reader
    read_lock: threading.Lock
    geometry: FileGeometry
    keys: FileKeys
    suite: Suite
    engine: CodingEngine
    buffers: BufferPool
    owner: KeyPair
    lease_days: int
    clock: Clock
    entropy: Entropy
    offload: Offload
    scores: Scoreboard
    stall_s: float
    straggler_s: float
    on_sent: Callable[[int], None]
    placed: set[int]
    """Segments that need nothing more but that their holders are told of each other."""
    payer: Payer | None = None
