"""A clock that stands still until the test moves it."""

from __future__ import annotations

import asyncio
import heapq
import itertools

import anyio

__all__ = ["ManualClock"]

_TURNS = 10


class ManualClock:
    """A `Clock` whose time moves by `advance` only, so that no test waits.

    Args:
        start: First value of `monotonic()`, in seconds.
        wall: First value of `wall()`, in Unix seconds.
    """

    def __init__(
        self, start: float = 1_000.0, *, wall: float = 1_700_000_000.0
    ) -> None:
        self._now = start
        self._wall_offset = wall - start
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []
        self._sequence = itertools.count()

    def __repr__(self) -> str:
        return f"<ManualClock at {self._now:.3f} s, {len(self._sleepers)} asleep>"

    @property
    def sleeper_count(self) -> int:
        """How many tasks are asleep on this clock."""
        return len(self._sleepers)

    def monotonic(self) -> float:
        """Return the seconds that the test has made it."""
        return self._now

    def wall(self) -> float:
        """Return Unix seconds; they move with `advance` and jump with `step_wall`."""
        return self._now + self._wall_offset

    def step_wall(self, seconds: float) -> None:
        """Jump the wall clock alone, as an operator or NTP does; may be negative."""
        self._wall_offset += seconds

    async def sleep(self, seconds: float) -> None:
        """Suspend the caller until the clock has been advanced by `seconds`.

        A cancelled sleeper is forgotten at once.
        """
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        entry = (self._now + seconds, next(self._sequence), asyncio.Event())
        heapq.heappush(self._sleepers, entry)
        try:
            await entry[2].wait()
        except BaseException:
            if entry in self._sleepers:
                self._sleepers.remove(entry)
                heapq.heapify(self._sleepers)
            raise

    async def advance(self, seconds: float) -> None:
        """Move time by `seconds`, waking each sleeper at its own instant, in order.

        Between two wakings every task runs until it waits again, so a loop that
        sleeps 10 s ticks at exactly 10, 20 and 30.
        """
        if seconds < 0:
            raise ValueError("a monotonic clock does not go back")
        target = self._now + seconds
        await _settle()
        while self._sleepers and self._sleepers[0][0] <= target:
            self._now, _, wake = heapq.heappop(self._sleepers)
            wake.set()
            await _settle()
        self._now = target


async def _settle() -> None:
    """Let every task run until it waits for something."""
    # anyio looks every 0.1 s: some turns first, so that it mostly finds all blocked.
    for _ in range(_TURNS):
        await asyncio.sleep(0)
    await anyio.wait_all_tasks_blocked()
