"""Settings: `config.toml` in the home folder, and `--set` on the command line. Layer 5.

Every key has a default that suits a home donor. An unknown key or a value out of range is refused with a
`ConfigError` that names the key and the range; nothing is guessed. The keys of parts that have not landed
are accepted and checked as well, so that a file written today stays valid.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from node.errors import ConfigError, UsageError
from node.limits import LEASE_DAYS_MAX, RATE_BYTES_S_MIN, TOTAL_SHARDS_MAX
from node.units import DAY_S, GIB, HOUR_S, parse_rate, parse_size

ALL: Literal["all"] = "all"
CONFIG_BYTES_MAX = 1024 * 1024  # a settings file is a page of text; more is a mistake


@dataclass(frozen=True, slots=True)
class CodeConfig:
    """The code of a put that names none."""

    data_shards: int = 10
    total_shards: int = 30


@dataclass(frozen=True, slots=True)
class AuditConfig:
    """Audits; the interval is a parameter of the network."""

    interval_s: int = DAY_S
    samples: int = 1


@dataclass(frozen=True, slots=True)
class RepairConfig:
    """When holders rebuild what is missing."""

    check_interval_s: int = 3600
    dead_after_s: int = 2 * DAY_S
    urgent_after_s: int = 16 * HOUR_S
    stagger_s: int = 900
    threshold: float = 0.5
    evict_after_s: int = DAY_S


@dataclass(frozen=True, slots=True)
class AnnounceConfig:
    """The sweep over the key space that renews provider records."""

    interval_s: int = 79_200


@dataclass(frozen=True, slots=True)
class CreditConfig:
    """What strangers and newcomers may have kept here."""

    pledge: float = 0.10
    known: float = 0.20
    newcomer_credits: int = 4096
    local_line: int | Literal["all"] = ALL
    receipts: bool = True
    """Whether readers sign for what they are served, and donors take it."""


@dataclass(frozen=True, slots=True)
class LeaseConfig:
    """How long a file is kept unless a put says otherwise."""

    days: int = 30
    grace_days: int = 14


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Bandwidth caps in bytes per second; None is without a cap."""

    upload_rate: int | None = None
    download_rate: int | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of a node, checked."""

    code: CodeConfig = field(default_factory=CodeConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)
    repair: RepairConfig = field(default_factory=RepairConfig)
    announce: AnnounceConfig = field(default_factory=AnnounceConfig)
    credit: CreditConfig = field(default_factory=CreditConfig)
    lease: LeaseConfig = field(default_factory=LeaseConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)


SettingValue = int | float | str | None
_Reader = Callable[[object], SettingValue]


@dataclass(frozen=True, slots=True)
class Rule:
    """How one setting is read; `read` raises `ValueError` for what `range` does not allow."""

    range: str
    read: _Reader


def _whole(low: int, high: int) -> Rule:
    def read(value: object) -> SettingValue:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError
        return value

    return Rule(f"a whole number from {low} to {high}", read)


def _share() -> Rule:
    def read(value: object) -> SettingValue:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ValueError
        return float(value)

    return Rule("a number from 0 to 1", read)


def _size_or_all() -> Rule:
    def read(value: object) -> SettingValue:
        if value == ALL:
            return ALL
        return _bytes(value, parse_size, low=0)

    return Rule('a size such as 20GiB, from 0 to 1,000,000 TiB, or "all"', read)


def _switch() -> Rule:
    def read(value: object) -> SettingValue:
        switches: dict[object, bool] = {"on": True, "off": False, True: True, False: False}
        if not isinstance(value, str | bool) or value not in switches:
            raise ValueError
        return switches[value]

    return Rule('"on" or "off"', read)


def _rate() -> Rule:
    def read(value: object) -> SettingValue:
        if value == "none":
            return None
        return _bytes(value, parse_rate, low=RATE_BYTES_S_MIN)

    return Rule('bytes per second such as 2MiB/s, from 1 KiB/s to 1,000,000 TiB/s, or "none"', read)


def _bytes(value: object, parse: Callable[[str], int], *, low: int) -> int:
    if isinstance(value, str):
        try:
            value = parse(value)
        except UsageError as error:
            raise ValueError from error
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= 2**30 * GIB:
        raise ValueError
    return value


RULES: Mapping[str, Rule] = {
    "code.data_shards": _whole(1, TOTAL_SHARDS_MAX),
    "code.total_shards": _whole(1, TOTAL_SHARDS_MAX),
    "audit.interval_s": _whole(1, 30 * DAY_S),
    "audit.samples": _whole(1, 64),
    "repair.check_interval_s": _whole(1, 30 * DAY_S),
    "repair.dead_after_s": _whole(1, 90 * DAY_S),
    "repair.urgent_after_s": _whole(1, 90 * DAY_S),
    "repair.stagger_s": _whole(0, DAY_S),
    "repair.threshold": _share(),
    "repair.evict_after_s": _whole(0, 90 * DAY_S),
    # Provider records live 48 h (design.md, section 5): a longer sweep would let files vanish in between.
    "announce.interval_s": _whole(1, 2 * DAY_S),
    "credit.pledge": _share(),
    "credit.known": _share(),
    "credit.newcomer_credits": _whole(0, 10**12),
    "credit.local_line": _size_or_all(),
    "credit.receipts": _switch(),
    "lease.days": _whole(1, LEASE_DAYS_MAX),
    "lease.grace_days": _whole(0, 365),
    "network.upload_rate": _rate(),
    "network.download_rate": _rate(),
}
"""Every key and what it may hold; the names are those of the documentation."""


def load_config(path: Path, overrides: Iterable[str] = ()) -> Config:
    """The settings in the file at `path` (none if it is missing), changed by `KEY=VALUE` overrides.

    Raises `ConfigError`.
    """
    try:
        with path.open("rb") as file:
            data = file.read(CONFIG_BYTES_MAX + 1)
    except FileNotFoundError:
        data = b""
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}") from error
    if len(data) > CONFIG_BYTES_MAX:
        raise ConfigError(f"{path} is over 1 MiB: that is no settings file")
    try:
        document = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    values = _flatten(document)
    for override in overrides:
        key, value = parse_override(override)
        values[key] = value
    return build_config(values)


def parse_override(text: str) -> tuple[str, object]:
    """Key and value of `KEY=VALUE`; the value is a TOML value or plain text. Raises `ConfigError`."""
    key, equals, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not equals or not key or not value:
        raise ConfigError(f"--set {text!r}: write it as KEY=VALUE, for example lease.days=60")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def build_config(values: Mapping[str, object]) -> Config:
    """A `Config` from flat `section.name` keys. Raises `ConfigError` naming the key and its range."""
    checked: dict[str, SettingValue] = {}
    for key, value in values.items():
        rule = RULES.get(key)
        if rule is None:
            raise ConfigError(f"unknown setting {key!r}: known are {', '.join(RULES)}")
        try:
            checked[key] = rule.read(value)
        except ValueError:
            raise ConfigError(f"setting {key}={value!r} is out of range: it takes {rule.range}") from None
    sections: dict[str, dict[str, SettingValue]] = {}
    for key, value in checked.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = value
    config = Config()
    for section, arguments in sections.items():
        changed = replace(getattr(config, section), **arguments)
        config = replace(config, **{section: changed})
    if config.code.data_shards > config.code.total_shards:
        raise ConfigError(
            f"setting code.data_shards={config.code.data_shards} is out of range: "
            f"it takes at most code.total_shards, which is {config.code.total_shards}"
        )
    return config


def _flatten(document: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in document.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
