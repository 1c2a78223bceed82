"""One Redis node: its lanes, its circuit, and the tasks that keep both alive.

    caller --- lane alive and circuit closed ---> submit            (the hot path)
           `-- otherwise: acquire() -- admit -- dial -- room -----> submit

A lane that ended with commands unanswered is a *stray*: a stalled path may still deliver
its commands when it wakes, over a newer value. Until the same server process has
confirmed by CLIENT KILL that the stray is gone, nothing else is sent to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import hiredis
import structlog
from redis.asyncio.connection import AbstractConnection

from mcp_crew_redis._core.backoff import DecorrelatedJitter, RetryBudget
from mcp_crew_redis._core.breaker import (
    BreakerSettings,
    BreakerStatistics,
    CircuitBreaker,
    CircuitChange,
    CircuitState,
)
from mcp_crew_redis._core.dialling import DialFailedError, Dialler, Greeting, Stray
from mcp_crew_redis._core.lane import PING, Lane, LaneStatistics
from mcp_crew_redis._core.owner import TaskOwner
from mcp_crew_redis._core.routing import Routing
from mcp_crew_redis._core.wire_errors import (
    LaneLostError,
    WireConnectionLostError,
    WireOverloadedError,
    WireTimeoutError,
)
from mcp_crew_redis._core.wire_settings import WireSettings
from mcp_crew_redis.clock import Clock
from mcp_crew_redis.errors import LifecycleError

__all__ = ["Node", "NodeStatistics"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatistics:
    """Figures of one node.

    Attributes:
        address: Host and port, or the socket's path.
        circuit: The circuit's own figures.
        interactive: The lane of small commands.
        bulk: The lane of large ones.
        dials: Connections made for lanes.
        dial_failures: Dials that failed.
        strays: Given-up connections not yet confirmed dead.
        kill_refused: The server forbids CLIENT KILL: strays cannot be ruled out.
        server: Name and version of the server, empty before the first connection.
    """

    address: str
    circuit: BreakerStatistics
    interactive: LaneStatistics
    bulk: LaneStatistics
    dials: int
    dial_failures: int
    strays: int
    kill_refused: bool
    server: str


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
        self.breaker = CircuitBreaker(
            breaker,
            monotonic=clock.monotonic,
            random=random,
            on_change=self._circuit_changed,
        )
        self.budget = RetryBudget(monotonic=clock.monotonic)
        self.routing = Routing(large_for=settings.large_for, monotonic=clock.monotonic)
        self.greeting: Greeting | None = None
        self._slow_after = breaker.slow_after
        self._decoding = decoding
        self._on_push = on_push
        self._dialler = Dialler(make_connection, settings)
        self._owner = TaskOwner("wire")
        self._jitter = DecorrelatedJitter(random)
        self._next_dial = 0.0
        self._failure: DialFailedError | None = None
        self._dial: asyncio.Future[None] | None = None
        self._settling: asyncio.Future[None] | None = None
        self._strays: list[Stray] = []
        self._dials = self._dial_failures = 0
        self._is_closed = False
        self.interactive = self._new_lane("interactive")
        self.bulk = self._new_lane("bulk")

    def _new_lane(self, name: str) -> Lane:
        return Lane(
            name,
            self.settings,
            self,
            slow_after=self._slow_after,
            on_push=self._on_push,
            decoding=self._decoding,
        )

    # --- callers --------------------------------------------------------------------

    async def acquire(self, *, is_bulk: bool = False) -> Lane:
        """Return a live lane with room for one command, which must follow at once.

        Raises:
            CircuitOpenError: In microseconds, while the circuit is open.
            OverloadedError: No room within `command_timeout`.
            OperationTimeoutError: No connection within `command_timeout`.
            ConnectionLostError: The dial failed.
            ConfigurationError: The server refused credentials or is not supported.
        """
        self._admit()
        lane = self.bulk if is_bulk else self.interactive
        if lane.is_alive and not self._strays and lane.has_room:
            return lane
        try:
            async with asyncio.timeout(self.settings.command_timeout):
                return await self._acquire(is_bulk=is_bulk)
        except TimeoutError:
            raise self._late(is_bulk=is_bulk) from None

    async def _acquire(self, *, is_bulk: bool) -> Lane:
        while True:
            lane = self.bulk if is_bulk else self.interactive
            if not lane.is_alive:
                await self._connected(is_bulk=is_bulk)
            elif self._strays:
                await self._settled()
            else:
                await lane.room()
                if lane.is_alive and not self._strays:
                    return lane
            self._admit()

    def _admit(self) -> None:
        if self._is_closed:
            raise LifecycleError("the client is closed: make a new one")
        breaker = self.breaker
        if not breaker.is_closed:
            breaker.admit()
            if breaker.is_closed:
                self._regate()

    def _late(self, *, is_bulk: bool) -> Exception:
        timeout = self.settings.command_timeout
        lane = self.bulk if is_bulk else self.interactive
        if lane.is_alive and not self._strays:
            return WireOverloadedError(
                f"no room on the {lane.name} lane within {timeout:.3f} s "
                f"({len(lane.pending)} of {self.settings.max_pending} commands pending)",
                retry_after=timeout,
            )
        return WireTimeoutError(timeout, sent=False)

    async def settled(self) -> None:
        """Wait until no given-up connection can execute anything any more.

        Raises:
            OperationTimeoutError: Not within `command_timeout`.
        """
        self._admit()
        if not self._strays:
            return
        await self.acquire()

    def report_stray(self, client_id: int | None, run_id: str) -> None:
        """Tell that a connection was given up with a command unanswered."""
        if client_id is None or not run_id or self._is_closed:
            return
        self._strays.append(Stray(run_id, client_id))
        self._regate()
        if self.interactive.is_alive:
            self._start_settling()

    async def connect(self) -> Greeting:
        """Make the first connection now, so that its errors show here."""
        await self.acquire()
        assert self.greeting is not None
        return self.greeting

    # --- dialling -------------------------------------------------------------------

    async def _connected(self, *, is_bulk: bool) -> None:
        """Wait for the dial under way, or start one: one at a time for the node."""
        if self._dial is None:
            self._check_pace()
            self._dial = asyncio.get_running_loop().create_future()
            self._owner.start(self._run_dial(is_bulk=is_bulk), "dial")
        await asyncio.shield(self._dial)
        lane = self.bulk if is_bulk else self.interactive
        if not lane.is_alive and self._failure is not None:
            raise self._failure.make()

    def _check_pace(self) -> None:
        if self._failure is not None and self.clock.monotonic() < self._next_dial:
            raise self._failure.make()

    async def _run_dial(self, *, is_bulk: bool) -> None:
        done = self._dial
        assert done is not None
        lane = self._new_lane("bulk" if is_bulk else "interactive")
        strays = tuple(self._strays)
        try:
            greeting = await self._dialler.dial(lane, strays)
        except DialFailedError as failure:
            self._dial_failed(failure)
        else:
            # Only those that this server has heard of: more may have come meanwhile.
            self._strays = [stray for stray in self._strays if stray not in strays]
            self._dial_succeeded(lane, greeting, is_bulk=is_bulk)
        finally:
            self._dial = None
            if not done.done():
                done.set_result(None)

    def _dial_succeeded(self, lane: Lane, greeting: Greeting, *, is_bulk: bool) -> None:
        self._dials += 1
        self._failure = None
        self._jitter.reset()
        lane.run_id = greeting.run_id
        self.greeting = greeting
        if self._is_closed:
            lane.close()
            return
        if is_bulk:
            self.bulk = lane
            lane.on_progress = lambda: self.routing.landed(lane.answered)
        else:
            self.interactive = lane
        self._regate()
        log.info("wire.lane_connected", lane=lane.name, node=self.address)

    def _dial_failed(self, failure: DialFailedError) -> None:
        self._dial_failures += 1
        self._failure = failure
        pause = self.settings.auth_pause if failure.is_final else next(self._jitter)
        self._next_dial = self.clock.monotonic() + pause
        log.warning("wire.dial_failed", node=self.address, cause=failure.cause)
        if failure.is_final:
            return  # it answered: the circuit has nothing to say about it
        breaker = self.breaker
        if self.interactive.is_alive or self.bulk.is_alive:
            breaker.record_failure(breaker.generation, failure.cause)
        else:
            breaker.trip(breaker.generation, failure.cause)

    # --- strays ---------------------------------------------------------------------

    async def _settled(self) -> None:
        if self._settling is None:
            self._start_settling()
        assert self._settling is not None
        await asyncio.shield(self._settling)

    def _start_settling(self) -> None:
        if self._settling is None:
            self._settling = asyncio.get_running_loop().create_future()
            self._owner.start(self._settle(), "settle")

    async def _settle(self) -> None:
        """End the strays over a lane that still lives."""
        done = self._settling
        assert done is not None
        try:
            while self._strays:
                lane = self.interactive if self.interactive.is_alive else self.bulk
                if not lane.is_alive:
                    return  # the next dial does it
                stray = self._strays[0]
                kill = ("CLIENT", "KILL", "ID", stray.client_id)
                await lane.submit(hiredis.pack_command(kill))
                self._strays.remove(stray)
        except (LaneLostError, TimeoutError):
            return  # the lane is ending; what is left is for the next dial
        except Exception as error:  # noqa: BLE001 - an error reply: NOPERM
            log.warning("wire.kill_refused", node=self.address, error=str(error))
            self._strays.clear()
        finally:
            self._settling = None
            done.set_result(None)
            self._regate()

    # --- what the lanes tell ----------------------------------------------------------

    def lane_silent(self, lane: Lane, count: int) -> None:
        """Open the circuit at once: the node does not answer at all."""
        log.warning("wire.lane_silent", lane=lane.name, node=self.address, count=count)
        self.breaker.trip(self.breaker.generation, "silence")

    def lane_late(self, lane: Lane, count: int) -> None:
        """Count timeouts while others are still answered."""
        self.breaker.record_failure(self.breaker.generation, "timeout", count)

    def lane_measured(self, lane: Lane, answered: int, slow: int) -> None:
        """Count successes."""
        self.breaker.record_success(self.breaker.generation, answered, slow)
        self.budget.deposit(answered)

    def lane_ended(self, lane: Lane, cause: str, unanswered: int) -> None:
        """Remember what may still happen, and close the direct way until it cannot."""
        if self._is_closed:
            return
        log.info("wire.lane_lost", lane=lane.name, node=self.address, cause=cause)
        if lane is self.bulk:
            self.routing.reset()
        if unanswered:
            self.report_stray(lane.client_id, lane.run_id)
            self.breaker.record_failure(self.breaker.generation, cause)

    def retire(self, lane: Lane, cause: str) -> None:
        """Give up a lane whose server does not serve (READONLY): dial afresh."""
        lane.close(cause)

    def foreign_loop(self, error: RuntimeError) -> Exception:
        """Return the error for a use from a loop that the lanes do not belong to."""
        return LifecycleError(
            f"this client belongs to another event loop: make one per loop ({error})"
        )

    # --- the circuit --------------------------------------------------------------------

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
            self._start_probing()

    def _start_probing(self) -> None:
        if not self._is_probing:
            self._is_probing = True
            self._owner.start(self._probe_until_closed(), "probe")

    _is_probing = False

    async def _probe_until_closed(self) -> None:
        try:
            while self.breaker.wants_probe and not self._is_closed:
                await self.clock.sleep(self.breaker.probe_delay())
                if self.breaker.wants_probe:
                    await self._probe()
        finally:
            self._is_probing = False

    async def _probe(self) -> None:
        token = self.breaker.begin_probe()
        try:
            await self._prove_alive()
        except (WireTimeoutError, LaneLostError, TimeoutError, OSError) as error:
            self.breaker.probe_failed(token, type(error).__name__)
        except DialFailedError as failure:
            self.breaker.probe_failed(token, failure.cause)
        except asyncio.CancelledError:
            self.breaker.probe_cancelled(token)
            raise
        except Exception as error:  # noqa: BLE001 - an error reply: it lives, but does not serve
            self.breaker.probe_failed(token, str(error).partition(" ")[0])
        else:
            self.breaker.probe_succeeded(token)

    async def _prove_alive(self) -> None:
        """PING over the living lane, or dial a new one."""
        if self.interactive.is_alive:
            async with asyncio.timeout(self.settings.command_timeout):
                await self.interactive.submit(PING)
            return
        if self._dial is None:
            self._dial = asyncio.get_running_loop().create_future()
            await self._run_dial(is_bulk=False)
        else:
            await asyncio.shield(self._dial)
        if not self.interactive.is_alive:
            failure = self._failure
            raise failure or DialFailedError(
                "dial", lambda: WireConnectionLostError("no connection")
            )

    def _regate(self) -> None:
        is_gated = not self.breaker.is_closed or bool(self._strays)
        self.interactive.set_gate(is_gated=is_gated)
        self.bulk.set_gate(is_gated=is_gated)

    # --- the end --------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close the lanes and end every task. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self.interactive.close()
        self.bulk.close()
        await self._owner.aclose()

    def statistics(self) -> NodeStatistics:
        """Return the figures of this moment."""
        greeting = self.greeting
        return NodeStatistics(
            address=self.address,
            circuit=self.breaker.statistics(),
            interactive=self.interactive.statistics(),
            bulk=self.bulk.statistics(),
            dials=self._dials,
            dial_failures=self._dial_failures,
            strays=len(self._strays),
            kill_refused=greeting is not None and greeting.kill_refused,
            server="" if greeting is None else f"{greeting.server} {greeting.version}",
        )

    def __repr__(self) -> str:
        return f"<Node {self.address} {self.breaker.state.value} {self.interactive!r}>"
