"""The page's server as programs see it that are no browser, hostile ones among them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from http.client import HTTPConnection, IncompleteRead
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from node.control.local_swarm import LocalSwarm
from tests.browser.conftest import HOSTILE_NAME, Paged
from tests.patience import PATIENCE_S
from tests.swarm.command_line import cairn, cairn_json, error_of
from tests.swarm.processes import write_random

pytestmark = pytest.mark.swarm


class Answer:
    """Status, headers and body."""

    def __init__(self, url: str, method: str = "GET", body: bytes = b"", **headers: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        with closing(HTTPConnection(parts.hostname, parts.port, timeout=PATIENCE_S)) as connection:
            connection.request(method, parts.path, body, names)
            response = connection.getresponse()
            self.status = response.status
            self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.getheaders()}
            try:
                self.body, self.is_whole = response.read(), True
            except IncompleteRead as cut:
                self.body, self.is_whole = cut.partial, False

    @property
    def events(self) -> list[Any]:
        """Of a call: its events."""
        return [json.loads(line) for line in self.body.splitlines()]


def call(paged: Paged, command: str, request: Mapping[str, object] | None = None, **headers: str) -> Answer:
    origin, _, token = paged.url.partition("#")
    headers = {"authorization": f"Bearer {token}"} | headers
    return Answer(f"{origin}v1/{command}", "POST", json.dumps(request or {}).encode(), **headers)


@pytest.fixture
def data_url(paged: Paged) -> str:
    return str(cairn_json(paged.node, "url", paged.links["data.bin"])["url"])


@pytest.fixture
def data(paged: Paged) -> bytes:
    return (paged.swarm.folder.parent / "sources" / "data.bin").read_bytes()


def test_a_call_with_the_token_is_that_of_the_control_api(paged: Paged) -> None:
    (answer,) = call(paged, "status").events
    assert answer["result"]["peer_id"] == paged.node.peer_id


@pytest.mark.parametrize("token", ["", "Bearer ", "Bearer 0123", "Basic abc", "Bearer \u00e9"])
def test_a_call_without_the_token_is_refused(paged: Paged, token: str) -> None:
    answer = call(paged, "status", authorization=token)
    assert (answer.status, b"cairn url" in answer.body) == (401, True)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "[::1]:1", ""])
def test_another_name_for_this_machine_leads_nowhere(paged: Paged, data_url: str, host: str) -> None:
    assert call(paged, "status", host=host).status == 421
    assert Answer(data_url, host=host).status == 421


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1", "http://127.0.0.1:1"])
def test_another_site_is_refused_even_with_the_token(paged: Paged, data_url: str, origin: str) -> None:
    assert call(paged, "status", origin=origin).status == 403
    assert Answer(data_url, origin=origin).status == 403


@pytest.mark.parametrize("command", ["put", "get", "rm", "drain", "donate", "renew", "repair", "../v1/put"])
def test_a_page_can_change_nothing(paged: Paged, tmp_path: Path, command: str) -> None:
    source = write_random(tmp_path / "source", 10)
    request = {
        "path": str(source),
        "link": paged.links["data.bin"],
        "output": str(tmp_path / "got"),
        "cap_bytes": 0,
    }
    before = cairn_json(paged.node, "ls")["files"]
    answer = call(paged, command, request)
    assert answer.status in (400, 404)
    assert not (tmp_path / "got").exists()
    assert [file["hash"] for file in cairn_json(paged.node, "ls")["files"]] == [
        file["hash"] for file in before
    ]


def test_credit_sets_no_line_for_a_page(paged: Paged) -> None:
    account = cairn_json(paged.donors[0], "status")["account"]
    (answer,) = call(paged, "credit", {"peer": account, "line_bytes": 10**9}).events
    assert answer["result"]["friends"] == 0
    assert len(answer["result"]["words"]) > 1
    assert cairn_json(paged.node, "credit")["friends"] == 0


@pytest.mark.parametrize(
    "path", ["/../web.py", "/..%2fweb.py", "/app.js/", "/file/", "/file/00/x", "//", "/v1"]
)
def test_nothing_else_is_served(paged: Paged, path: str) -> None:
    assert Answer(paged.url.partition("/#")[0] + path).status == 404


def test_a_page_and_a_file_are_kept_by_nobody_and_framed_nowhere(paged: Paged, data_url: str) -> None:
    page, file = Answer(paged.url.partition("#")[0]), Answer(data_url)
    assert page.status == file.status == 200
    for answer in (page, file):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert file.headers["content-security-policy"] == "sandbox"


def test_a_file_whole_and_in_parts(data_url: str, data: bytes) -> None:
    whole = Answer(data_url)
    assert (whole.status, whole.body, whole.headers["accept-ranges"]) == (200, data, "bytes")
    for text, part in (
        ("0-0", data[:1]),
        ("100000-", data[100_000:]),
        ("-7", data[-7:]),
        ("5-9", data[5:10]),
    ):
        answer = Answer(data_url, range=f"bytes={text}")
        assert (answer.status, answer.body) == (206, part)
        first = len(data) - 7 if text == "-7" else int(text.split("-")[0])
        assert answer.headers["content-range"] == f"bytes {first}-{first + len(part) - 1}/{len(data)}"
    beyond = Answer(data_url, range=f"bytes={len(data)}-")
    assert (beyond.status, beyond.headers["content-range"]) == (416, f"bytes */{len(data)}")
    head = Answer(data_url, "HEAD", range="bytes=5-9")
    assert (head.status, head.body, head.headers["content-length"]) == (206, b"", "5")
    assert Answer(data_url, "POST").status == 405


def test_a_url_says_nothing_of_the_link_and_is_asked_for_once(paged: Paged, data_url: str) -> None:
    cid, _, key = paged.links["data.bin"].removeprefix("cairn:").partition("#")
    assert key not in data_url
    assert cid not in data_url
    by_hash = cairn_json(paged.node, "url", cid)["url"]
    assert by_hash == data_url
    assert data_url.endswith("/data.bin")


def test_one_file_of_a_folder_has_a_url_and_a_folder_has_none(paged: Paged) -> None:
    link = paged.links["photos"]
    url = cairn_json(paged.node, "url", f"{link}/2026/a b.txt")["url"]
    assert Answer(url).body == b"one of a folder"
    error = error_of(cairn(paged.node, "--json", "url", link))
    assert (error["code"], "LINK/path" in error["message"]) == (2, True)
    assert error_of(cairn(paged.node, "--json", "url", f"{link}/nothing"))["code"] == 22


def test_a_hostile_name_ends_no_header(paged: Paged) -> None:
    answer = Answer(cairn_json(paged.node, "url", paged.links[HOSTILE_NAME])["url"])
    assert answer.headers["content-disposition"].startswith("attachment; filename*=UTF-8''%3Cimg%20src")
    assert answer.headers["content-security-policy"] == "sandbox"


def test_an_empty_file(paged: Paged) -> None:
    url = cairn_json(paged.node, "url", paged.links["empty.txt"])["url"]
    answer = Answer(url)
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "0")
    assert Answer(url, range="bytes=0-").status == 416


def test_without_a_page_there_are_no_urls(paged: Paged) -> None:
    error = error_of(cairn(paged.donors[0], "--json", "url", paged.links["data.bin"]))
    assert (error["code"], "--no-web" in error["message"]) == (3, True)
    assert paged.donors[0].ready["web"] is None


def test_the_page_has_a_url_too(paged: Paged) -> None:
    assert cairn_json(paged.node, "url")["url"] == paged.url


def test_a_file_that_gets_lost_is_said_or_cut_off_and_never_wrong(tmp_path: Path) -> None:
    source = write_random(tmp_path / "source", 300_000)
    with LocalSwarm(tmp_path / "swarm") as swarm:
        node = swarm.spawn(page=True).wait_ready()
        donors = swarm.start(2, donate="64MB", bootstrap=[node])
        swarm.wait_known(node, len(donors))
        url = cairn_json(node, "url", cairn_json(node, "put", str(source))["link"])["url"]
        assert Answer(url).body == source.read_bytes()
        for donor in donors:
            donor.kill()
        answer = Answer(url)
        assert answer.status == 503 or not answer.is_whole
        assert source.read_bytes().startswith(answer.body) or answer.status == 503


def test_the_token_and_links_are_in_no_log(paged: Paged) -> None:
    call(paged, "link", {"link": paged.links["data.bin"]})
    log = paged.node.log_tail()
    assert paged.url.partition("#")[2] not in log
    assert all(link.partition("#")[2] not in log for link in paged.links.values())
