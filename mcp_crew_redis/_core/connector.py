"""One dial at a time for a node, at a bounded pace, shared by all who wait for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from random import Random

from mcp_crew_redis._core.backoff import DecorrelatedJitter
from mcp_crew_redis._core.dialling import DialFailedError
from mcp_crew_redis._core.owner import TaskOwner
from mcp_crew_redis._core.wire_settings import WireSettings
from mcp_crew_redis.clock import Clock
from mcp_crew_redis.errors import CrewRedisError
from mcp_crew_redis.log import get_logger

__all__ = ["Connector"]

log = get_logger(__name__)

RETURN_PAUSE = 0.1  # seconds between dials that nobody asked for


class Connector:
    """Runs dials. A caller who gives up waiting does not stop the dial.

    Attributes:
        dials: Connections made.
        failures: Dials that failed.
    """

    def __init__(
        self,
        dial: Callable[[bool], Awaitable[None]],
        *,
        owner: TaskOwner,
        settings: WireSettings,
        clock: Clock,
        random: Random,
        failed: Callable[[DialFailedError], None],
    ) -> None:
        self._dial = dial
        self._owner = owner
        self._settings = settings
        self._clock = clock
        self._failed = failed
        self._jitter = DecorrelatedJitter(random)
        self._next = 0.0
        self._failure: DialFailedError | None = None
        self._running: asyncio.Future[None] | None = None
        self.dials = self.failures = 0

    async def connected(self, *, is_bulk: bool) -> None:
        """Wait for the dial under way, or start one for this lane.

        Raises:
            UnavailableError: The dial failed, or the last one did just now.
            ConfigurationError: The server answered, and will answer so again.
        """
        running = self._running
        if running is None:
            self.check_pace()
            running = self._running = asyncio.get_running_loop().create_future()
            self._owner.start(self._run(running, is_bulk), "dial")
        await asyncio.shield(running)
        if self._failure is not None:
            raise self._failure.make()

    async def come_back(self, is_needed: Callable[[], bool]) -> None:
        """Dial although nobody asks, as long as `is_needed`."""
        while is_needed():
            with contextlib.suppress(CrewRedisError):
                await self.connected(is_bulk=False)
            if is_needed():
                await self._clock.sleep(RETURN_PAUSE)

    def check_pace(self, *, is_final: bool = False) -> None:
        """Raise the last failure again while it is too early for another dial.

        With `is_final` only if the server itself had refused.
        """
        failure = self._failure
        if failure is None or self._clock.monotonic() >= self._next:
            return
        if failure.is_final or not is_final:
            raise failure.make()

    async def probe(self) -> None:
        """Dial the interactive lane now, whatever the pace: the circuit sets it.

        Raises:
            DialFailedError: No connection.
        """
        running = self._running
        if running is None:
            running = self._running = asyncio.get_running_loop().create_future()
            await self._run(running, False)
        else:
            await asyncio.shield(running)
        if self._failure is not None:
            raise self._failure

    async def _run(self, done: asyncio.Future[None], is_bulk: bool) -> None:  # noqa: FBT001 - private
        try:
            await self._dial(is_bulk)
        except DialFailedError as failure:
            self.note(failure)
        else:
            self.dials += 1
            self._failure = None
            self._jitter.reset()
        finally:
            self._running = None
            if not done.done():
                done.set_result(None)

    def note(self, failure: DialFailedError) -> None:
        """Count a failed dial, and pace the next."""
        self.failures += 1
        self._failure = failure
        is_final = failure.is_final
        pause = self._settings.auth_pause if is_final else next(self._jitter)
        self._next = self._clock.monotonic() + pause
        log.warning("wire.dial_failed", cause=failure.cause, retry_after=pause)
        self._failed(failure)
