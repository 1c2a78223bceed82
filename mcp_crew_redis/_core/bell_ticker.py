"""Where no bell can be had: tells listeners when to look, often only where it pays."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from itertools import count
from random import Random

from anyio import CancelScope

from mcp_crew_redis._core.bell_listening import Registration
from mcp_crew_redis.clock import Clock

__all__ = ["FASTEST", "SLOWEST", "Ticker"]

FASTEST = 0.005  # seconds between two ticks just after activity
SLOWEST = 0.25  # seconds between two ticks when nothing happens
GROWTH = 1.5


class Ticker:
    """Ticks each registration at a pace of its own.

    Args:
        clock: Time.
        random: Spreads the ticks of many idle listeners.
    """

    def __init__(self, clock: Clock, random: Random) -> None:
        self._clock = clock
        self._random = random
        self._queue: list[tuple[float, int, Registration]] = []
        self._order = count()  # two due at once: first come, first told
        self._nap: CancelScope | None = None

    def add(self, registration: Registration) -> None:
        """Tick this one too, fast at first."""
        registration.tick_delay = FASTEST
        self._push(registration, self._clock.monotonic() + FASTEST)
        self._wake()

    def hasten(self, registration: Registration) -> None:
        """Tick this one soon, then ever slower until it is hastened again."""
        due = self._clock.monotonic() + FASTEST
        registration.tick_delay = FASTEST
        if registration.tick_due > due:
            self._push(registration, due)
            self._wake()

    async def run(self, registrations: Iterable[Registration], seconds: float) -> None:
        """Tick these, and what is added meanwhile, for so long."""
        until = self._clock.monotonic() + seconds
        self._queue.clear()
        for registration in registrations:
            delay = max(FASTEST, registration.tick_delay)
            self._push(registration, self._clock.monotonic() + delay)
        try:
            while (now := self._clock.monotonic()) < until:
                self._tick(now)
                due = min(self._queue[0][0] if self._queue else until, until)
                with CancelScope() as self._nap:
                    await self._clock.sleep(due - self._clock.monotonic())
                self._nap = None
        finally:
            self._nap = None
            self._queue.clear()

    def _tick(self, now: float) -> None:
        while self._queue and self._queue[0][0] <= now:
            due, _, registration = heapq.heappop(self._queue)
            if registration.is_closed or due != registration.tick_due:
                continue  # it has been hastened since
            grown = registration.tick_delay * GROWTH * self._random.uniform(0.9, 1.0)
            registration.tick_delay = max(FASTEST, min(SLOWEST, grown))
            self._push(registration, now + registration.tick_delay)
            registration.tell_tick()

    def _wake(self) -> None:
        if self._nap is not None:
            self._nap.cancel()

    def _push(self, registration: Registration, due: float) -> None:
        registration.tick_due = due
        heapq.heappush(self._queue, (due, next(self._order), registration))
