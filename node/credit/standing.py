"""How an account stands with a donor, out of their pair's records and the donor's clears. Layer 2, pure.

Invariants: whatever the account may still take back, or can't prove to the donor, does not count as owed to
it: what only co-holders vouch for, what incomplete clears may still collect. Gifts use up the line that pays
for them. Source: credit.md, "Spending".
"""

from __future__ import annotations

from node.credit.admission import Policy, Standing
from node.credit.clearing import ClearBook
from node.credit.pair_ledger import balance, gifted, unvested
from node.credit.pair_records import Pair, Records
from node.units import AccountId


def standing_of(
    account: AccountId,
    pair: Pair,
    records: Records,
    book: ClearBook,
    policy: Policy,
    *,
    today: int,
    uploading: int = 0,
    granted: int = 0,
    line: int = 0,
    is_frozen: bool = False,
    is_local: bool = False,
    subnet: str | None = None,
) -> Standing:
    """The standing of `account` with the other account of `pair`, whose clears are `book`.

    `uploading` is the value, in micro-credits, of leases that are promised and not yet among the records;
    `granted` that of its leases under repair grants that are open, vested or not; `subnet` is where it was
    when its oldest open claim was accepted. Raises `ValueError` if the pair is not that of the two.
    """
    outcome = balance(pair, records, today=today)
    donor = pair.high if account == pair.low else pair.low
    if book.me != donor:
        raise ValueError("the clears of an account that is not of this pair")
    given = outcome.given_by(account)
    return Standing(
        owes=-outcome.confirmed(account),
        unvested=unvested(pair, records, account, today=today) + uploading,
        reserved=book.reserved(donor, account),
        line=max(0, line - gifted(pair, records, account, today=today)),
        is_known=policy.knows(given.total - given.vouched + outcome.given_by(donor).cleared),
        is_frozen=is_frozen,
        is_local=is_local,
        subnet=subnet,
        granted=granted,
    )
