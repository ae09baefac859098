"""The data behind `cairn credit`: balances, and a friend's line by account or peer id."""

from __future__ import annotations

from pathlib import Path

import pytest
from trio.testing import MockClock

from node.control.api import control_handlers
from node.control.server import Events
from node.crypto.identity import account_text, peer_id_text
from node.errors import NotFoundError, UsageError
from node.units import MIB
from tests.daemon.test_credit import options, source_of, swarm
from tests.daemon.worlds import World


async def nobody(_message: object) -> None:
    """Nobody listens."""


async def test_a_friend_s_line_and_what_its_leases_leave_of_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(World(), donors=2) as (donors, sharer):
        credit = control_handlers(donors[0])["credit"]
        assert (await credit({}, Events(nobody)))["peers"] == []
        stranger = peer_id_text(sharer.keys.peer_id)
        with pytest.raises(NotFoundError, match="give the account"):
            await credit({"peer": stranger, "line_bytes": MIB}, Events(nobody))
        account = account_text(sharer.keys.account_id)
        shown = await credit({"peer": account, "line_bytes": 20 * MIB}, Events(nobody))
        assert [(peer["account"], peer["line"], peer["line_bytes"]) for peer in shown["peers"]] == [
            (account, 600.0, 20 * MIB)
        ]
        await control_handlers(donors[1])["credit"]({"peer": account, "line_bytes": 20 * MIB}, Events(nobody))
        await sharer.uploader.put(source_of(tmp_path, 8 * MIB), options(days=30))
        (peer,) = (await credit({}, Events(nobody)))["peers"]
        assert 11 * MIB < peer["line_left_bytes"] < 12 * MIB
        assert (peer["balance"], peer["open_leases"]) == (0, 0)  # a gift is not owed for
        shown = await credit({"peer": stranger, "line_bytes": 0}, Events(nobody))  # it has met this peer now
        assert shown["peers"][0]["line"] == 0
        for wrong in ({"peer": account}, {"peer": account, "line_bytes": -1}, {"peer": "x", "line_bytes": 1}):
            with pytest.raises(UsageError):
                await credit(wrong, Events(nobody))
        with pytest.raises(
            UsageError, match=r"'nobody' is neither an account .* `cairn status`.* `cairn peers`"
        ):
            await credit({"peer": "nobody", "line_bytes": 20 * MIB}, Events(nobody))
        own = account_text(donors[0].keys.account_id)
        with pytest.raises(UsageError, match="own account"):
            await credit({"peer": own, "line_bytes": 1}, Events(nobody))


async def test_a_line_survives_a_restart_and_open_leases_are_shown(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(World(), donors=2) as (donors, sharer):
        report = await sharer.uploader.put(source_of(tmp_path, MIB), options(days=30))
        shown = [await control_handlers(donor)["credit"]({}, Events(nobody)) for donor in donors]
        assert sum(each["open_leases"] for each in shown) == pytest.approx(
            report.price_microcredits / 1e6, abs=0.001
        )
        assert all(each["accounts"] == 1 and each["net"] == 0 for each in shown)
