"""The ticker by itself, on a clock that stands still."""

from __future__ import annotations

from contextlib import asynccontextmanager
from itertools import pairwise
from random import Random

import anyio

from mcp_crew_redis._core.bell_listening import BellListener, Registration
from mcp_crew_redis._core.bell_ticker import FASTEST, SLOWEST, Ticker
from mcp_crew_redis.testing import ManualClock


class Owner:
    """A bell that takes no notice."""

    def left(self, registration):
        pass

    def pace_changed(self):
        pass

    def hasten(self, registration):
        pass


class Watch(BellListener):
    """Notes when it was told to look."""

    def __init__(self, clock):
        self.clock, self.at = clock, []

    def on_tick(self):
        self.at.append(self.clock.monotonic())

    @property
    def gaps(self):
        return [later - earlier for earlier, later in pairwise(self.at)]


@asynccontextmanager
async def ticking(count=1):
    clock = ManualClock()
    watches = [Watch(clock) for _ in range(count)]
    registrations = [Registration(b"p:", watch, Owner()) for watch in watches]
    ticker = Ticker(clock, Random(7))
    async with anyio.create_task_group() as group:
        group.start_soon(ticker.run, registrations, 3600.0)
        yield clock, ticker, watches, registrations
        group.cancel_scope.cancel()


async def test_ticks_begin_fast_and_grow_slow():
    """From 5 ms to 250 ms, never outside."""
    async with ticking() as (clock, _, (watch,), _registrations):
        start = clock.monotonic()
        await clock.advance(5.0)
        assert watch.at[0] - start <= FASTEST + 1e-9
        assert watch.gaps == sorted(watch.gaps)
        assert min(watch.gaps) >= FASTEST - 1e-9
        assert 0.9 * SLOWEST <= watch.gaps[-1] <= SLOWEST + 1e-9


async def test_hastened_listener_is_ticked_soon_alone():
    """Activity of one tenant does not have all the others look."""
    async with ticking(2) as (clock, ticker, (quick, idle), (registration, _)):
        await clock.advance(5.0)
        quick.at.clear()
        idle.at.clear()
        ticker.hasten(registration)
        await clock.advance(0.05)
        assert len(quick.at) >= 4
        assert len(idle.at) <= 1


async def test_hastening_again_and_again_does_not_put_a_tick_off():
    """Nor does it make more than one in 5 ms."""
    async with ticking() as (clock, ticker, (watch,), (registration,)):
        await clock.advance(1.0)
        watch.at.clear()
        for _ in range(100):
            ticker.hasten(registration)
            await clock.advance(0.001)
        assert 15 <= len(watch.at) <= 21


async def test_closed_and_healthy_listeners_are_not_ticked():
    """Only who has no bell has to look."""
    async with ticking(2) as (clock, _, watches, (closed, healthy)):
        closed.close()
        healthy.tell_healthy()
        await clock.advance(1.0)
        assert [watch.at for watch in watches] == [[], []]
