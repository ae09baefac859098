"""What a holder keeps beside segment 0 of a file: placement, file manifest, segment manifests. Layer 4.

Invariants: only the owner key's signature on a placement admits the other kinds; each is checked against the
file hash or the segment that is kept here before it is stored. Source: design.md, section 4 (put, step 6).
"""

from __future__ import annotations

from typing import Final

from node.chunks import messages
from node.chunks.bodies import receive_body
from node.chunks.manifest import FileManifest, SegmentManifest, decode_bundle
from node.chunks.roster import Placement
from node.chunks.serve.incoming import RefusalError
from node.chunks.store.shard_store import AttachmentKind, ShardStore
from node.crypto.hashing import blake3_256
from node.errors import OwnerInconsistentError, ProtocolError
from node.framing import FramedStream
from node.ports import Offload
from node.units import FileHash, PeerId

BODIES_AT_ONCE: Final = 8
"""Attachments received at the same time, one a peer: each is up to 4 MiB in memory."""
_KINDS: Final = {
    messages.ATTACHED_PLACEMENT: AttachmentKind.PLACEMENT,
    messages.ATTACHED_MANIFEST: AttachmentKind.FILE_MANIFEST,
    messages.ATTACHED_BUNDLE: AttachmentKind.SEGMENT_MANIFESTS,
}


class Attachments:
    """The attachments of one holder."""

    def __init__(self, store: ShardStore, offload: Offload, network: str) -> None:
        self._store = store
        self._offload = offload
        self._network = network
        self._attaching: set[PeerId] = set()

    async def attach(self, request: messages.Attach, framed: FramedStream) -> None:
        """Keep an attachment of a file whose segment 0 is held.

        Raises `RefusalError`, `ProtocolError`, `CryptoError`, `StoreError`.
        """
        if request.body_bytes > messages.ATTACHMENT_BYTES_MAX[request.kind]:
            raise ProtocolError(f"{request.body_bytes} bytes are too many for a {request.kind}")
        peer_id = framed.peer_id
        if peer_id in self._attaching or len(self._attaching) >= BODIES_AT_ONCE:
            raise RefusalError(messages.REFUSED_BUSY, "too many attachments at once")
        self._attaching.add(peer_id)
        try:
            body = await receive_body(framed, request.body_bytes)
            await self._offload.run(lambda: self._check_and_keep(request, body))
        finally:
            self._attaching.discard(peer_id)

    async def attachment(self, request: messages.GetAttachment) -> bytes:
        """What is attached. Raises `RefusalError`, `StoreError`."""
        data = await self._offload.run(
            lambda: self._store.attachment(request.file_hash, _KINDS[request.kind])
        )
        if data is None:
            raise RefusalError(messages.REFUSED_MISSING, f"no {request.kind} of that file is here")
        return data

    def _check_and_keep(self, request: messages.Attach, body: bytes) -> None:
        encoded = self._store.segment_manifest(request.segment_id)
        if encoded is None:
            raise RefusalError(messages.REFUSED_MISSING, "segment 0 of that file is not here")
        segment = SegmentManifest.decode(encoded)
        if request.kind == messages.ATTACHED_PLACEMENT:
            self._check_placement(request, body, segment)
        else:
            admitted = self._placement(request.file_hash)
            if admitted is None or admitted.owner_key != segment.owner_key:
                raise ProtocolError("an attachment before the owner's placement")
            self._check_manifests(request, body, segment)
        self._store.set_attachment(request.segment_id, request.file_hash, _KINDS[request.kind], body)

    def _check_placement(self, request: messages.Attach, body: bytes, segment: SegmentManifest) -> None:
        placement = Placement.decode(body, network=self._network)
        placement.check_file(request.file_hash, segment.owner_key)
        known = self._placement(request.file_hash)
        if known is not None and known.sequence > placement.sequence:
            raise RefusalError(messages.REFUSED_INVALID, "a newer placement is here")

    def _check_manifests(self, request: messages.Attach, body: bytes, segment: SegmentManifest) -> None:
        if request.kind == messages.ATTACHED_MANIFEST:
            if blake3_256(body) != request.file_hash:
                raise ProtocolError("another manifest than the file's")
            file = FileManifest.decode(body)
        else:
            encoded = self._store.attachment(request.file_hash, AttachmentKind.FILE_MANIFEST)
            if encoded is None:
                raise ProtocolError("segment manifests before the file's")
            file = FileManifest.decode(encoded)
        try:
            file.check_segment(0, segment)
            if request.kind == messages.ATTACHED_BUNDLE:
                decode_bundle(body, file)
        except OwnerInconsistentError as error:
            raise ProtocolError(str(error)) from error

    def _placement(self, file_hash: FileHash) -> Placement | None:
        data = self._store.attachment(file_hash, AttachmentKind.PLACEMENT)
        return None if data is None else Placement.decode(data, network=self._network)
