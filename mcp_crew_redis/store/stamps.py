"""Stamps for writes: one hybrid clock per node, measured against the server's."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final

from mcp_crew_redis._core.owner import TaskOwner
from mcp_crew_redis._core.port import Port
from mcp_crew_redis._wire.stamp import MAX_LEAD_US, HybridClock
from mcp_crew_redis.clock import Clock
from mcp_crew_redis.errors import CrewRedisError
from mcp_crew_redis.log import get_logger

__all__ = ["MAX_AGE", "StampSource"]

log = get_logger(__name__)

MAX_AGE: Final = 30.0
"""Seconds after which the server's clock is measured again, by the next write."""

_MICROSECONDS: Final = 1_000_000


def _ignore() -> None:
    """Nobody wants to know."""


def _ignore_step(_: int) -> None:
    """Likewise."""


class StampSource:
    """Gives stamps that order writes, and follows every stamp that is read.

    Nothing happens on its own: the first write waits for one `TIME`; a later write
    that finds the measurement old starts another beside it and does not wait. One for
    each node and event loop.

    Args:
        port: Where the server is asked for its time.
        clock: Local time.

    Attributes:
        hybrid: The clock itself.
        is_ready: Whether the server's clock has been measured.
        on_refresh: Called when a new measurement is due, at most every `MAX_AGE`
            seconds or with a new connection.
        on_first: Called once, when the server's clock has been measured for the first
            time, with how far it is ahead of this machine's, in microseconds.
    """

    def __init__(self, port: Port, clock: Clock) -> None:
        self.hybrid = HybridClock(clock)
        self._follow = self.hybrid.follow
        self.is_ready = False
        self.on_refresh: Callable[[], None] = _ignore
        self.on_first: Callable[[int], None] = _ignore_step
        self._port = port
        self._node = port.client.node
        self._monotonic = clock.monotonic
        self._due = -math.inf  # monotonic: from then on the measurement is old
        # The newest stamps read before the first measurement: within reach of this
        # machine's wall clock, which may be wrong, and beyond it.
        self._near = self._far = 0
        self._greeting: object = None  # of the connection that was measured last
        self._lock = asyncio.Lock()  # binds to a loop when it is first waited for
        self._owner = TaskOwner("stamps")

    def __repr__(self) -> str:
        return f"<StampSource {self.hybrid!r}>"

    # --- stamps -----------------------------------------------------------------------

    async def ready(self) -> None:
        """Measure the server's clock unless that has been done; callers share it.

        Cancelling one caller leaves the measurement to the next.

        Raises:
            UnavailableError: Redis did not answer.
        """
        async with self._lock:
            if not self.is_ready:
                await self._measure()

    def stamp(self) -> int:
        """Return a stamp newer than all given and followed; `ready()` has returned."""
        stamp = self.hybrid.stamp()
        if self._monotonic() >= self._due or self._node.greeting is not self._greeting:
            self._refresh()
        return stamp

    def above(self, stamp: int) -> int:
        """Return a stamp newer than `stamp`, which stands in Redis.

        One that is too far ahead to be followed is passed by one microsecond; the
        clock itself stays where it is.
        """
        self.follow(stamp)
        return max(self.stamp(), stamp + 1)

    def follow(self, stamp: int) -> None:
        """Take note of a stamp that was read: later writes will be newer."""
        if self.is_ready:
            lead = self._follow(stamp)
        else:
            self._keep(stamp)
            return
        if lead:
            count = self.hybrid.ignored_count
            if count & (count - 1) == 0:  # the 1st, 2nd, 4th, ...: no flood
                log.warning("stamps.lead_ignored", lead_us=lead, ignored_count=count)

    def _keep(self, stamp: int) -> None:
        """Keep a stamp that only the server's clock can judge, until that is measured.

        Apart, so that a wild one does not hide those that will be followed.
        """
        if stamp <= self._near:
            return
        if stamp - self.hybrid.now_us() <= MAX_LEAD_US:
            self._near = stamp
        else:
            self._far = max(self._far, stamp)

    # --- measuring --------------------------------------------------------------------

    def _refresh(self) -> None:
        self.on_refresh()
        # Whatever becomes of it, the next one is not before MAX_AGE has passed again.
        self._schedule()
        if not self._owner:
            self._owner.start(self._try_measure(), "measure")

    async def _try_measure(self) -> None:
        try:
            await self._measure()
        except CrewRedisError as error:  # the offset in use stays good for a while
            log.debug("stamps.measurement_failed", cause=type(error).__name__)

    async def _measure(self) -> None:
        sent_at = self._monotonic()
        seconds, fraction = await self._port.send("TIME")
        received_at = self._monotonic()
        server_us = int(seconds) * _MICROSECONDS + int(fraction)
        step_us = self.hybrid.calibrate(server_us, sent_at, received_at)
        self._schedule()
        if not self.is_ready:
            self.is_ready = True
            self.hybrid.rebase(step_us)
            self.on_first(step_us)
            self.follow(self._near)
            self.follow(self._far)
        log.debug("stamps.measured", step_us=step_us, error_us=self.hybrid.error_us)

    def _schedule(self) -> None:
        # Not by stamps: while they slew they are not the time.
        self._due = self._monotonic() + MAX_AGE
        self._greeting = self._node.greeting

    async def aclose(self) -> None:
        """End a measurement that is under way. Idempotent."""
        await self._owner.aclose()
