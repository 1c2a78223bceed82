"""Stamps for writes: one hybrid clock per node, measured against the server's."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final

from mcp_crew_redis._core.owner import TaskOwner
from mcp_crew_redis._core.port import Port
from mcp_crew_redis._wire.stamp import HybridClock
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
    """

    def __init__(self, port: Port, clock: Clock) -> None:
        self.hybrid = HybridClock(clock)
        self._follow = self.hybrid.follow
        self.is_ready = False
        self.on_refresh: Callable[[], None] = _ignore
        self._port = port
        self._node = port.client.node
        self._monotonic = clock.monotonic
        self._offset_ms = -math.inf  # the server's time minus the local monotonic one
        self._due = 0  # the stamp from which on the measurement is old
        self._seen = 0  # the newest stamp read before the first measurement
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
        if stamp >= self._due or self._node.greeting is not self._greeting:
            self._refresh(stamp)
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
        else:  # this machine's wall clock cannot judge it yet
            self._seen, lead = max(self._seen, stamp), 0
        if lead:
            count = self.hybrid.ignored_count
            if count & (count - 1) == 0:  # the 1st, 2nd, 4th, ...: no flood
                log.warning("stamps.lead_ignored", lead_us=lead, ignored_count=count)

    def has_passed(self, expires_at_ms: int | None) -> bool:
        """Whether a header's `expires_at_ms` is over, as far as is known here.

        Before the first measurement nothing is: Redis itself expires keys.
        """
        # Every read passes here: a sum, and not the clock's own way to it.
        return (
            expires_at_ms is not None
            and expires_at_ms <= self._offset_ms + self._monotonic() * 1e3
        )

    # --- measuring --------------------------------------------------------------------

    def _refresh(self, stamp: int) -> None:
        self.on_refresh()
        # Whatever becomes of it, the next one is not before MAX_AGE has passed again.
        self._schedule(stamp)
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
        self._offset_ms = self.hybrid.now_us() / 1e3 - self._monotonic() * 1e3
        self._schedule(server_us)
        if not self.is_ready:
            self.is_ready = True
            self.follow(self._seen)
        log.debug("stamps.measured", step_us=step_us, error_us=self.hybrid.error_us)

    def _schedule(self, now_us: int) -> None:
        self._due = now_us + round(MAX_AGE * _MICROSECONDS)
        self._greeting = self._node.greeting

    async def aclose(self) -> None:
        """End a measurement that is under way. Idempotent."""
        await self._owner.aclose()
