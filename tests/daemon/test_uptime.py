"""A node's own count of its life."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.daemon.memory import DaemonMemory
from node.daemon.uptime import GAP_S, OUTAGE_S, OUTAGES_KEPT, UptimeLog
from node.units import DAY_S, HOUR_S
from tests.daemon.worlds import Machine

START_S = 1_800_000_000


def lived(log: UptimeLog, *, from_s: int, seconds: int) -> int:
    """Looks every minute; the time of the last one."""
    for now_s in range(from_s, from_s + seconds + 1, 60):
        log.look(now_s)
    return log.last_s


def test_a_node_that_never_stops_is_up_all_the_time() -> None:
    log = UptimeLog()
    lived(log, from_s=START_S, seconds=40 * DAY_S)
    assert log.permille() == 1000
    assert log.outages == ()
    assert len(log.up_s_by_day) <= 31


def test_half_a_life_is_half_and_what_was_before_thirty_days_is_forgotten() -> None:
    log, now_s = UptimeLog(), START_S
    for _ in range(20):
        now_s = lived(log, from_s=now_s, seconds=DAY_S // 2) + DAY_S // 2
    log.look(now_s)
    assert abs(log.permille() - 500) <= 15
    lived(log, from_s=now_s, seconds=31 * DAY_S)
    assert log.permille() >= 985


def test_an_outage_is_told_once_with_its_length() -> None:
    log = UptimeLog()
    now_s = lived(log, from_s=START_S, seconds=2 * HOUR_S)
    assert log.look(now_s + HOUR_S) == HOUR_S
    assert log.look(now_s + HOUR_S + 60) == 0
    assert log.outages == ((now_s, now_s + HOUR_S),)
    assert log.look(log.last_s + OUTAGE_S - 1) == 0  # a restart, an update
    assert len(log.outages) == 1


@given(st.lists(st.integers(-2 * DAY_S, 40 * DAY_S), min_size=1, max_size=60))
def test_whatever_the_calendar_does_the_share_is_a_share_and_the_log_stays_small(steps: list[int]) -> None:
    log, now_s = UptimeLog(), START_S
    for step in steps:
        now_s = max(1, now_s + step)
        log.look(now_s)
        log.look(now_s + GAP_S)
        assert 0 <= log.permille() <= 1000
    assert len(log.outages) <= OUTAGES_KEPT
    memory = DaemonMemory(Machine("any").state)
    memory.set_uptime(log)
    assert memory.uptime() == log
