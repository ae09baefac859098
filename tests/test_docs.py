"""What the documentation states as fact is compared with the code: settings, messages, limits, exit codes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest

from node import __version__, errors, limits, wire
from node.chunks import catalogue, evidence_rows, list_store, losses, messages, score_store
from node.chunks.audits import journal as audit_journal
from node.chunks.healing import evicting
from node.chunks.healing import journal as healing_journal
from node.chunks.healing import messages as repair_messages
from node.chunks.put import journal
from node.chunks.store import shard_index
from node.control.api import control_handlers
from node.control.arguments import parse
from node.credit import ledger_store, reputation_store
from node.credit import messages as credit_messages
from node.daemon import config, memory
from node.daemon.compose import NETWORK_ID, PROTOCOL_VERSION, Node
from node.dht import record_store
from node.dht.messages import MessageType
from node.errors import NodeError, ProtocolError, UsageError
from node.framing import Preamble
from node.net import bootstrap
from node.records.base import Record
from node.records.charge import Charge
from node.records.lease import Lease, Release
from node.records.list_pointer import ListPointer
from node.records.offer import DeviceCert, Offer
from node.records.placement_hint import PlacementHint
from node.records.repair import Handover, RepairGrant, RepairIntent

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "CHANGELOG.md", ROOT / "README.md"])

Rows = list[list[str]]


def text_of(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def tables(text: str) -> Iterator[Rows]:
    """The rows of each table, its header first, cells stripped."""
    rows: Rows = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            yield [row for row in rows if not set("".join(row)) <= set("-")]
            rows = []


def table(name: str, header: list[str]) -> Rows:
    """The rows below a table's header."""
    (found,) = [rows for rows in tables(text_of(name)) if rows[0][: len(header)] == header]
    return found[1:]


def code_of(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


# --- links ----------------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(path), f"{page.name}: {target}"


def test_every_page_is_in_an_index() -> None:
    for folder in (DOCS, DOCS / "formats", DOCS / "decisions"):
        index = (folder / "README.md").read_text(encoding="utf-8")
        for page in folder.glob("*.md"):
            assert page.name == "README.md" or f"({page.name})" in index


def test_files_that_pages_name_exist() -> None:
    for page in PAGES:
        for name in re.findall(
            r"`((?:node|tests|docs|simulations|scripts)/[\w./-]+)`", page.read_text(encoding="utf-8")
        ):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_no_page_shows_a_machine_path() -> None:
    for page in PAGES:
        assert not re.search(r"/home/\w+/|/root/|/work/", page.read_text(encoding="utf-8")), page.name


def test_sections_that_comments_cite_exist() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "node").rglob("*.py")]
    design, network = text_of("design.md"), text_of("network.md")
    sections = {
        number
        for source in sources
        for cited in re.findall(r"design\.md, sections? (\d+(?: and \d+)?)", source)
        for number in cited.split(" and ")
    }
    assert len(sections) > 5
    for number in sections:
        assert re.search(rf"^## {number}\. ", design, re.MULTILINE), number
    for number in {number for source in sources for number in re.findall(r"network\.md, trap (\d+)", source)}:
        assert re.search(rf"^{number}\. ", network, re.MULTILINE), number


# --- limits ---------------------------------------------------------------------------------------------

_NAMED = re.compile(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)`(?:\s(?:=|\|)\s([\d,.]+))?")
_NO_LIMITS = {"CAIRN_HOME", "CAIRN_PASSPHRASE_FILE"} | {kind.name for kind in MessageType}


def test_limits_that_pages_name_have_the_value_stated() -> None:
    seen = 0
    for page in DOCS.rglob("*.md"):
        for name, value in _NAMED.findall(page.read_text(encoding="utf-8")):
            if name in _NO_LIMITS:
                continue
            assert value, f"{page.name}: {name} stands without its value"
            assert float(value.rstrip(".,").replace(",", "")) == getattr(limits, name), f"{page.name}: {name}"
            seen += 1
    assert seen > 50


# --- settings, exit codes, messages to people -------------------------------------------------------------


def as_shown(value: object) -> str:
    words: dict[object, str] = {None: "none", True: "on", False: "off"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def test_settings_are_those_of_the_code() -> None:
    defaults = config.Config()
    expected = {
        key: (as_shown(getattr(getattr(defaults, key.split(".")[0]), key.split(".")[1])), rule.range)
        for key, rule in config.RULES.items()
    }
    rows = table("operating.md", ["key", "default", "takes"])
    assert {code_of(row[0])[0]: (row[1], row[2]) for row in rows} == expected


def test_the_example_of_a_settings_file_is_accepted(tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", text_of("operating.md"), re.DOTALL)
    (tmp_path / "config.toml").write_text(block)
    assert config.load_config(tmp_path / "config.toml").lease.days == 60


def error_classes(error_class: type[NodeError] = NodeError) -> Iterator[type[NodeError]]:
    yield error_class
    for child in error_class.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from error_classes(child)


def test_exit_codes_are_those_of_the_errors() -> None:
    expected: dict[int, set[str]] = {0: set(), 1: {"internal"}}
    for error_class in error_classes():
        kind = error_class.__new__(error_class).kind
        expected.setdefault(error_class.exit_code, set()).add(kind)
    rows = table("operating.md", ["code", "kinds"])
    assert {int(row[0]): set(code_of(row[1])) for row in rows} == expected


@cache
def literals() -> str:
    """All source text, with string literals that Python joins joined."""
    source = "\n".join(
        path.read_text(encoding="utf-8") for path in [ROOT / "cli.py", *(ROOT / "node").rglob("*.py")]
    )
    return re.sub(r'"\s*\n\s*f?"', "", source)


def test_messages_to_look_up_are_messages_of_the_code() -> None:
    rows = table("operating.md", ["message", "means"])
    assert len(rows) > 25
    for row in rows:
        (fragment,) = code_of(row[0])
        assert fragment in literals(), fragment


def test_commands_that_pages_show_are_commands() -> None:
    """As far as their words go: in running text an argument may be left out, in an example none."""
    wrong = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        named = re.findall(r"`(?:[A-Z_]+=\S+ )?(?:\S*/)?cairn ([^`\n]*)`", text)
        examples = re.findall(r"^\$ cairn ([^\n]*)$", text, re.MULTILINE)
        wrong += [f"{page.name}: {fault}" for fault in map(fault_of, examples) if fault]
        faults = [fault for fault in map(fault_of, named) if fault]
        wrong += [f"{page.name}: {fault}" for fault in faults if not re.search(r"missing|requires", fault)]
    assert wrong == []


@cache
def fault_of(command: str) -> str:
    """What the parser has against a command line, without its redirections and its comment."""
    words = shlex.split(re.sub(r"\s+[<>|].*", "", command), comments=True)
    try:
        parse(words)
    except UsageError as error:
        return f"cairn {command}: {error}"
    except SystemExit:
        pass  # help
    return ""


def test_lines_of_status_are_explained() -> None:
    source = (ROOT / "node/control/render.py").read_text(encoding="utf-8")
    body = source.partition("def _status(")[2].partition("\ndef ")[0]
    rows = table("operating.md", ["line", "says"])
    assert {code_of(row[0])[0] for row in rows} == set(re.findall(r'[\[(]"([a-z ]+)", ', body))


def test_the_changelog_knows_this_version() -> None:
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


# --- formats --------------------------------------------------------------------------------------------

Field = Callable[[wire.Value], object]


def accepts(field: Field, value: wire.Value) -> bool:
    try:
        field(value)
    except ProtocolError:
        return False
    return True


def check_bound(field: Field, bound: str) -> None:
    """Probe a field at the edges of what its page says."""
    edges: list[tuple[wire.Value, bool]]
    if match := re.fullmatch(r"integer, ([\d,]+) to ([\d,]+)", bound):
        low, high = (int(number.replace(",", "")) for number in match.groups())
        edges = [
            (low, True), (high, True), (low - 1, False), (high + 1, False), (b"", False),
        ]  # fmt: skip
    elif match := re.fullmatch(r"(at most )?([\d,]+) bytes", bound):
        size = int(match[2].replace(",", ""))
        edges = [(bytes(size), True), (bytes(size + 1), False), (bytes(size - 1), bool(match[1])), (0, False)]
    elif match := re.fullmatch(r"text, at most ([\d,]+) bytes", bound):
        size = int(match[1].replace(",", ""))
        edges = [(b"", False), ("x" * size, True), ("x" * (size + 1), False)]
    elif bound.startswith("one of "):
        edges = [("other", False), *((word, True) for word in code_of(bound))]
    else:
        match = re.fullmatch(r"array of (\d+) to (\d+): (.+)", bound)
        assert match is not None, bound
        check_array(field, int(match[1]), int(match[2]), match[3])
        return
    for value, is_legal in edges:
        assert accepts(field, value) is is_legal, f"{bound}: {value!r:.60}"


def check_array(field: Field, low: int, high: int, bound: str) -> None:
    item: wire.Value = 0
    if match := re.search(r"([\d,]+) bytes", bound):
        size = int(match[1].replace(",", ""))
        item = "x" * size if bound.startswith("text") else bytes(size)
    assert accepts(field, [item] * low)
    assert accepts(field, [item] * high)
    assert not accepts(field, [item] * (high + 1))
    assert low == 0 or not accepts(field, [item] * (low - 1))
    check_bound(lambda value: field([value]), bound)


def check_messages(page: str, declared: Mapping[str, tuple[type[Any], tuple[Field, ...]]]) -> None:
    stated: dict[str, list[tuple[str, str]]] = {}
    tag = ""
    for row in table(page, ["tag", "field", "bound"]):
        tag = code_of(row[0])[0] if row[0] else tag
        stated.setdefault(tag, []).append((code_of(row[1])[0], row[2]))
    assert stated.keys() == declared.keys()
    for tag, (message, parsers) in declared.items():
        names = [field.name for field in fields(message)]
        assert [name for name, _ in stated[tag]] == names
        for parser, (_, bound) in zip(parsers, stated[tag], strict=True):
            check_bound(parser, bound)


def test_messages_of_the_shard_protocol() -> None:
    check_messages("formats/shards-protocol.md", cast(Any, messages.TABLE.rows))
    assert messages.PROTOCOL in text_of("formats/shards-protocol.md")


def test_messages_of_the_repair_protocol() -> None:
    with_fields = {tag: entry for tag, entry in repair_messages.TABLE.rows.items() if entry[1]}
    check_messages("formats/repair-protocol.md", cast(Any, with_fields))
    assert repair_messages.PROTOCOL in text_of("formats/repair-protocol.md")


def test_reasons_to_decline() -> None:
    codes = {value for name, value in vars(messages).items() if name.startswith("REFUSED_")}
    rows = table("formats/shards-protocol.md", ["code", "means"])
    assert {code_of(row[0])[0] for row in rows} == codes | {"network"}


def test_the_preamble_shown_is_the_one_sent() -> None:
    (shown,) = re.findall(r'\n\["cairn", 1, .*\n([0-9a-f ]+)\n```', text_of("formats/shards-protocol.md"))
    parameters = (("audit.interval_s", config.AuditConfig().interval_s),)
    sent = wire.encode(Preamble(NETWORK_ID, PROTOCOL_VERSION, parameters).as_value())
    assert bytes.fromhex(shown) == sent


def test_messages_of_the_credit_protocol() -> None:
    rows = table("formats/credit-protocol.md", ["tag", "field", "bound"])
    stated: dict[str, list[str]] = {}
    tag = ""
    for row in rows:
        tag = code_of(row[0])[0] if row[0] else tag
        stated.setdefault(tag, []).append(code_of(row[1])[0])
    declared = {
        tag: [f.name for f in fields(message)] for tag, (message, _) in credit_messages.TABLE.rows.items()
    }
    assert stated == declared


def test_records_of_the_journal() -> None:
    check_messages("formats/home.md", cast(Any, journal.TABLE.rows))


def test_messages_of_the_dht() -> None:
    rows = table("formats/dht.md", ["type", "name", "request"])
    assert {int(row[0]): code_of(row[1])[0] for row in rows} == {int(kind): kind.name for kind in MessageType}


def test_sizes_of_records() -> None:
    records: list[type[Record]] = [
        Lease, Release, Offer, DeviceCert, Charge, RepairGrant, Handover, RepairIntent, PlacementHint,
        ListPointer,
    ]  # fmt: skip
    rows = table("formats/keys-links-records.md", ["type", "fields", "signatures", "at most"])
    stated = {code_of(row[0])[0]: int(row[3].removesuffix(" bytes").replace(",", "")) for row in rows}
    assert stated == {record.TYPE: record.BYTES_MAX for record in records}
    for row, record in zip(rows, records, strict=True):
        assert len(re.split(r", ", row[1])) == record.FIELD_COUNT


def test_tables_of_the_home() -> None:
    state = {code_of(row[0])[0] for row in table("formats/home.md", ["table", "key"]) if row[0]}
    dht = {value for value in vars(record_store).values() if isinstance(value, str) and value[:4] == "dht_"}
    assert state == dht | {
        catalogue.FILES_TABLE, catalogue.SEGMENTS_TABLE, catalogue.HOLDERS_TABLE,
        catalogue.REMOVALS_TABLE, score_store.TABLE,
        memory._TABLE, bootstrap._TABLE, catalogue.VERSIONS_TABLE, catalogue.CARRIERS_TABLE,
        list_store.META_TABLE, losses.TABLE, reputation_store.TABLE,
        evidence_rows.RECEIPTS_TABLE, evidence_rows.ROWS_TABLE, evidence_rows.TIMES_TABLE,
        evidence_rows.BAD_TABLE, evidence_rows.ANSWERS_TABLE,
        audit_journal.TABLE, evicting.TABLE, healing_journal.TABLE,
        *(name for name in vars(ledger_store).values() if isinstance(name, str) and name[:7] == "credit_"),
    }  # fmt: skip
    index = {code_of(row[0])[0] for row in table("formats/packs.md", ["table", "key"]) if row[0]}
    assert index == set(shard_index.TABLES)


def test_commands_of_the_control_api() -> None:
    rows = table("control-api.md", ["command", "request"])
    assert {code_of(row[0])[0] for row in rows} == {*control_handlers(cast(Node, None)), "url"}
