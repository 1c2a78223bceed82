"""Probes: how a node whose circuit is open is found well again, without user calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from redis.exceptions import ResponseError

from mcp_crew_redis._core.breaker import CircuitBreaker
from mcp_crew_redis._core.dialling import DialFailedError
from mcp_crew_redis._core.owner import TaskOwner
from mcp_crew_redis._core.wire_errors import refusal_code, serves_nobody
from mcp_crew_redis.clock import Clock

__all__ = ["Prober", "answered"]


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
            breaker.probe_failed(token, failure.cause)
        except Exception as error:  # noqa: BLE001 - whatever it is, it does not serve
            cause = refusal_code(error) or type(error).__name__
            breaker.probe_failed(token, cause)
        else:
            breaker.probe_succeeded(token)


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
