"""Where a node's connections go, and noticing that its name leads elsewhere by now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sized
from typing import Any, Protocol

from redis.asyncio.connection import AbstractConnection

from mcp_crew_redis._core.addresses import Addresses, is_name, resolve
from mcp_crew_redis._core.owner import TaskOwner
from mcp_crew_redis.clock import Clock

__all__ = ["Destination"]

LOOK_AGAIN = 30.0  # seconds between two questions about the name of an idle lane
RESOLVE_TIMEOUT = 5.0  # seconds


class _IdleLane(Protocol):
    """What is asked of a lane that has nothing to do."""

    is_alive: bool

    @property
    def pending(self) -> Sized: ...

    @property
    def peer(self) -> str: ...

    async def reached(self) -> None: ...

    def end(self, cause: str) -> None: ...


class Destination:
    """Makes a node's connections, with one memory of which addresses failed.

    Attributes:
        addresses: That memory.

    Args:
        make: Makes a connection.
        owner: Runs the questions to the resolver.
        clock: Keeps them apart.
    """

    def __init__(
        self, make: Callable[[], AbstractConnection], owner: TaskOwner, clock: Clock
    ) -> None:
        self._make = make
        self._owner = owner
        self._clock = clock
        self._place = ("", 0)
        self._next_look = 0.0
        self.addresses = Addresses()

    def make(self) -> Any:
        """Make a connection that knows which of the host's addresses failed."""
        connection: Any = self._make()
        connection.addresses = self.addresses
        self._place = (
            str(getattr(connection, "host", "")),
            int(getattr(connection, "port", 0)),
        )
        self._next_look = self._clock.monotonic() + LOOK_AGAIN
        return connection

    def lane_idle(self, lane: _IdleLane) -> None:
        """Ask the resolver, every half minute, whether the name still leads here.

        A dial asks anyway; an idle lane could stay for ever with a server that has
        left its name to another.
        """
        now = self._clock.monotonic()
        if now >= self._next_look and is_name(self._place[0]):
            self._next_look = now + LOOK_AGAIN
            self._owner.start(self._look(lane), "resolve")

    async def _look(self, lane: _IdleLane) -> None:
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT):
                found = await resolve(*self._place)
                await lane.reached()  # its PING may be on its way
        except OSError:  # a TimeoutError is one; a name that is lost is no new place
            return
        if lane.is_alive and not lane.pending and lane.peer not in found:
            lane.end("moved")
