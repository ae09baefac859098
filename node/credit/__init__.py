"""Storage credit: pair ledgers, clearing, admission, reputation."""
