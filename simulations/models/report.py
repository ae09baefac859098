"""What a model prints: a table for people, records for programs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """Rows as text, and the same as records."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    records: Sequence[Mapping[str, object]]
    notes: Sequence[str] = ()
    violations: Sequence[str] = ()
    """What must not be and is; empty where the model only measures."""

    def text(self) -> str:
        """Aligned columns, the first to the left."""
        lines = [tuple(self.headings), *map(tuple, self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.headings))]
        shown = [
            "  ".join(
                cell.rjust(w) if i else cell.ljust(w)
                for i, (cell, w) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        ]
        rule = "  ".join("-" * width for width in widths)
        return "\n".join(
            [self.title, "", shown[0], rule, *shown[1:], *(["", *self.notes] if self.notes else [])]
        )


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` percent do not exceed; 0 of none."""
    ordered = sorted(values)
    return float(ordered[max(0, math.ceil(share / 100 * len(ordered)) - 1)]) if ordered else 0.0
