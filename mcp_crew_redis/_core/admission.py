"""Getting onto a lane when the direct way is closed: admit, connect, settle, wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from mcp_crew_redis._core.breaker import CircuitBreaker, CircuitState
from mcp_crew_redis._core.connector import Connector
from mcp_crew_redis._core.lane import Lane
from mcp_crew_redis._core.strays import Strays
from mcp_crew_redis._core.wire_errors import WireOverloadedError, WireTimeoutError
from mcp_crew_redis._core.wire_settings import WireSettings
from mcp_crew_redis.errors import LifecycleError

__all__ = ["Admission", "misused", "running_loop"]


class _Node(Protocol):
    """What the admission needs of its node."""

    settings: WireSettings
    breaker: CircuitBreaker
    connector: Connector
    strays: Strays
    interactive: Lane
    bulk: Lane
    is_closed: bool
    is_gated: bool


class Admission:
    """Lets callers onto the lanes of one node, or tells them at once why not.

    Args:
        node: Whose lanes.
        regate: Opens the direct way again, when nothing stands against it any more.
    """

    def __init__(self, node: _Node, regate: Callable[[], None]) -> None:
        self._node = node
        self._regate = regate
        self._loop: asyncio.AbstractEventLoop | None = None

    def admit(self, *, is_going: bool = False) -> None:
        """Pass, or raise in microseconds what a call would end with.

        Args:
            is_going: A part of the call has been let in: of a circuit that ramps up
                the rest is let in too, for half a call is worse than none or all.

        Raises:
            CircuitOpenError: The circuit is open, or still ramping.
            LifecycleError: The client is closed.
        """
        node = self._node
        if node.is_closed:
            raise LifecycleError("the client is closed: make a new one")
        breaker = node.breaker
        is_ramping = breaker.state is CircuitState.CLOSED
        if not breaker.is_closed and not (is_going and is_ramping):
            breaker.admit()
        if breaker.is_closed and node.is_gated and not node.strays:
            self._regate()  # the ramp is over

    def settle_in(self) -> None:
        """Belong to the running loop from the first use on.

        Raises:
            LifecycleError: The first use was in another loop.
        """
        loop = running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise misused("used from another one")

    async def acquire(self, *, is_bulk: bool = False, is_going: bool = False) -> Lane:
        """Return a live lane with room for one command, which must follow at once.

        Args:
            is_bulk: The lane for what is large.
            is_going: See `admit`.

        Raises:
            UnavailableError: CircuitOpenError in microseconds while the circuit is
                open; OverloadedError or OperationTimeoutError after
                `command_timeout`; ConnectionLostError if the dial failed.
            ConfigurationError: The server refused credentials or is not supported.
            LifecycleError: The client is closed, or belongs to another loop.
        """
        self.admit(is_going=is_going)
        token = self._node.breaker.generation
        lane = self._lane(is_bulk=is_bulk)
        is_here = self._loop is running_loop()
        if is_here and lane.has_room and self._is_open(lane):
            return lane
        try:
            async with asyncio.timeout(self._node.settings.command_timeout):
                while True:
                    lane = await self._ready(is_bulk=is_bulk, is_going=is_going)
                    await lane.room()
                    if self._is_open(lane):
                        return lane
        except TimeoutError as error:
            if isinstance(error, WireTimeoutError):
                raise  # the dial's own
            self._give_up_dialling(token)
            raise self._late(is_bulk=is_bulk) from None

    async def connected(self) -> None:
        """Return when the interactive lane is connected; raises as `acquire`."""
        self.admit()
        async with self._in_time():
            await self._ready(is_bulk=False)

    async def quiet(self) -> None:
        """Wait until nothing that was given up can happen after what follows.

        For connections beside the lanes: no stray is left, and no lane holds a command
        whose caller has gone. What live callers have in flight is concurrent with what
        follows, and waits for nobody. Raises as `acquire`.
        """
        self.admit()
        if not self._has_abandoned():
            return
        async with self._in_time():
            while self._has_abandoned():
                if self._node.strays:
                    await self._ready(is_bulk=False)  # a dial settles them too
                await self._node.interactive.reached()
                await self._node.bulk.reached()

    def _has_abandoned(self) -> bool:
        node = self._node
        return bool(node.strays) or any(
            slot.done()
            for lane in (node.interactive, node.bulk)
            for slot in lane.pending
        )

    @asynccontextmanager
    async def _in_time(self) -> AsyncGenerator[None, None]:
        timeout = self._node.settings.command_timeout
        token = self._node.breaker.generation
        try:
            async with asyncio.timeout(timeout):
                yield
        except TimeoutError as error:
            if isinstance(error, WireTimeoutError):
                raise  # the dial's own
            self._give_up_dialling(token)
            raise WireTimeoutError(timeout, sent=False) from None

    def _give_up_dialling(self, token: int) -> None:
        """Open the circuit: no lane is alive, and a whole timeout brought none.

        The dial goes on, and its success closes the circuit again; but the next caller
        need not wait as long to learn the same.
        """
        node = self._node
        if not (node.interactive.is_alive or node.bulk.is_alive):
            node.breaker.trip(token, "dial timeout")

    async def _ready(self, *, is_bulk: bool, is_going: bool = False) -> Lane:
        """Return a live lane that strays cannot overtake; the caller's deadline."""
        self.settle_in()
        while True:
            self.admit(is_going=is_going)
            lane = self._lane(is_bulk=is_bulk)
            if not lane.is_alive:
                await self._node.connector.connected(is_bulk=is_bulk)
            elif self._node.strays:
                await self._node.strays.settled()
            else:
                return lane

    def _is_open(self, lane: Lane) -> bool:
        return lane.is_alive and not self._node.strays

    def _lane(self, *, is_bulk: bool) -> Lane:
        return self._node.bulk if is_bulk else self._node.interactive

    def _late(self, *, is_bulk: bool) -> Exception:
        settings, lane = self._node.settings, self._lane(is_bulk=is_bulk)
        if not self._is_open(lane):
            return WireTimeoutError(settings.command_timeout, sent=False)
        return WireOverloadedError(
            f"no room on the {lane.name} lane within {settings.command_timeout:.3f} s "
            f"({len(lane.pending)} of {settings.max_pending} commands pending)",
            retry_after=settings.command_timeout,
        )


def running_loop() -> asyncio.AbstractEventLoop:
    """Return the loop; a forked child inside its parent's has none, and is told so."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError as error:
        raise misused(error) from None


def misused(how: object) -> LifecycleError:
    """Return the error for a use from a loop that the lanes do not belong to."""
    return LifecycleError(
        f"this client belongs to another event loop: make one per loop ({how})"
    )
