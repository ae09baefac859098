"""Where a page may be served."""

from __future__ import annotations

import pytest

from node.control.web import PageAddress
from node.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("localhost:0", "127.0.0.1", 0),
        ("[::1]:80", "::1", 80),
        ("127.9.8.7:1", "127.9.8.7", 1),
    ],
)
def test_an_address_on_loopback(text: str, host: str, port: int) -> None:
    assert PageAddress.parse(text) == PageAddress(host, port)


@pytest.mark.parametrize(
    "text",
    ["", "8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:a", "127.0.0.1:²"],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError, match="is not HOST:PORT"):
        PageAddress.parse(text)


@pytest.mark.parametrize("text", ["0.0.0.0:80", "192.0.2.1:80", "[::]:80", "example.org:80", ":80"])
def test_only_loopback_is_served_and_a_tunnel_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="ssh -L"):
        PageAddress.parse(text)
