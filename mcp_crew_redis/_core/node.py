"""One Redis node: its lanes, its circuit, and what keeps both alive.

caller --- lane alive and circuit closed ---> submit            (the hot path)
`-- otherwise: acquire() -- admit -- dial -- room -----> submit
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

from redis.asyncio.connection import AbstractConnection

from mcp_crew_redis._core.admission import Admission
from mcp_crew_redis._core.backoff import RetryBudget
from mcp_crew_redis._core.breaker import (
    BreakerSettings,
    CircuitBreaker,
    CircuitChange,
    CircuitState,
)
from mcp_crew_redis._core.connector import Connector
from mcp_crew_redis._core.destination import Destination
from mcp_crew_redis._core.dialling import DialFailedError, Dialler, Greeting
from mcp_crew_redis._core.greeter import Greeter
from mcp_crew_redis._core.lane import PING, Lane
from mcp_crew_redis._core.lane_keeper import EndedLane
from mcp_crew_redis._core.owner import TaskOwner
from mcp_crew_redis._core.prober import Prober, answered
from mcp_crew_redis._core.routing import Routing
from mcp_crew_redis._core.statistics import NodeStatistics
from mcp_crew_redis._core.strays import Strays
from mcp_crew_redis._core.wire_errors import TurnedAwayError
from mcp_crew_redis._core.wire_settings import WireSettings
from mcp_crew_redis.clock import Clock
from mcp_crew_redis.log import get_logger

__all__ = ["Node"]

log = get_logger(__name__)

RETIRE_PAUSE = 0.5  # seconds
GARBAGE = "protocol"  # the cause of a lane's end by what is no reply


class Node:
    """The connections to one address. Inert until first used; then bound to a loop.

    Attributes:
        restorer: Is given every new connection before all others.
        on_circuit: Called after each change of the circuit's state.
    """

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
        self.restorer: Greeter | None = None
        self.on_circuit: list[Callable[[], None]] = []
        self.is_closed = self.is_gated = False
        self._pid = 0  # of the process that dialled
        self._next_retirement = 0.0
        self._staff(make_connection, random)
        self.interactive = self._new_lane("interactive")
        self.bulk = self._new_lane("bulk", is_bulk=True)

    def _staff(
        self, make_connection: Callable[[], AbstractConnection], random: Random
    ) -> None:
        """Hire those who dial, settle, probe and admit."""
        self._owner = TaskOwner("wire")
        self._destination = Destination(make_connection, self._owner, self.clock)
        self._dialler = Dialler(self._destination.make, self.settings)
        self.connector = Connector(
            self._dial,
            owner=self._owner,
            settings=self.settings,
            clock=self.clock,
            random=random,
            failed=self.dial_failed,
        )
        self.strays = Strays(self._owner, self._living, self._regate)
        self.admission = Admission(self, self._regate)
        self._prober = Prober(self.breaker, self._prove, self._owner, self.clock)

    def give_up(self, client_id: int | None, run_id: str) -> None:
        """Tell that a connection was closed with a command unanswered: a stray."""
        if not self.is_closed:
            self.strays.report(client_id, run_id)

    async def connect(self) -> Greeting:
        """Make the first connection now, so that its errors show here."""
        await self.admission.connected()
        assert self.greeting is not None
        return self.greeting

    # --- dialling -------------------------------------------------------------------

    async def _dial(self, is_bulk: bool) -> None:  # noqa: FBT001 - the connector's
        self._pid = os.getpid()
        lane = self._new_lane("bulk" if is_bulk else "interactive", is_bulk=is_bulk)
        strays = self.strays.snapshot()
        late = self.settings.command_timeout / 2
        doubt = asyncio.get_running_loop().call_later(late, self._doubt)
        try:
            greeting = await self._dialler.dial(lane, strays)
        finally:
            doubt.cancel()
        if self.restorer is not None:
            await self.restorer.greet(lane, greeting, (self.interactive, self.bulk))
        if self.greeting is not None and self.greeting.run_id != greeting.run_id:
            log.warning("wire.server_changed", node=self.address, role=greeting.role)
        self.greeting = greeting
        lane.run_id = greeting.run_id
        if self.is_closed:
            lane.end("closed")
        elif is_bulk:
            self.bulk = lane
            lane.on_progress = lambda: self.routing.landed(lane.answered)
        else:
            self.interactive = lane
        self.strays.forget(strays)  # opens the gates too
        log.info("wire.lane_connected", lane=lane.name, node=self.address)

    def _doubt(self) -> None:
        """Ask on the idle living lane: if it is silent too, the circuit must open."""
        for lane in (self.interactive, self.bulk):
            if lane.is_alive and not lane.pending:
                lane.ping()

    def dial_failed(self, failure: DialFailedError) -> None:
        """Tell the circuit of a failed dial, for a lane or for another connection.

        Without a living lane it opens. With one, a full server is no failure: it
        refuses newcomers and goes on serving who is there.
        """
        breaker = self.breaker
        if failure.is_final:
            return  # it answered: the circuit has nothing to say about it
        if self._living() is not None:
            if not isinstance(failure.__cause__, TurnedAwayError):
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

    def lane_idle(self, lane: EndedLane) -> None:
        """Make sure, now and then, that an idle lane's name still leads there."""
        for own in (self.interactive, self.bulk):
            if own is lane:
                self._destination.lane_idle(own)

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
        if self.is_closed:
            return
        log.info("wire.lane_lost", lane=lane.name, node=self.address, cause=cause)
        if unanswered:
            self._destination.addresses.failed(lane.peer)
            self.give_up(lane.client_id, lane.run_id)
        if unanswered or cause == GARBAGE:
            self.breaker.record_failure(token, cause)
        if self.restorer is not None and self.restorer.is_wanted:
            self._owner.start(self.connector.come_back(self._needs_dial), "return")

    def _needs_dial(self) -> bool:
        """Whether nobody else dials: an open circuit is the prober's."""
        is_open = self.breaker.state is not CircuitState.CLOSED  # a ramp is not open
        return not (self.is_closed or is_open or self._living())

    def retire(self, cause: str) -> None:
        """Give up both lanes: the address may lead to another server already.

        At most once in `RETIRE_PAUSE`: a new connection that hears the same answer
        has nothing better to go to.
        """
        now = self.clock.monotonic()
        if now < self._next_retirement:
            return
        self._next_retirement = now + RETIRE_PAUSE
        for lane in (self.interactive, self.bulk):
            self._destination.addresses.failed(lane.peer)
            lane.end(cause)

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
        if change.state is CircuitState.OPEN and not self.is_closed:
            self._prober.start()
        for listener in self.on_circuit:
            listener()

    async def _prove(self) -> None:
        """PING over the living lane, or dial a new one: its greeting has a PING."""
        lane = self.interactive
        if lane.is_alive:
            await answered(lane.submit(PING))  # the lane's own timeout ends it
        else:
            await self.connector.probe()

    def _regate(self) -> None:
        self.is_gated = is_gated = not self.breaker.is_closed or bool(self.strays)
        for lane in (self.interactive, self.bulk):
            lane.gate(is_gated=is_gated, token=self.breaker.generation)

    # --- the end ----------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close the lanes and end every task. Idempotent."""
        self.is_closed = True
        self.interactive.end("closed")
        self.bulk.end("closed")
        if self._pid in (0, os.getpid()):  # else a fork's: its tasks are the parent's
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
            strays=len(self.strays),
            kill_refused=self.strays.is_refused
            or (greeting is not None and greeting.kill_refused),
        )

    def __repr__(self) -> str:
        return f"<Node {self.address} {self.breaker.state.value} {self.interactive!r}>"
