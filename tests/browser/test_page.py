"""The page of a real node in a real browser."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from node.control.local_swarm import LocalSwarm
from tests.browser.chromium import Chromium
from tests.browser.conftest import HOSTILE_NAME, HOSTILE_TEXT, SOUND_S, Paged
from tests.js_process import JsError
from tests.swarm.command_line import cairn_json

pytestmark = pytest.mark.swarm

ROWS = "document.querySelectorAll('#files tbody tr').length"


def row_of(name: str) -> str:
    """JavaScript for the table's row of a file."""
    is_it = f"row => row.cells[0].innerText === {json.dumps(name)}"
    return f"[...document.querySelectorAll('#files tbody tr')].find({is_it})"


async def open_page(browser: Chromium, paged: Paged) -> None:
    """Open the page and wait until it is whole: before, what a person clicks at may move away."""
    await browser.open(paged.url)
    await browser.wait(f"{ROWS} === {len(paged.links)}")


async def press(browser: Chromium, name: str, button: str) -> None:
    """Press a button in a file's row."""
    buttons = f"[...{row_of(name)}.querySelectorAll('button')]"
    await browser.evaluate(f"{buttons}.find(button => button.innerText === {button!r}).click()")


async def test_files_are_listed_with_their_health_and_when_they_were_proved(
    paged: Paged, browser: Chromium
) -> None:
    await open_page(browser, paged)
    row = await browser.evaluate(f"[...{row_of('data.bin')}.cells].map(cell => cell.innerText)")
    assert row[:3] == ["data.bin", "200.0 kB", "healthy"]
    assert row[3].endswith(" ago")
    (entry,) = [file for file in cairn_json(paged.node, "ls")["files"] if file["name"] == "data.bin"]
    assert row[4] == await browser.evaluate(f"new Date({entry['expires']} * 1000).toISOString().slice(0, 10)")
    assert "peers connected" in await browser.text("#standing")
    await browser.wait("document.querySelector('#credit').children.length > 0")
    assert "You keep nothing for others yet" in await browser.text("#credit")
    assert await browser.errors() == []


async def test_the_token_leaves_the_address_and_a_reload_still_works(paged: Paged, browser: Chromium) -> None:
    await open_page(browser, paged)
    assert await browser.evaluate("location.hash") == ""
    await browser.evaluate("location.reload()")
    await browser.wait(f"document.readyState === 'complete' && {ROWS} === {len(paged.links)}")


async def test_without_the_token_the_page_says_where_to_find_it(paged: Paged, browser: Chromium) -> None:
    await browser.open(paged.url.partition("#")[0])
    await browser.wait("!document.querySelector('#trouble').hidden")
    assert "`cairn url`" in await browser.text("#trouble")
    assert await browser.evaluate(ROWS) == 0


async def test_a_check_draws_every_shard_as_its_holders_answered(browser: Chromium, tmp_path: Path) -> None:
    source = tmp_path / "kept.bin"
    source.write_bytes(bytes(range(256)) * 100)
    with LocalSwarm(tmp_path / "swarm") as swarm:
        node = swarm.spawn(page=True).wait_ready()
        donors = swarm.start(3, donate="64MB", bootstrap=[node])
        swarm.wait_known(node, len(donors))
        file_hash = cairn_json(node, "put", str(source))["hash"]
        donors[0].kill()

        await browser.open(node.ready["web"])
        await browser.wait(f"{ROWS} === 1")
        await press(browser, "kept.bin", "Check")
        await browser.wait("document.querySelector('.shards') !== null")
        told = cairn_json(node, "health", file_hash)["segments"][0]
    proved = {holder["shard"] for holder in told["holders"] if holder["state"] == "proved"}
    assert 0 < len(proved) < told["total"]
    cells = await browser.evaluate(
        "[...document.querySelectorAll('.cells .cell')].map(cell => cell.className)"
    )
    assert cells == [
        f"cell {'proved' if shard in proved else 'unreachable'}" for shard in range(told["total"])
    ]
    words = await browser.evaluate("document.querySelector('.cells').ariaLabel")
    assert words == f"segment 0: {len(proved)} of 30 shards proved, any 10 restore it"


async def test_a_node_that_stopped_is_said_to_have_stopped(browser: Chromium, tmp_path: Path) -> None:
    with LocalSwarm(tmp_path / "swarm") as swarm:
        node = swarm.spawn(page=True).wait_ready()
        await browser.open(node.ready["web"])
        await browser.wait("document.querySelector('#standing').innerText.includes('0 peers')")
        assert node.stop() == 0
        await browser.wait("!document.querySelector('#trouble').hidden")
    assert "Is `cairn run` still running?" in await browser.text("#trouble")


async def test_a_player_seeks_in_a_file_by_its_url(paged: Paged, browser: Chromium) -> None:
    url = cairn_json(paged.node, "url", paged.links["sound.wav"])["url"]
    await browser.open(paged.url)
    await browser.evaluate(f"window.sound = new Audio({url!r}), null")
    await browser.wait("sound.readyState === HTMLMediaElement.HAVE_ENOUGH_DATA")
    assert await browser.evaluate("sound.duration") == SOUND_S
    await browser.evaluate(f"sound.currentTime = {SOUND_S - 1}")
    await browser.wait("!sound.seeking && sound.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA")
    assert await browser.evaluate("sound.currentTime") == SOUND_S - 1
    assert await browser.evaluate("sound.error") is None


async def test_a_link_of_a_friend_opens_entry_by_entry(paged: Paged, browser: Chromium) -> None:
    await open_page(browser, paged)
    await browser.evaluate("window.open = (url) => { window.opened = url }")
    await browser.type("#link", paged.links["photos"])
    await browser.click("#open button")
    await browser.wait("document.querySelectorAll('#entries button').length === 2")
    assert (await browser.text("#entries")).split("\n") == ["2026/a b.txt 15 bytes", "notes.txt 7 bytes"]
    await browser.click("#entries button")
    await browser.wait("window.opened !== undefined")
    assert await browser.evaluate("fetch(opened).then(answer => answer.text())") == "one of a folder"
    assert await browser.errors() == []


async def test_a_link_that_is_none_is_answered_in_words(paged: Paged, browser: Chromium) -> None:
    await open_page(browser, paged)
    await browser.type("#link", "cairn:bafkr4i")
    await browser.click("#open button")
    await browser.wait("document.querySelector('#open-note').innerText.includes('not a file hash')")


async def test_a_hostile_name_is_text_and_a_hostile_file_runs_nothing(
    paged: Paged, browser: Chromium
) -> None:
    await open_page(browser, paged)
    assert await browser.evaluate(f"{row_of(HOSTILE_NAME)} !== undefined")
    await browser.evaluate("window.open = (url) => { window.opened = url }")
    await press(browser, HOSTILE_NAME, "Open")
    await browser.wait("document.querySelectorAll('#entries button').length === 1")
    assert (await browser.text("#entries")).startswith(HOSTILE_NAME)
    await browser.click("#entries button")
    await browser.wait("window.opened !== undefined")
    assert await browser.evaluate("fetch(opened).then(answer => answer.text())") == HOSTILE_TEXT
    url = await browser.evaluate("opened")
    with pytest.raises(JsError, match="ERR_ABORTED"):  # saved instead of shown
        await browser.open(url)
    assert await browser.evaluate("document.title") != "hurt"


async def test_what_a_browser_gets_is_what_was_put(paged: Paged, browser: Chromium) -> None:
    url = cairn_json(paged.node, "url", paged.links["data.bin"])["url"]
    await browser.open(paged.url)
    await browser.evaluate(
        f"fetch({url!r}).then(async answer => {{ window.got = await answer.arrayBuffer() }})"
    )
    digest = await browser.evaluate(
        "crypto.subtle.digest('SHA-256', got).then(hash => [...new Uint8Array(hash)])"
    )
    source = paged.swarm.folder.parent / "sources" / "data.bin"
    assert bytes(digest) == hashlib.sha256(source.read_bytes()).digest()
