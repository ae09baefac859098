"""How debts of two accounts cancel, are cleared and lapse. Layer 2, pure.

Debts in both directions cancel, the oldest first. What is left lapses 30 days after it vested if the debtor
never gave this creditor anything, 180 days after otherwise. Source: credit.md, "Spending" (donations).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Protocol

NEWCOMER_LAPSE_DAYS = 30
KNOWN_LAPSE_DAYS = 180


class Dated(Protocol):
    """One direction's claims, as `collect` reads them."""

    @property
    def cleared(self) -> int:
        """What clears collect."""
        ...

    @property
    def dated(self) -> Iterable[tuple[int, int]]:
        """(day it vested, micro-credits), in any order; several of a day may be one."""
        ...


def collect(low: Dated, high: Dated, low_knows: bool, high_knows: bool, today: int) -> tuple[int, int]:
    """What lapses on each side when debts cancel day by day, the oldest first.

    A clear collects the oldest claims, those of later days too if it came first; a debt that one clear
    lowered below nothing is a claim of the debtor that does not lapse.
    """
    open_claims: tuple[deque[list[int]], deque[list[int]]] = (deque(), deque())
    ahead = [low.cleared, high.cleared]
    lapse_days = [KNOWN_LAPSE_DAYS if knows else NEWCOMER_LAPSE_DAYS for knows in (low_knows, high_knows)]
    lapsed = [0, 0]
    news = sorted(
        (day, side, micros) for side, claims in enumerate((low, high)) for day, micros in claims.dated
    )
    for day, side, micros in [*news, (today, 0, 0)]:
        for each in (0, 1):
            while open_claims[each] and open_claims[each][0][0] + lapse_days[each] < day:
                lapsed[each] += open_claims[each].popleft()[1]
        left = micros - min(micros, ahead[side])
        ahead[side] -= micros - left
        # A claim whose other side was cleared below nothing is collected by that first.
        opposite = open_claims[1 - side]
        while left and opposite:
            taken = min(left, opposite[0][1])
            opposite[0][1] -= taken
            left -= taken
            if not opposite[0][1]:
                opposite.popleft()
        if left:
            open_claims[side].append([day, left])
    return lapsed[0], lapsed[1]
