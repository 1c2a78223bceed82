"""When the bell dials again, after what went wrong."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random

from mcp_crew_redis._core.backoff import DecorrelatedJitter
from mcp_crew_redis._core.bell_dialler import REFUSED
from mcp_crew_redis._core.circuit import CircuitState
from mcp_crew_redis._core.dialling import DialFailedError
from mcp_crew_redis._core.node import Node
from mcp_crew_redis.clock import Clock

__all__ = ["BellPace"]

CIRCUIT_LOOK = 0.1  # seconds between two looks at a circuit that is not closed
REFUSED_PAUSE = 60.0  # seconds until a refused tracking is asked for again
FAILURES_UNTIL_POLLING = 3  # dials in a row, while a lane of the node lives


class BellPace:
    """The pause before the next dial, and the wait for it."""

    def __init__(self, node: Node, clock: Clock, random: Random) -> None:
        self._node = node
        self._clock = clock
        self._jitter = DecorrelatedJitter(random)
        self._failures = 0  # in a row
        self._is_refused = False  # the last dial, by who will do so again
        self._pause = 0.0

    # --- what happened --------------------------------------------------------------

    def lost(self) -> None:
        """A line has ended: all who heard this server lost theirs at this moment."""
        self._pause = next(self._jitter)

    def failed(self, failure: DialFailedError) -> float:
        """A dial has failed; return the pause."""
        self._failures += 1
        self._is_refused = failure.cause == REFUSED
        least = self._node.settings.auth_pause if failure.is_final else 0.0
        if self._is_refused:
            least = REFUSED_PAUSE
        self._pause = max(least, next(self._jitter))
        return self._pause

    def succeeded(self) -> None:
        """A line is in force."""
        self._failures, self._is_refused, self._pause = 0, False, 0.0

    def proven(self) -> None:
        """It has lasted for an interval: one that is cut at once does not get here."""
        self._jitter.reset()

    # --- what follows ---------------------------------------------------------------

    @property
    def is_futile(self) -> bool:
        """Redis serves and no bell can be had: refused, full, or cut off by a proxy."""
        is_served = self._node.interactive.is_alive
        is_in_vain = self._failures >= FAILURES_UNTIL_POLLING and is_served
        return self._is_refused or is_in_vain

    @property
    def is_admitted(self) -> bool:
        """Whether the node's circuit lets anybody dial."""
        return self._node.breaker.state is CircuitState.CLOSED

    async def wait(self, tick: Callable[[float], Awaitable[None]] | None) -> None:
        """Wait for the next dial: the pause due, then the circuit.

        An opened circuit ends a pause: what comes after it is another time.

        Args:
            tick: Spends the pause instead, given its seconds.
        """
        until = self._clock.monotonic() + self._pause
        if tick is not None:
            await tick(self._pause)
        while (left := until - self._clock.monotonic()) > 0 and self.is_admitted:
            await self._clock.sleep(min(left, CIRCUIT_LOOK))
        self._pause = 0.0
        while not self.is_admitted:
            await self._clock.sleep(CIRCUIT_LOOK)
