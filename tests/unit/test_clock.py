"""The machine's own clock."""

import anyio

from mcp_crew_redis.clock import Clock, SystemClock


def test_system_clock_is_a_clock():
    """It has everything that components ask of a clock."""
    assert isinstance(SystemClock(), Clock)


def test_monotonic_never_goes_back():
    """Durations measured with it are never negative."""
    clock = SystemClock()
    readings = [clock.monotonic() for _ in range(1000)]

    assert readings == sorted(readings)


def test_wall_is_unix_time_in_seconds():
    """Neither milliseconds nor an arbitrary start: between the years 2020 and 2100."""
    assert 1_577_836_800 < SystemClock().wall() < 4_102_444_800


async def test_sleep_lasts_at_least_as_long():
    """Measured by the same clock."""
    clock = SystemClock()
    began = clock.monotonic()

    await clock.sleep(0.02)

    assert clock.monotonic() - began >= 0.019


async def test_negative_sleep_only_yields():
    """A deadline that has passed is no error."""
    await SystemClock().sleep(-1.0)


async def test_cancelled_sleep_ends_at_once():
    """Nobody waits for a sleeper that is no longer wanted."""
    with anyio.move_on_after(0.01) as scope:
        await SystemClock().sleep(3600)

    assert scope.cancelled_caught
