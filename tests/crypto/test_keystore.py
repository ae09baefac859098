"""The keystore on a real disk: what is kept, what a wrong passphrase and a damaged file say."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node import wire
from node.crypto import keystore
from node.crypto.keystore import KEYSTORE_PATH, NodeKeys, Sealing
from node.crypto.passwords import PasswordCost
from node.errors import StoreError, UsageError, WrongPassphraseError
from node.system.disk import DiskFiles
from node.system.entropy import SystemEntropy

CHEAP = PasswordCost(memory_kib=8, passes=1)
ENTROPY = SystemEntropy()
KEYS = NodeKeys.of(bytes(32), bytes(range(32)))
SEALING = Sealing(bytes(16), CHEAP, bytes(24))


@pytest.fixture
def files(tmp_path: Path) -> DiskFiles:
    return DiskFiles(tmp_path / "home")


def open_store(files: DiskFiles, passphrase: str | None = None) -> NodeKeys:
    return keystore.open_or_create(files, ENTROPY, passphrase, cost=CHEAP)


@pytest.mark.parametrize("passphrase", [None, "open sesame"])
def test_keys_are_made_once_and_kept(files: DiskFiles, passphrase: str | None) -> None:
    keys = open_store(files, passphrase)
    assert open_store(files, passphrase) == keys
    assert keys.identity.public != keys.account.public
    assert keys.account_id == keys.account.public
    assert len(keys.words) == 24
    assert files.list(KEYSTORE_PATH.parent) == [str(KEYSTORE_PATH)]


def test_only_its_user_reads_the_file(files: DiskFiles) -> None:
    open_store(files)
    assert (files.root / KEYSTORE_PATH).stat().st_mode & 0o777 == 0o600


def test_a_sealed_keystore_shows_no_secret(files: DiskFiles) -> None:
    keys = open_store(files, "open sesame")
    data = files.read(KEYSTORE_PATH)
    assert data is not None
    for secret in (keys.identity.seed, keys.account_entropy, keys.account.seed):
        assert secret not in data


def test_a_wrong_passphrase_is_said_and_changes_nothing(files: DiskFiles) -> None:
    keys = open_store(files, "open sesame")
    before = files.read(KEYSTORE_PATH)
    with pytest.raises(WrongPassphraseError, match="does not open") as caught:
        open_store(files, "open barley")
    assert caught.value.exit_code == 12
    with pytest.raises(WrongPassphraseError, match="give its passphrase"):
        open_store(files)
    with pytest.raises(WrongPassphraseError):
        keystore.replace_account(files, ENTROPY, " ".join(KEYS.words), "open barley", cost=CHEAP)
    assert files.read(KEYSTORE_PATH) == before
    assert open_store(files, "open sesame") == keys


def test_a_passphrase_for_an_open_keystore_is_not_taken_for_granted(files: DiskFiles) -> None:
    open_store(files)
    with pytest.raises(WrongPassphraseError, match="has no passphrase"):
        open_store(files, "open sesame")


def test_a_phrase_brings_the_account_and_leaves_the_identity(files: DiskFiles) -> None:
    before = open_store(files, "open sesame")
    after = keystore.replace_account(files, ENTROPY, " ".join(KEYS.words), "open sesame", cost=CHEAP)
    assert after.account == KEYS.account
    assert after.words == KEYS.words
    assert after.peer_id == before.peer_id
    assert open_store(files, "open sesame") == after


def test_a_phrase_makes_a_keystore_in_an_empty_home(files: DiskFiles) -> None:
    keys = keystore.replace_account(files, ENTROPY, " ".join(KEYS.words), cost=CHEAP)
    assert keys.account == KEYS.account
    assert open_store(files) == keys


def test_a_bad_phrase_changes_nothing(files: DiskFiles) -> None:
    keys = open_store(files)
    with pytest.raises(WrongPassphraseError, match="checksum"):
        keystore.replace_account(files, ENTROPY, "abandon " * 24, cost=CHEAP)
    assert open_store(files) == keys


def test_the_passphrase_can_change(files: DiskFiles) -> None:
    with pytest.raises(StoreError, match="no keystore"):
        keystore.set_passphrase(files, ENTROPY, None, "first", cost=CHEAP)
    keys = open_store(files)
    for old, new in [(None, "first"), ("first", "second"), ("second", None)]:
        keystore.set_passphrase(files, ENTROPY, old, new, cost=CHEAP)
        assert open_store(files, new) == keys
    with pytest.raises(UsageError):
        keystore.set_passphrase(files, ENTROPY, None, "", cost=CHEAP)
    assert open_store(files) == keys


def test_every_write_seals_anew(files: DiskFiles) -> None:
    open_store(files, "same")
    first = files.read(KEYSTORE_PATH)
    keystore.set_passphrase(files, ENTROPY, "same", "same", cost=CHEAP)
    assert files.read(KEYSTORE_PATH) != first


@given(sealed=st.booleans(), data=st.data())
@settings(max_examples=80)
def test_damage_is_told_from_a_wrong_passphrase(sealed: bool, data: st.DataObject) -> None:
    passphrase = "open sesame" if sealed else None
    encoded = bytearray(keystore.encode_keys(KEYS, SEALING if sealed else None, passphrase))
    assert keystore.decode_keys(bytes(encoded), passphrase) == KEYS
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(StoreError, match=r"damaged|later version") as caught:
        keystore.decode_keys(bytes(encoded), passphrase)
    assert "\n" not in str(caught.value)


@given(st.integers(0, 300))
def test_a_cut_file_is_damaged(length: int) -> None:
    encoded = keystore.encode_keys(KEYS, SEALING, "open sesame")
    with pytest.raises(StoreError, match="damaged"):
        keystore.decode_keys(encoded[: min(length, len(encoded) - 1)], "open sesame")


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_garbage_is_damaged(data: bytes) -> None:
    with pytest.raises(StoreError):
        keystore.decode_keys(data, None)


def test_a_later_version_is_not_called_damage() -> None:
    with pytest.raises(StoreError, match="later version"):
        keystore.decode_keys(wire.encode([keystore.KEYSTORE_TAG, 2, "anything"]), None)


def test_a_forged_cost_is_refused_before_it_is_paid() -> None:
    items: list[wire.Value] = [keystore.KEYSTORE_TAG, 1, [bytes(16), 2**40, 4, bytes(24)], bytes(90)]
    forged = wire.encode([*items, keystore._check(items)])
    with pytest.raises(StoreError, match="damaged"):
        keystore.decode_keys(forged, "open sesame")
