"""One Redis node: its lanes, its circuit, and what keeps both alive.

caller --- lane alive and circuit closed ---> submit            (the hot path)
`-- otherwise: acquire() -- admit -- dial -- room -----> submit
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

from redis.asyncio.connection import AbstractConnection

from mcp_crew_redis._core.backoff import RetryBudget
from mcp_crew_redis._core.breaker import (
    BreakerSettings,
    CircuitBreaker,
    CircuitChange,
    CircuitState,
)
from mcp_crew_redis._core.connector import Connector
from mcp_crew_redis._core.dialling import DialFailedError, Dialler, Greeting
from mcp_crew_redis._core.lane import PING, Lane
from mcp_crew_redis._core.lane_keeper import EndedLane
from mcp_crew_redis._core.owner import TaskOwner
from mcp_crew_redis._core.prober import Prober
from mcp_crew_redis._core.routing import Routing
from mcp_crew_redis._core.statistics import NodeStatistics
from mcp_crew_redis._core.strays import Strays
from mcp_crew_redis._core.wire_errors import WireOverloadedError, WireTimeoutError
from mcp_crew_redis._core.wire_settings import WireSettings
from mcp_crew_redis.clock import Clock
from mcp_crew_redis.errors import LifecycleError
from mcp_crew_redis.log import get_logger

__all__ = ["Node"]

log = get_logger(__name__)

RETIRE_PAUSE = 0.5  # seconds


class Node:
    """The connections to one address. Inert until first used; then bound to a loop."""

    def __init__(
        self,
        make_connection: Callable[[], AbstractConnection],
        *,
        address: str,
        settings: WireSettings,
        breaker: BreakerSettings,
        clock: Clock,
        random: Random,
        decoding: tuple[str, str] | None = None,
        on_push: Callable[[list[Any]], None] | None = None,
    ) -> None:
        self.address = address
        self.settings = settings
        self.clock = clock
        self.greeting: Greeting | None = None
        self.routing = Routing(large_for=settings.large_for, monotonic=clock.monotonic)
        self.budget = RetryBudget(monotonic=clock.monotonic)
        self.breaker = CircuitBreaker(
            breaker,
            monotonic=clock.monotonic,
            random=random,
            on_change=self._circuit_changed,
        )
        self._new_lane = partial(
            Lane,
            settings=settings,
            keeper=self,
            slow_after=breaker.slow_after,
            on_push=on_push,
            decoding=decoding,
        )
        self._is_closed = self._is_gated = False
        self._next_retirement = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._owner = TaskOwner("wire")
        self._dialler = Dialler(make_connection, settings)
        self.connector = Connector(
            self._dial,
            owner=self._owner,
            settings=settings,
            clock=clock,
            random=random,
            failed=self._dial_failed,
        )
        self._strays = Strays(self._owner, self._living, self._regate)
        self._prober = Prober(self.breaker, self._prove, self._owner, clock)
        self.interactive = self._new_lane("interactive")
        self.bulk = self._new_lane("bulk", is_bulk=True)

    # --- callers --------------------------------------------------------------------

    async def acquire(self, *, is_bulk: bool = False) -> Lane:
        """Return a live lane with room for one command, which must follow at once.

        Raises:
            UnavailableError: CircuitOpenError in microseconds while the circuit is
                open; OverloadedError or OperationTimeoutError after
                `command_timeout`; ConnectionLostError if the dial failed.
            ConfigurationError: The server refused credentials or is not supported.
            LifecycleError: The client is closed.
        """
        self.admit()
        lane = self._lane(is_bulk=is_bulk)
        is_here = self._loop is asyncio.get_running_loop()
        if is_here and lane.is_alive and lane.has_room and not self._strays:
            return lane
        try:
            async with asyncio.timeout(self.settings.command_timeout):
                lane = await self._ready(is_bulk=is_bulk)
                await lane.room()
                while not self._is_open(lane):
                    lane = await self._ready(is_bulk=is_bulk)
                    await lane.room()
                return lane
        except TimeoutError as error:
            if isinstance(error, WireTimeoutError):
                raise  # the dial's own
            raise self._late(is_bulk=is_bulk) from None

    async def _ready(self, *, is_bulk: bool) -> Lane:
        """Return a live lane that strays cannot overtake; the caller's deadline."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise self.misused("used from another one")
        while True:
            self.admit()
            lane = self._lane(is_bulk=is_bulk)
            if not lane.is_alive:
                await self.connector.connected(is_bulk=is_bulk)
            elif self._strays:
                await self._strays.settled()
            else:
                return lane

    def _is_open(self, lane: Lane) -> bool:
        return lane.is_alive and not self._strays

    def _lane(self, *, is_bulk: bool) -> Lane:
        return self.bulk if is_bulk else self.interactive

    def admit(self) -> None:
        """Pass, or raise in microseconds what a call would end with.

        Raises:
            CircuitOpenError: The circuit is open, or still ramping.
            LifecycleError: The client is closed.
        """
        if self._is_closed:
            raise LifecycleError("the client is closed: make a new one")
        breaker = self.breaker
        if not breaker.is_closed:
            breaker.admit()
        if breaker.is_closed and self._is_gated and not self._strays:
            self._regate()  # the ramp is over: open the direct way again

    def _late(self, *, is_bulk: bool) -> Exception:
        timeout = self.settings.command_timeout
        lane = self._lane(is_bulk=is_bulk)
        if not lane.is_alive or self._strays:
            return WireTimeoutError(timeout, sent=False)
        return WireOverloadedError(
            f"no room on the {lane.name} lane within {timeout:.3f} s "
            f"({len(lane.pending)} of {self.settings.max_pending} commands pending)",
            retry_after=timeout,
        )

    async def quiet(self) -> None:
        """Wait until nothing sent before can still happen after what follows.

        For connections beside the lanes: no stray is left, and what the lanes hold is
        answered. Raises as `acquire`.
        """
        self.admit()
        timeout = self.settings.command_timeout
        try:
            async with asyncio.timeout(timeout):
                await self._ready(is_bulk=False)
                while self.interactive.pending or self.bulk.pending or self._strays:
                    await self.interactive.reached()
                    await self.bulk.reached()
                    await self._ready(is_bulk=False)
                    if not self._strays:
                        return
        except TimeoutError as error:
            if isinstance(error, WireTimeoutError):
                raise
            raise WireTimeoutError(timeout, sent=False) from None

    @property
    def has_strays(self) -> bool:
        """Whether a given-up connection may still execute something."""
        return bool(self._strays)

    def give_up(self, client_id: int | None, run_id: str) -> None:
        """Tell that a connection was closed with a command unanswered: a stray."""
        if not self._is_closed:
            self._strays.report(client_id, run_id)

    async def connect(self) -> Greeting:
        """Make the first connection now, so that its errors show here."""
        await self.quiet()
        assert self.greeting is not None
        return self.greeting

    @staticmethod
    def misused(how: object) -> Exception:
        """Return the error for a use from a loop that the lanes do not belong to."""
        return LifecycleError(
            f"this client belongs to another event loop: make one per loop ({how})"
        )

    # --- dialling -------------------------------------------------------------------

    async def _dial(self, is_bulk: bool) -> None:  # noqa: FBT001 - the connector's
        lane = self._new_lane("bulk" if is_bulk else "interactive", is_bulk=is_bulk)
        strays = self._strays.snapshot()
        greeting = await self._dialler.dial(lane, strays)
        self.greeting = greeting
        lane.run_id = greeting.run_id
        if self._is_closed:
            lane.end("closed")
        elif is_bulk:
            self.bulk = lane
            lane.on_progress = lambda: self.routing.landed(lane.answered)
        else:
            self.interactive = lane
        self._strays.forget(strays)  # opens the gates too
        log.info("wire.lane_connected", lane=lane.name, node=self.address)

    def _dial_failed(self, failure: DialFailedError) -> None:
        breaker = self.breaker
        if failure.is_final:
            return  # it answered: the circuit has nothing to say about it
        if self._living() is not None:
            breaker.record_failure(breaker.generation, failure.cause)
        else:
            breaker.trip(breaker.generation, failure.cause)

    def _living(self) -> Lane | None:
        for lane in (self.interactive, self.bulk):
            if lane.is_alive:
                return lane
        return None

    # --- what the lanes tell ----------------------------------------------------------

    def lane_late(
        self, lane: EndedLane, count: int, *, is_silent: bool, token: int
    ) -> None:
        """Count timeouts; a node that does not answer at all opens the circuit."""
        if not is_silent:
            self.breaker.record_failure(token, "timeout", count)
            return
        log.warning("wire.lane_silent", lane=lane.name, node=self.address, count=count)
        self.breaker.trip(token, "silence")

    def lane_measured(self, answered: int, slow: int, *, token: int) -> None:
        """Count successes."""
        self.breaker.record_success(token, answered, slow)
        self.budget.deposit(answered)

    def lane_ended(
        self, lane: EndedLane, cause: str, unanswered: int, *, token: int
    ) -> None:
        """Remember what may still happen; close the direct way until it cannot."""
        if lane is self.bulk:
            self.routing.reset()
        if self._is_closed:
            return
        log.info("wire.lane_lost", lane=lane.name, node=self.address, cause=cause)
        if unanswered:
            self.give_up(lane.client_id, lane.run_id)
            self.breaker.record_failure(token, cause)

    def retire(self, cause: str) -> None:
        """Give up both lanes: the address may lead to another server already.

        At most once in `RETIRE_PAUSE`: a new connection that hears the same answer
        has nothing better to go to.
        """
        now = self.clock.monotonic()
        if now < self._next_retirement:
            return
        self._next_retirement = now + RETIRE_PAUSE
        self.interactive.end(cause)
        self.bulk.end(cause)

    # --- the circuit ------------------------------------------------------------------

    def _circuit_changed(self, change: CircuitChange) -> None:
        log.warning(
            "breaker.changed",
            node=self.address,
            state=change.state.value,
            previous=change.previous.value,
            cause=change.cause,
        )
        self._regate()
        if change.state is CircuitState.OPEN and not self._is_closed:
            self._prober.start()

    async def _prove(self) -> None:
        """PING over the living lane, or dial a new one: its greeting has a PING."""
        lane = self.interactive
        if lane.is_alive:
            await lane.submit(PING)  # the lane's own timeout ends it
        else:
            await self.connector.probe()

    def _regate(self) -> None:
        self._is_gated = is_gated = not self.breaker.is_closed or bool(self._strays)
        for lane in (self.interactive, self.bulk):
            lane.gate(is_gated=is_gated, token=self.breaker.generation)

    # --- the end ----------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close the lanes and end every task. Idempotent."""
        self._is_closed = True
        self.interactive.end("closed")
        self.bulk.end("closed")
        await self._owner.aclose()

    def statistics(self) -> NodeStatistics:
        """Return the figures of this moment."""
        greeting = self.greeting
        return NodeStatistics(
            address=self.address,
            server="" if greeting is None else f"{greeting.server} {greeting.version}",
            circuit=self.breaker.statistics(),
            interactive=self.interactive.statistics(),
            bulk=self.bulk.statistics(),
            dials=self.connector.dials,
            dial_failures=self.connector.failures,
            strays=len(self._strays),
            kill_refused=self._strays.is_refused
            or (greeting is not None and greeting.kill_refused),
        )

    def __repr__(self) -> str:
        return f"<Node {self.address} {self.breaker.state.value} {self.interactive!r}>"
