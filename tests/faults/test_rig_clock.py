"""The manual clock wakes each sleeper at its own instant."""

import asyncio

import pytest

from mcp_crew_redis.clock import Clock
from mcp_crew_redis.testing import ManualClock


def test_it_is_a_clock():
    """It fits wherever a Clock is asked for."""
    assert isinstance(ManualClock(), Clock)


async def test_a_loop_ticks_at_its_own_instants():
    """One long advance is many short wakings."""
    clock = ManualClock(start=0.0)
    ticks = []

    async def tick():
        while True:
            await clock.sleep(10.0)
            ticks.append(clock.monotonic())

    async with asyncio.TaskGroup() as group:
        task = group.create_task(tick())
        await clock.advance(35.0)
        task.cancel()

    assert ticks == [10.0, 20.0, 30.0]
    assert clock.monotonic() == 35.0


async def test_sleepers_wake_in_the_order_of_their_times():
    """Who sleeps less wakes first; equals wake in the order they came."""
    clock = ManualClock()
    woken = []

    async def nap(name, seconds):
        await clock.sleep(seconds)
        woken.append(name)

    async with asyncio.TaskGroup() as group:
        for name, seconds in (("late", 3.0), ("first", 1.0), ("second", 1.0)):
            group.create_task(nap(name, seconds))
        await clock.advance(5.0)

    assert woken == ["first", "second", "late"]


async def test_a_cancelled_sleeper_is_forgotten():
    """Cancelling a sleep leaves nothing on the clock."""
    clock = ManualClock()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(clock.sleep(10.0))
        await clock.advance(1.0)
        assert clock.sleeper_count == 1
        task.cancel()

    assert clock.sleeper_count == 0


async def test_the_wall_clock_jumps_alone():
    """A step of the wall clock is not seen by the monotonic one."""
    clock = ManualClock(start=5.0, wall=100.0)

    clock.step_wall(-50.0)
    await clock.advance(1.0)

    assert clock.wall() == 51.0
    assert clock.monotonic() == 6.0


async def test_time_does_not_go_back():
    """A negative advance is refused."""
    with pytest.raises(ValueError, match="does not go back"):
        await ManualClock().advance(-1.0)
