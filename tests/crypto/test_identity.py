"""Peer ids and accounts as bytes and text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.crypto.identity import (
    account_text,
    parse_account,
    parse_peer_id,
    peer_id_of,
    peer_id_text,
    public_key_of,
)
from node.errors import ProtocolError, UsageError
from node.units import AccountId

keys = st.binary(min_size=32, max_size=32)


@given(keys)
def test_peer_ids_go_round(public: bytes) -> None:
    peer_id = peer_id_of(public)
    assert public_key_of(peer_id) == public
    assert parse_peer_id(peer_id_text(peer_id)) == peer_id
    assert peer_id_text(peer_id).startswith("12D3Koo")


@given(keys)
def test_accounts_go_round_and_look_different(public: bytes) -> None:
    text = account_text(AccountId(public))
    assert parse_account(text) == public
    assert text.startswith("z6M")
    with pytest.raises(UsageError):
        parse_peer_id(text)


def test_libp2p_agrees() -> None:
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.peer.id import ID

    libp2p_id = ID.from_pubkey(create_new_key_pair(bytes(range(32))).public_key)
    assert peer_id_text(parse_peer_id(str(libp2p_id))) == str(libp2p_id)
    assert parse_peer_id(str(libp2p_id)) == libp2p_id.to_bytes()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "z",
        "0OIl",
        "12D3Koo",
        "1" * 64,
        "1" * 5000,
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        "12D3Koo\n",
        "é",
    ],
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a peer id"):
        parse_peer_id(text)
    with pytest.raises(UsageError, match="not an account"):
        parse_account("z" + text)


@pytest.mark.parametrize(
    "peer_id", [b"", bytes(38), peer_id_of(bytes(32)) + b"\0", peer_id_of(bytes(32))[:-1]]
)
def test_other_ids_are_refused(peer_id: bytes) -> None:
    with pytest.raises(ProtocolError):
        public_key_of(peer_id)
