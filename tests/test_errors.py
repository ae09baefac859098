"""Exit codes and kinds are a contract with scripts."""

from __future__ import annotations

from node import errors


def test_exit_codes_of_the_contract() -> None:
    expected = {
        errors.NodeError: 1,
        errors.UsageError: 2,
        errors.OutputExistsError: 2,
        errors.ConfigError: 3,
        errors.NoDaemonError: 4,
        errors.TransferInterruptedError: 5,
        errors.StoreFullError: 10,
        errors.StoreInUseError: 11,
        errors.WrongPassphraseError: 12,
        errors.NotEnoughShardsError: 20,
        errors.NotEnoughPeersError: 21,
        errors.NotFoundError: 22,
        errors.CreditError: 30,
        errors.UnsafeNameError: 40,
    }
    assert {error: error.exit_code for error in expected} == expected


def test_kinds_are_snake_case_names() -> None:
    assert errors.NotEnoughShardsError("x").kind == "not_enough_shards"
    assert errors.RefusedError("p", "full", "no room").kind == "refused"


def test_a_remote_error_names_the_peer() -> None:
    assert str(errors.UnreachableError("12D3Koo", "no answer")) == "peer 12D3Koo: no answer"
