"""What the daemon itself remembers: its port, what it gives, when it last scrubbed. Layer 5.

One table of the node's state, one canonical value a name; a value that does not parse counts as missing.
"""

from __future__ import annotations

from dataclasses import dataclass

from node import wire
from node.daemon.uptime import UptimeLog
from node.errors import ProtocolError
from node.ports import KeyValue
from node.units import GIB

_TABLE = "daemon"
_VALUE_BYTES_MAX = 1024
_PORT = b"port"
_DONATION = b"donation"
_SCRUB = b"scrub"
_TURNS = b"turns"
_LEAVING = b"leaving"
_UPTIME = b"uptime"
_CAP_BYTES_MAX = 2**30 * GIB
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Donation:
    """What this node gives: disk, bandwidth (None: no limit), and the part for newcomers (0 to 1)."""

    cap_bytes: int = 0
    rate_bytes_s: int | None = None
    pledge: float | None = None


def _pairs(values: list[wire.Value]) -> list[tuple[int, int]]:
    found = []
    for value in values:
        match value:
            case [int(one), int(other)]:
                found.append((one, other))
    return found


class DaemonMemory:
    """Typed access to the table."""

    def __init__(self, key_values: KeyValue) -> None:
        self._key_values = key_values

    def port(self) -> int | None:
        """The TCP port that was chosen once."""
        match self._read(_PORT):
            case [int(port)] if 0 < port < 2**16:
                return port
        return None

    def set_port(self, port: int) -> None:
        """Remember it, durably."""
        self._write(_PORT, [port])

    def donation(self) -> Donation:
        """What was last set; nothing given before that."""
        match self._read(_DONATION):
            case [int(cap), int() | None as rate, int() | None as pledge] if 0 <= cap <= _CAP_BYTES_MAX:
                return Donation(cap, rate, None if pledge is None else pledge / _MILLION)
        return Donation()

    def set_donation(self, donation: Donation) -> None:
        """Remember it, durably."""
        pledge = None if donation.pledge is None else round(donation.pledge * _MILLION)
        self._write(_DONATION, [donation.cap_bytes, donation.rate_bytes_s, pledge])

    def scrub(self) -> tuple[bytes, int]:
        """Where the scrub stands (b"": at its start), and when the last whole one ended (0: never)."""
        match self._read(_SCRUB):
            case [bytes(cursor), int(done_s)]:
                return cursor, done_s
        return b"", 0

    def set_scrub(self, cursor: bytes, done_s: int) -> None:
        """Remember it, durably."""
        self._write(_SCRUB, [cursor, done_s])

    def turns_week(self) -> int | None:
        """The week for which announcers were last chosen."""
        match self._read(_TURNS):
            case [int(week)]:
                return week
        return None

    def set_turns_week(self, week: int) -> None:
        """Remember it, durably."""
        self._write(_TURNS, [week])

    def is_leaving(self) -> bool:
        """Whether a drain began that no new donation ended."""
        return self._read(_LEAVING) == [1]

    def set_leaving(self, is_leaving: bool) -> None:
        """Remember it, durably."""
        self._write(_LEAVING, [int(is_leaving)])

    def uptime(self) -> UptimeLog:
        """When this node was up, as far as was written down."""
        match self._read(_UPTIME):
            case [int(first_s), int(last_s), list(days), list(outages)]:
                return UptimeLog(first_s, last_s, dict(_pairs(days)), tuple(_pairs(outages)))
        return UptimeLog()

    def set_uptime(self, log: UptimeLog) -> None:
        """Remember it, durably."""
        days = [[day, seconds] for day, seconds in sorted(log.up_s_by_day.items())]
        self._write(_UPTIME, [log.first_s, log.last_s, days, [list(outage) for outage in log.outages]])

    def _read(self, name: bytes) -> list[wire.Value] | None:
        with self._key_values.view() as transaction:
            data = transaction.get(_TABLE, name)
        try:
            return None if data is None else wire.decode(data, size_max=_VALUE_BYTES_MAX)
        except ProtocolError:
            return None

    def _write(self, name: bytes, value: wire.Value) -> None:
        data = wire.encode(value)
        self._key_values.update(lambda transaction: transaction.put(_TABLE, name, data))
