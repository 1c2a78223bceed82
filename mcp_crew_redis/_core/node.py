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
        self._is_closed = False
        self._owner = TaskOwner("wire")
        self._dialler = Dialler(make_connection, settings)
        self._connector = Connector(
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
        self.bulk = self._new_lane("bulk")

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
        self._admit()
        lane = self._lane(is_bulk=is_bulk)
        if lane.is_alive and lane.has_room and not self._strays:
            return lane
        try:
            async with asyncio.timeout(self.settings.command_timeout):
                return await self._acquire(is_bulk=is_bulk)
        except TimeoutError as error:
            if isinstance(error, WireTimeoutError):
                raise  # the dial's own
            raise self._late(is_bulk=is_bulk) from None

    async def _acquire(self, *, is_bulk: bool) -> Lane:
        while True:
            lane = self._lane(is_bulk=is_bulk)
            if not lane.is_alive:
                await self._connector.connected(is_bulk=is_bulk)
            elif self._strays:
                await self._strays.settled()
            else:
                await lane.room()
                if self._is_open(lane):
                    return lane
            self._admit()

    def _is_open(self, lane: Lane) -> bool:
        return lane.is_alive and not self._strays

    def _lane(self, *, is_bulk: bool) -> Lane:
        return self.bulk if is_bulk else self.interactive

    def _admit(self) -> None:
        if self._is_closed:
            raise LifecycleError("the client is closed: make a new one")
        breaker = self.breaker
        if not breaker.is_closed:
            breaker.admit()
            if breaker.is_closed:  # the ramp is over: open the direct way again
                self._regate()

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

    async def settled(self) -> None:
        """Wait until the circuit admits and no stray is left; raises as `acquire`."""
        self._admit()
        if self._strays:
            await self.acquire()

    def give_up(self, client_id: int | None, run_id: str) -> None:
        """Tell that a connection was closed with a command unanswered: a stray."""
        if not self._is_closed:
            self._strays.report(client_id, run_id)

    async def connect(self) -> Greeting:
        """Make the first connection now, so that its errors show here."""
        await self.acquire()
        assert self.greeting is not None
        return self.greeting

    def misused(self, error: RuntimeError) -> Exception:
        """Return the error for a use from a loop that the lanes do not belong to."""
        return LifecycleError(
            f"this client belongs to another event loop: make one per loop ({error})"
        )

    # --- dialling -------------------------------------------------------------------

    async def _dial(self, is_bulk: bool) -> None:  # noqa: FBT001 - the connector's
        lane = self._new_lane("bulk" if is_bulk else "interactive")
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

    def lane_late(self, lane: EndedLane, count: int, *, is_silent: bool) -> None:
        """Count timeouts; a node that does not answer at all opens the circuit."""
        breaker = self.breaker
        if not is_silent:
            breaker.record_failure(breaker.generation, "timeout", count)
            return
        log.warning("wire.lane_silent", lane=lane.name, node=self.address, count=count)
        breaker.trip(breaker.generation, "silence")

    def lane_measured(self, lane: EndedLane, answered: int, slow: int) -> None:  # noqa: ARG002 - the keeper's protocol
        """Count successes."""
        self.breaker.record_success(self.breaker.generation, answered, slow)
        self.budget.deposit(answered)

    def lane_ended(self, lane: EndedLane, cause: str, unanswered: int) -> None:
        """Remember what may still happen; close the direct way until it cannot."""
        if lane is self.bulk:
            self.routing.reset()
        if self._is_closed:
            return
        log.info("wire.lane_lost", lane=lane.name, node=self.address, cause=cause)
        if unanswered:
            self.give_up(lane.client_id, lane.run_id)
            self.breaker.record_failure(self.breaker.generation, cause)

    def retire(self, cause: str) -> None:
        """Give up both lanes: the address may lead to another server already."""
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
            await self._connector.probe()

    def _regate(self) -> None:
        is_gated = not self.breaker.is_closed or bool(self._strays)
        self.interactive.gate(is_gated=is_gated)
        self.bulk.gate(is_gated=is_gated)

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
            dials=self._connector.dials,
            dial_failures=self._connector.failures,
            strays=len(self._strays),
            kill_refused=self._strays.is_refused
            or (greeting is not None and greeting.kill_refused),
        )

    def __repr__(self) -> str:
        return f"<Node {self.address} {self.breaker.state.value} {self.interactive!r}>"
