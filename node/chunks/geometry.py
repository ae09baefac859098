"""Where every byte of a file lies: segments, stripes, blocks, shards. Layer 2, pure integers.

Invariants: a file's length and code fix its whole geometry, so no manifest can state it twice; every stripe
but the last of a file is full; the last one uses the smallest block, a multiple of 64 bytes, that holds its
rest and the AEAD tag; an empty file has one segment with one stripe of empty plaintext.
Source: design.md, section 2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from node import limits
from node.errors import UsageError

BLOCK_BYTES: Final = limits.BLOCK_BYTES
SEGMENT_STRIPES: Final = limits.SEGMENT_STRIPES
TAG_BYTES: Final = 16
"""What sealing adds to a stripe's plaintext."""


@dataclass(frozen=True, slots=True, order=True)
class Code:
    """An erasure code: any `data_shards` of `total_shards` shards restore a segment.

    Raises `UsageError` unless 1 <= data_shards <= total_shards <= 255.
    """

    data_shards: int
    total_shards: int

    def __post_init__(self) -> None:
        if not 1 <= self.data_shards <= self.total_shards <= limits.TOTAL_SHARDS_MAX:
            raise UsageError(
                f"the code {self.data_shards}/{self.total_shards} is not possible: write data shards/total "
                f"shards, like 10/30, with at most {limits.TOTAL_SHARDS_MAX} in total"
            )

    @classmethod
    def parse(cls, text: str) -> Code:
        """The code written `10/30`. Raises `UsageError`."""
        match = re.fullmatch(r"([0-9]{1,3})/([0-9]{1,3})", text.strip())
        if match is None:
            raise UsageError(f"{text!r} is not a code: write data shards/total shards, like 10/30")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.data_shards}/{self.total_shards}"

    @property
    def parity_shards(self) -> int:
        """How many shards may be lost."""
        return self.total_shards - self.data_shards

    @property
    def stripe_plaintext_bytes(self) -> int:
        """Plaintext bytes of a full stripe."""
        return self.data_shards * BLOCK_BYTES - TAG_BYTES

    @property
    def segment_plaintext_bytes(self) -> int:
        """Plaintext bytes of a full segment."""
        return SEGMENT_STRIPES * self.stripe_plaintext_bytes

    @property
    def file_plaintext_bytes_max(self) -> int:
        """The largest file that this code can describe."""
        return limits.SEGMENTS_MAX * self.segment_plaintext_bytes


@dataclass(frozen=True, slots=True)
class SegmentGeometry:
    """Lengths within one segment, a function of its plaintext length and the code."""

    code: Code
    plaintext_bytes: int

    def __post_init__(self) -> None:
        if not 0 <= self.plaintext_bytes <= self.code.segment_plaintext_bytes:
            raise UsageError(
                f"a segment at {self.code} carries 0 to {self.code.segment_plaintext_bytes} bytes, "
                f"not {self.plaintext_bytes}"
            )

    @property
    def stripe_count(self) -> int:
        """1 to `SEGMENT_STRIPES`."""
        return max(1, -(-self.plaintext_bytes // self.code.stripe_plaintext_bytes))

    @property
    def last_block_bytes(self) -> int:
        """Length of a block of the last stripe: a multiple of 64, at most `BLOCK_BYTES`."""
        sealed_bytes = self.stripe_plaintext_bytes(self.stripe_count - 1) + TAG_BYTES
        unit = self.code.data_shards * limits.BLOCK_ALIGN_BYTES
        return -(-sealed_bytes // unit) * limits.BLOCK_ALIGN_BYTES

    @property
    def shard_bytes(self) -> int:
        """Bytes of one shard: all blocks of one column."""
        return (self.stripe_count - 1) * BLOCK_BYTES + self.last_block_bytes

    @property
    def stored_bytes(self) -> int:
        """Bytes of all shards together."""
        return self.code.total_shards * self.shard_bytes

    def block_bytes(self, stripe_index: int) -> int:
        """Length of each block of a stripe. Raises `IndexError`."""
        self._check_stripe(stripe_index)
        return BLOCK_BYTES if stripe_index < self.stripe_count - 1 else self.last_block_bytes

    def stripe_plaintext_bytes(self, stripe_index: int) -> int:
        """Plaintext bytes of a stripe. Raises `IndexError`."""
        self._check_stripe(stripe_index)
        full = self.code.stripe_plaintext_bytes
        return min(full, self.plaintext_bytes - stripe_index * full)

    def _check_stripe(self, stripe_index: int) -> None:
        if not 0 <= stripe_index < self.stripe_count:
            raise IndexError(f"stripe {stripe_index} of a segment of {self.stripe_count}")


@dataclass(frozen=True, slots=True)
class StripeSpan:
    """The part of one stripe's plaintext that a byte range wants: `start` to `stop` within the stripe."""

    segment_index: int
    stripe_index: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class FileGeometry:
    """Lengths within one file, a function of its length and the code."""

    code: Code
    plaintext_bytes: int

    def __post_init__(self) -> None:
        if not 0 <= self.plaintext_bytes <= self.code.file_plaintext_bytes_max:
            raise UsageError(
                f"a file at {self.code} has 0 to {self.code.file_plaintext_bytes_max} bytes, "
                f"not {self.plaintext_bytes}: choose a code with more data shards"
            )

    @classmethod
    def of(cls, length: int, code: Code) -> FileGeometry:
        """The geometry of `length` bytes. Raises `UsageError` if the code can't describe so many."""
        return cls(code, length)

    @property
    def segment_count(self) -> int:
        """1 to `SEGMENTS_MAX`."""
        return max(1, -(-self.plaintext_bytes // self.code.segment_plaintext_bytes))

    @property
    def stripe_count(self) -> int:
        """Stripes of all segments."""
        return max(1, -(-self.plaintext_bytes // self.code.stripe_plaintext_bytes))

    @property
    def stored_bytes(self) -> int:
        """Bytes of all shards of all segments."""
        full = SegmentGeometry(self.code, min(self.plaintext_bytes, self.code.segment_plaintext_bytes))
        return (self.segment_count - 1) * full.stored_bytes + self.segment(
            self.segment_count - 1
        ).stored_bytes

    def segment(self, segment_index: int) -> SegmentGeometry:
        """The geometry of one segment. Raises `IndexError`."""
        offset = self.segment_offset(segment_index)
        return SegmentGeometry(
            self.code, min(self.code.segment_plaintext_bytes, self.plaintext_bytes - offset)
        )

    def segment_offset(self, segment_index: int) -> int:
        """Where a segment's plaintext begins in the file. Raises `IndexError`."""
        if not 0 <= segment_index < self.segment_count:
            raise IndexError(f"segment {segment_index} of a file of {self.segment_count}")
        return segment_index * self.code.segment_plaintext_bytes

    def stripe_offset(self, segment_index: int, stripe_index: int) -> int:
        """Where a stripe's plaintext begins in the file. Raises `IndexError`."""
        self.segment(segment_index).block_bytes(stripe_index)  # refuses a stripe that does not exist
        return self.segment_offset(segment_index) + stripe_index * self.code.stripe_plaintext_bytes

    def stripes_of_range(self, start: int, stop: int) -> Iterator[StripeSpan]:
        """The stripes, in order, that carry the bytes `start` to `stop` (exclusive).

        Raises `IndexError` unless 0 <= start <= stop <= length. An empty range needs no stripe.
        """
        if not 0 <= start <= stop <= self.plaintext_bytes:
            raise IndexError(f"bytes {start} to {stop} of a file of {self.plaintext_bytes}")
        return self._spans(start, stop)

    def _spans(self, start: int, stop: int) -> Iterator[StripeSpan]:
        full = self.code.stripe_plaintext_bytes
        while start < stop:
            number = start // full
            begin = start - number * full
            end = min(full, stop - number * full)
            yield StripeSpan(*divmod(number, SEGMENT_STRIPES), begin, end)
            start += end - begin
