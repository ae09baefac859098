"""Settings: defaults, ranges, overrides, and refusals that name the key."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.daemon.config import RULES, Config, build_config, load_config, parse_override
from node.errors import ConfigError

# The table of the command line's documentation, value by value.
DOCUMENTED = {
    "code.data_shards": 10,
    "code.total_shards": 30,
    "audit.interval_s": 86_400,
    "audit.samples": 1,
    "repair.check_interval_s": 3600,
    "repair.dead_after_s": 172_800,
    "repair.urgent_after_s": 57_600,
    "repair.stagger_s": 900,
    "repair.threshold": 0.5,
    "repair.evict_after_s": 86_400,
    "announce.interval_s": 79_200,
    "credit.pledge": 0.10,
    "credit.known": 0.20,
    "credit.newcomer_credits": 4096,
    "credit.local_line": "all",
    "credit.receipts": True,
    "lease.days": 30,
    "lease.grace_days": 14,
    "network.upload_rate": None,
    "network.download_rate": None,
}


def flat(config: Config) -> dict[str, object]:
    return {
        f"{section.name}.{key.name}": getattr(getattr(config, section.name), key.name)
        for section in fields(config)
        for key in fields(getattr(config, section.name))
    }


def test_defaults_and_names_are_the_documented_ones(tmp_path: Path) -> None:
    assert flat(load_config(tmp_path / "missing.toml")) == DOCUMENTED
    assert set(RULES) == set(DOCUMENTED)


def test_a_file_and_overrides_change_what_they_name(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[lease]\ndays = 60\n[credit]\nlocal_line = "20GiB"\nknown = 0\n')
    config = load_config(path, ["lease.days=90", "network.upload_rate=2MiB/s", "repair.threshold=0.25"])
    assert config.lease.days == 90
    assert config.credit.local_line == 20 * 2**30
    assert config.credit.known == 0.0
    assert config.network.upload_rate == 2 * 2**20
    assert config.repair.threshold == 0.25
    assert config.code == Config().code
    assert not load_config(path, ["credit.receipts=off"]).credit.receipts
    assert load_config(path, ["credit.receipts=on"]).credit.receipts


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("nonsense=1", "unknown setting 'nonsense'"),
        ("code=1", "unknown setting 'code'"),
        ("lease.days=0", r"lease\.days.*from 1 to"),
        ("lease.days=1.5", r"lease\.days.*whole number"),
        ("lease.days=true", r"lease\.days.*whole number"),
        ("lease.days=abc", r"lease\.days.*whole number"),
        ("code.total_shards=256", r"code\.total_shards.*from 1 to 255"),
        ("code.data_shards=31", r"code\.data_shards.*at most code\.total_shards, which is 30"),
        ("repair.threshold=1.01", r"repair\.threshold.*from 0 to 1"),
        ("credit.local_line=some", r"credit\.local_line.*all"),
        ("credit.receipts=1", r"credit\.receipts.*on"),
        ("network.upload_rate=0", r"network\.upload_rate.*none"),
        ("announce.interval_s=172801", r"announce\.interval_s.*from 1 to 172800"),
        ("lease.days", "KEY=VALUE"),
        ("=5", "KEY=VALUE"),
        ("lease.days=", "KEY=VALUE"),
    ],
)
def test_what_is_wrong_is_refused_by_name_and_range(tmp_path: Path, override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as raised:
        load_config(tmp_path / "config.toml", [override])
    assert raised.value.exit_code == 3


@pytest.mark.parametrize(
    "text", ["lease.days = [", "[lease]\nday = 5", "[lease.days]\nx = 1", "lease = 5", "\xff\xfe"]
)
def test_a_broken_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError):
        load_config(path)


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(ConfigError, match="1 MiB"):
        load_config(path)


@given(
    st.sampled_from(sorted(RULES)), st.one_of(st.integers(), st.floats(), st.text(max_size=8), st.booleans())
)
def test_any_value_is_taken_as_documented_or_refused_with_its_range(key: str, value: object) -> None:
    try:
        expected = RULES[key].read(value)
    except ValueError:
        with pytest.raises(ConfigError, match=re.escape(key)):
            build_config({key: value})
        return
    other = {"code.data_shards": 1} if key == "code.total_shards" else {"code.total_shards": 255}
    assert flat(build_config({**other, key: value}))[key] == expected


@given(st.text(max_size=30))
def test_any_override_parses_or_is_refused(text: str) -> None:
    try:
        key, _ = parse_override(text)
    except ConfigError:
        return
    assert text.strip().startswith(key)
