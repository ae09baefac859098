"""What a person is told where a segment can't be placed: too few donors, or too little credit. Layer 4.

Source: design.md, section 4 (put); credit.md, "Spending".
"""

from __future__ import annotations

from typing import Final

from node.chunks import placement
from node.chunks.geometry import SegmentGeometry
from node.chunks.put.donors import CreditRefusals
from node.chunks.put.put_context import PutContext
from node.chunks.put.put_summary import file_price, segment_price
from node.credit.units import format_micros
from node.errors import CreditError, NotEnoughPeersError
from node.records.offer import PRICE_MICROCREDITS
from node.units import MIB, format_size

CREDIT_DAYS: Final = 30
"""The days for which a person is told what to give."""


def shortage(
    put: PutContext, segment: SegmentGeometry, *, placed: int, donor_count: int
) -> NotEnoughPeersError | CreditError:
    """Why a segment can't be placed: for want of credit, if that alone stands in the way.

    `placed` is how many of its shards found a place, `donor_count` how many donors can be used.
    """
    need = placement.quorum(segment.code)
    refused = put.donors.credit_refusals
    if refused.donors and placed + refused.shards >= need:
        return _no_credit(put, segment, refused)
    return NotEnoughPeersError(
        f"not enough donors: {donor_count} can be used, with room for {placed} of the {need} shards of "
        f"{format_size(segment.shard_bytes)} that {segment.code} needs at least; try again when "
        "more nodes give space"
    )


def _no_credit(put: PutContext, segment: SegmentGeometry, refused: CreditRefusals) -> CreditError:
    need = file_price(put.geometry, put.lease_days, without=put.placed)
    price = segment_price(segment, put.lease_days) // segment.code.total_shards
    missing = max(price, need - refused.have)
    given_bytes = -(-missing // (CREDIT_DAYS * PRICE_MICROCREDITS)) * MIB
    return CreditError(
        f"not enough credit: this put needs {format_micros(need)} credits and the donors would keep "
        f"{format_micros(refused.have)} for you; give {format_size(given_bytes)} for {CREDIT_DAYS} days "
        "(cairn donate), ask a donor for a line (cairn credit line), or use a smaller --code or --expires"
    )
