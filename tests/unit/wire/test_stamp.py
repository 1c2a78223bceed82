"""Rules of stamps."""

from __future__ import annotations

import pytest

from mcp_crew_redis._wire.header import MAX_STAMP
from mcp_crew_redis._wire.stamp import MAX_LEAD_US, HybridClock
from mcp_crew_redis.errors import DataError

SECOND = 1_000_000
WALL = 1_700_000_000


class StillClock:
    """Seconds that move when the test says so."""

    def __init__(self, *, now=1_000.0, wall=float(WALL)):
        self.now = now
        self.started_wall = wall - now

    def monotonic(self):
        return self.now

    def wall(self):
        return self.started_wall + self.now

    async def sleep(self, seconds):
        raise NotImplementedError


@pytest.fixture
def time():
    return StillClock()


@pytest.fixture
def clock(time):
    return HybridClock(time)


def _calibrate(clock, time, server_seconds, *, round_trip=0.0):
    return clock.calibrate(
        round((WALL + server_seconds) * SECOND), time.now - round_trip, time.now
    )


def test_before_calibration_stamps_follow_the_wall_clock(clock):
    """A start without a server still gives stamps of this time."""
    assert clock.stamp() == WALL * SECOND
    assert clock.error_us is None


def test_stamps_rise_while_time_stands_still(clock):
    """No two are equal."""
    assert [clock.stamp() - WALL * SECOND for _ in range(3)] == [0, 1, 2]


def test_offset_is_the_middle_of_the_round_trip(clock, time):
    """The server read its clock half a round trip ago."""
    time.now += 0.2
    clock.calibrate(WALL * SECOND, time.now - 0.2, time.now)

    assert clock.stamp() == WALL * SECOND + 100_000
    assert clock.error_us == 100_000


def test_first_measurement_is_taken_at_once_if_no_stamp_was_given(clock, time):
    """A wall clock an hour ahead leaves no trace then."""
    _calibrate(clock, time, -3_600)

    assert clock.stamp() == (WALL - 3_600) * SECOND


def test_larger_offset_is_taken_at_once(clock, time):
    """Forward is always safe."""
    clock.stamp()
    step = _calibrate(clock, time, 10)

    assert step == 10 * SECOND
    assert clock.stamp() == (WALL + 10) * SECOND


def test_smaller_offset_is_reached_at_half_speed(clock, time):
    """Two seconds too many are gone after four, without a step back."""
    clock.stamp()
    _calibrate(clock, time, -2)

    shown = []
    for _ in range(6):
        time.now += 1.0
        shown.append((clock.stamp() - WALL * SECOND) / SECOND)

    assert shown == [0.5, 1.0, 1.5, 2.0, 3.0, 4.0]


def test_measurement_while_slewing_starts_from_what_is_shown(clock, time):
    """Neither a jump forward nor a step back."""
    clock.stamp()
    _calibrate(clock, time, -2)
    time.now += 1.0
    before = clock.now_us()
    _calibrate(clock, time, -1)

    assert clock.now_us() == before


def test_vague_measurement_does_not_replace_a_sharp_one(clock, time):
    """A slow round trip that the present offset satisfies tells nothing new."""
    _calibrate(clock, time, 0, round_trip=0.001)
    before = clock.now_us()
    clock.calibrate((WALL - 1) * SECOND, time.now - 3.0, time.now)

    assert clock.now_us() == before
    assert clock.error_us == 500


def test_vague_measurement_that_contradicts_is_believed(clock, time):
    """After a failover the clock may be another one."""
    _calibrate(clock, time, 0, round_trip=0.001)
    clock.calibrate((WALL + 60) * SECOND, time.now - 2.0, time.now)

    assert clock.now_us() == (WALL + 61) * SECOND


def test_write_after_a_read_is_newer_than_what_was_read(clock):
    """Also when the other writer's clock is ahead."""
    read = WALL * SECOND + 3 * SECOND
    assert clock.follow(read) == 0

    assert clock.stamp() == read + 1


def test_stamp_five_seconds_ahead_is_followed_and_more_is_not(clock):
    """The lead is returned for the log, and counted."""
    assert clock.follow(WALL * SECOND + MAX_LEAD_US) == 0
    assert clock.follow(WALL * SECOND + MAX_LEAD_US + 1) == MAX_LEAD_US + 1

    assert clock.ignored_count == 1
    assert clock.last == WALL * SECOND + MAX_LEAD_US


def test_older_stamp_changes_nothing(clock):
    """Reading an old value is no reason to do anything."""
    given = clock.stamp()

    assert clock.follow(given - 1) == 0
    assert clock.follow(0) == 0
    assert clock.last == given


def test_stamps_end_below_two_to_the_53():
    """They stay exact in Lua, or there is none."""
    late = HybridClock(StillClock(now=0.0, wall=MAX_STAMP / SECOND + 1))

    with pytest.raises(DataError, match="2255"):
        late.stamp()


def test_hostile_stamp_near_the_end_is_ignored():
    """One bad header cannot use up all stamps."""
    clock = HybridClock(StillClock(now=0.0, wall=(MAX_STAMP - 10) / SECOND))

    assert clock.follow(MAX_STAMP) > 0
    assert clock.follow(2**64 - 1) > 0
    assert clock.stamp() <= MAX_STAMP


@pytest.mark.parametrize(
    ("server_us", "sent", "received"), [(0, 1, 2), (-1, 1, 2), (2**53, 1, 2), (5, 2, 1)]
)
def test_answer_that_is_no_time_is_refused(clock, server_us, sent, received):
    """And the offset stays."""
    with pytest.raises(DataError):
        clock.calibrate(server_us, sent, received)


def test_repr_is_a_status_line(clock, time):
    """Whether it is calibrated, and the last stamp."""
    assert "uncalibrated" in repr(clock)
    _calibrate(clock, time, 0, round_trip=0.002)
    assert "±1000 µs" in repr(clock)
