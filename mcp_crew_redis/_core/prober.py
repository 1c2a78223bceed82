"""Probes: how a node whose circuit is open is found well again, without user calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from math import inf

from redis.exceptions import ResponseError

from mcp_crew_redis._core.breaker import CircuitBreaker
from mcp_crew_redis._core.dialling import DialFailedError
from mcp_crew_redis._core.owner import TaskOwner
from mcp_crew_redis._core.wire_errors import refusal_code, serves_nobody
from mcp_crew_redis.clock import Clock
from mcp_crew_redis.log import get_logger

__all__ = ["Prober", "answered"]

log = get_logger(__name__)

BUSY_FOR = 5.0  # seconds of a script after which an operator should hear of it


class Prober:
    """Probes one node until its circuit has closed.

    Args:
        breaker: Says when, and is told the outcomes.
        prove: Returns if the node serves, raises otherwise.
        owner: Runs the task.
        clock: Waits.
    """

    def __init__(
        self,
        breaker: CircuitBreaker,
        prove: Callable[[], Awaitable[None]],
        owner: TaskOwner,
        clock: Clock,
    ) -> None:
        self._breaker = breaker
        self._prove = prove
        self._owner = owner
        self._clock = clock
        self._is_running = False
        self._busy_since: float | None = None

    def start(self) -> None:
        """Start probing, unless it is under way."""
        if not self._is_running:
            self._is_running = True
            self._owner.start(self._run(), "probe")

    async def _run(self) -> None:
        try:
            while self._breaker.wants_probe:
                await self._clock.sleep(self._breaker.probe_delay())
                if self._breaker.wants_probe:
                    await self._probe()
        finally:
            self._is_running = False

    async def _probe(self) -> None:
        breaker = self._breaker
        token = breaker.begin_probe()
        try:
            await self._prove()
        except asyncio.CancelledError:
            breaker.probe_cancelled(token)
            raise
        except DialFailedError as failure:
            self._failed(token, failure.cause)
        except Exception as error:  # noqa: BLE001 - whatever it is, it does not serve
            self._failed(token, refusal_code(error) or type(error).__name__)
        else:
            self._busy_since = None
            breaker.probe_succeeded(token)

    def _failed(self, token: int, cause: str) -> None:
        self._breaker.probe_failed(token, cause)
        now = self._clock.monotonic()
        if cause.upper() != "BUSY":
            self._busy_since = None
        elif self._busy_since is None:
            self._busy_since = now
        elif now - self._busy_since >= BUSY_FOR:
            # Ending somebody's script is not ours to decide.
            log.warning("wire.script_busy", since_s=round(now - self._busy_since, 3))
            self._busy_since = inf  # said once


async def answered(pong: Awaitable[object]) -> None:
    """Wait for the answer to a PING; what it denies one user is an answer too.

    Raises:
        Exception: There is none, or it says that the server does not serve now.
    """
    try:
        await pong
    except ResponseError as error:
        if serves_nobody(error):
            raise
