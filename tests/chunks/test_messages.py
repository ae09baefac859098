"""The table of messages: what is encoded decodes to the same, everything else is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import limits, tagged, wire
from node.chunks import messages
from node.errors import ProtocolError
from node.units import FileHash, LeaseId, SegmentId

ID = SegmentId(b"i" * 32)
EXAMPLES: list[messages.Message] = [
    messages.OfferRequest(10, 3),
    messages.OfferRequest(10, 3, b"payer"),
    messages.OfferReply(b"record"),
    messages.OfferReply(b"record", 5),
    messages.PutOpen(messages.PutId(b"p" * 16), 10, 30, limits.BLOCK_BYTES, 64, 64, (0, 29)),
    messages.PutResume(messages.PutId(b"p" * 16)),
    messages.PutAccepted((0, 64)),
    messages.PutClose(messages.PutId(b"p" * 16), b"manifest", 100),
    messages.PutAbort(messages.PutId(b"p" * 16)),
    messages.LeaseQuery(ID, (LeaseId(b"l" * 16),)),
    messages.Renew(ID, 5),
    messages.Renew(ID, 5, b"payer"),
    messages.Attach(messages.ATTACHED_BUNDLE, FileHash(bytes(32)), ID, 5),
    messages.RosterMerge(ID, 0),
    messages.GiveGrant(ID, b"grant"),
    messages.Announce((FileHash(bytes(32)),), (ID,)),
    messages.Release((b"a", b"b")),
    messages.GetManifest(ID),
    messages.ManifestReply(b"manifest", (1, 2)),
    messages.GetAttachment(messages.ATTACHED_MANIFEST, FileHash(bytes(32))),
    messages.GetRoster(ID),
    messages.GetGrant(ID),
    messages.GrantReply(b"grant"),
    messages.GetShard(ID, 254),
    messages.ShardReply(bytes(64)),
    messages.ShardReply(bytes(64), bytes(16)),
    messages.Served(b"receipt"),
    messages.ReadBlocks(ID, 0, (0, 63)),
    messages.Prove(ID, 0, 63),
    messages.BlockMissing(0, messages.REFUSED_CORRUPT),
    messages.Body(0),
    messages.Done(7),
]

values: st.SearchStrategy[wire.Value] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=40)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=6),
    max_leaves=12,
)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_every_message_survives_the_wire(message: messages.Message) -> None:
    received = wire.decode(wire.encode(messages.encode(message)), size_max=limits.FRAME_BYTES_MAX)
    assert messages.decode(received) == message


def test_every_message_is_tried() -> None:
    assert {type(message) for message in EXAMPLES} == set(messages.TABLE.tags)


@given(st.sampled_from(sorted(messages.TABLE.rows)), st.lists(values, max_size=8))
def test_anything_else_is_refused_or_within_bounds(tag: str, fields: list[wire.Value]) -> None:
    try:
        message = messages.decode([tag, *fields])
    except ProtocolError:
        return
    assert list(wire.decode(wire.encode(messages.encode(message)), size_max=2**20)) == [tag, *fields]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_missing_or_surplus_field_is_refused(message: messages.Message) -> None:
    encoded = messages.encode(message)
    assert isinstance(encoded, list)
    for wrong in (encoded[:-1], [*encoded, 0]):
        with pytest.raises(ProtocolError):
            messages.decode(wrong)


@given(st.lists(st.binary(max_size=100), max_size=20))
def test_records_in_a_body(records: list[bytes]) -> None:
    body = tagged.pack_records(records)
    assert messages.unpack_records(body, count_max=20) == tuple(records)
    if records:
        with pytest.raises(ProtocolError):
            messages.unpack_records(body, count_max=len(records) - 1)
