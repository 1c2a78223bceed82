"""Services that start in dependency order and drain in reverse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from graphlib import CycleError, TopologicalSorter
from math import inf

from anyio import CancelScope, move_on_after

from mcp_crew_redis.errors import LifecycleError
from mcp_crew_redis.lifecycle.held import Caller, held, raise_together
from mcp_crew_redis.lifecycle.member import Member
from mcp_crew_redis.lifecycle.service import (
    PatientService,
    Service,
    ServiceState,
    ServiceStatus,
    StartTimeoutError,
)
from mcp_crew_redis.log import get_logger

__all__ = ["Lifecycle"]

log = get_logger(__name__)

CANCEL_GRACE = 2.0  # seconds a cancelled service has for its clean-up


class Lifecycle:
    """Services that start in dependency order and drain in reverse.

    All or nothing: if one does not start, those before it are drained. If one crashes,
    the body is interrupted and the rest drained. Cancelling the caller drains too.
    May be run again after it has ended, if its services may.

    Args:
        services: Unique names; every need names another service; no cycle.
        start_timeout: Seconds each service has to report ready.
        drain_timeout: Seconds each service has to finish once asked; then it is
            cancelled. A `PatientService` brings its own.
        shutdown_timeout: Seconds for all drains together.
        cancel_grace: Seconds a cancelled service has to end. One that ignores its
            cancellation is reported and left behind: it cannot hang the shutdown.

    Raises:
        LifecycleError: The services do not fit together; names the culprits.
    """

    def __init__(
        self,
        services: Sequence[Service],
        *,
        start_timeout: float,
        drain_timeout: float,
        shutdown_timeout: float = inf,
        cancel_grace: float = CANCEL_GRACE,
    ) -> None:
        self._services = _in_order(services)
        self._start_timeout = start_timeout
        self._drain_timeout = drain_timeout
        self._shutdown_timeout = shutdown_timeout
        self._cancel_grace = cancel_grace
        self._reset()

    def _reset(self) -> None:
        self.state = ServiceState.STOPPED
        self._members = [Member(service, self._on_end) for service in self._services]
        self._errors: list[Exception] = []
        self._stopping = asyncio.Event()
        self._is_cut = False
        self._patience: CancelScope | None = None  # around the drain in progress

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        """Run the services for the length of an `async with`.

        Raises:
            LifecycleError: It is already running.
            StartTimeoutError: A service was not ready in time.
            Exception: The lone error of service or body, bare; several as a group.
        """
        if self.state not in (ServiceState.STOPPED, ServiceState.FAILED):
            raise LifecycleError("already running; leave its `async with` first")
        self._reset()
        self.state = ServiceState.STARTING
        async with held(self.serve, stop=self.stop, name="lifecycle"):
            yield

    def stop(self) -> None:
        """Ask everything to drain. Idempotent; without effect when not running."""
        self._stopping.set()

    def cut_short(self) -> None:
        """Ask for the end now: drains still waiting are cancelled at once."""
        self._is_cut = True
        if self._patience is not None:
            self._patience.cancel()
        self.stop()

    def statuses(self) -> tuple[ServiceStatus, ...]:
        """Return each service's status, in start order."""
        return tuple(member.status() for member in self._members)

    def __repr__(self) -> str:
        states = ", ".join(f"{each.name}: {each.state}" for each in self.statuses())
        return f"<Lifecycle {self.state} [{states}]>"

    async def serve(self, caller: Caller) -> None:
        """Start all, let the caller in, serve until stopped or crashed, drain all.

        For `held`, once per instance; users want `running`.
        """
        self.state = ServiceState.STARTING
        try:
            await self._start_all(caller)
            await self._stopping.wait()
            if self._errors:
                # Whoever uses the services goes before them.
                await caller.send_out(self._drain_timeout)
        except asyncio.CancelledError:
            self.cut_short()  # the loop is being torn down
            raise
        except Exception as error:  # noqa: BLE001 - raised below, after the drain
            self._errors.append(error)
        finally:
            await self._drain_all()
        raise_together("services failed", self._errors)

    async def _start_all(self, caller: Caller) -> None:
        began = _now()
        for member in self._members:
            if self._stopping.is_set():
                return
            await self._start(member)
        if self._stopping.is_set():
            return
        self.state = ServiceState.RUNNING
        log.info(
            "lifecycle.started",
            services=len(self._members),
            duration_ms=_ms_since(began),
        )
        caller.let_in()

    async def _start(self, member: Member) -> None:
        """Start one service and wait until it is ready; raise if it is not."""
        name, began = member.service.name, _now()
        member.begin()
        with move_on_after(self._start_timeout):
            await member.settled.wait()
        if not member.settled.is_set():
            await self._cancel(member, began)
            raise StartTimeoutError(
                f"service {name!r} was not ready within {self._start_timeout} s"
            )
        if not member.has_started:
            log.error("lifecycle.service_start_failed", **_failure(member))
            raise member.error or LifecycleError(
                f"service {name!r} returned before it reported ready"
            )
        log.info(
            "lifecycle.service_started", service=name, duration_ms=_ms_since(began)
        )

    def _on_end(self, member: Member, left: ServiceState) -> None:
        """File a service's end. An error after its start stops the house in order."""
        if not member.has_started:
            return  # `_start` raises what happened
        if member.error is not None:
            log.error("lifecycle.service_crashed", **_failure(member))
            self._errors.append(member.error)
            self._stopping.set()
        elif left is ServiceState.RUNNING:
            log.warning("lifecycle.service_returned", service=member.service.name)

    async def _drain_all(self) -> None:
        self.state, began = ServiceState.DRAINING, _now()
        deadline = began + self._shutdown_timeout
        for member in reversed(self._members):
            if member.has_started and not member.ended.is_set():
                await self._drain(member, deadline)
        self.state = ServiceState.FAILED if self._errors else ServiceState.STOPPED
        log.info("lifecycle.stopped", state=self.state, duration_ms=_ms_since(began))

    async def _drain(self, member: Member, deadline: float) -> None:
        """Ask one service to end, wait, cancel it if need be."""
        began = _now()
        member.state = ServiceState.DRAINING
        patience = self._patience_with(member.service, deadline - began)
        try:
            member.service.drain()
        except Exception as error:  # noqa: BLE001 - raised at the end, with the others
            self._errors.append(error)
            patience = 0.0
        with move_on_after(patience) as self._patience:
            await member.ended.wait()
        if member.ended.is_set():
            took = _ms_since(began)
            name = member.service.name
            log.info("lifecycle.service_drained", service=name, duration_ms=took)
        else:
            await self._cancel(member, began)

    def _patience_with(self, service: Service, left: float) -> float:
        if self._is_cut:
            return 0.0
        timeout = self._drain_timeout
        if isinstance(service, PatientService):
            timeout = service.drain_timeout
        return max(0.0, min(timeout, left))

    async def _cancel(self, member: Member, began: float) -> None:
        """Cancel one service; leave it behind if it ignores even that."""
        name = member.service.name
        member.cancel()
        with move_on_after(self._cancel_grace):
            await member.ended.wait()
        if member.ended.is_set():
            took = _ms_since(began)
            log.warning("lifecycle.service_cancelled", service=name, after_ms=took)
            return
        member.abandon(LifecycleError(f"service {name!r} ignored its cancellation"))
        log.error("lifecycle.service_abandoned", **_failure(member))
        if member.has_started and member.error is not None:
            self._errors.append(member.error)


def _in_order(services: Sequence[Service]) -> tuple[Service, ...]:
    """Sort by needs; refuse what does not fit together, naming it."""
    by_name = {service.name: service for service in services}
    names = [service.name for service in services]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise LifecycleError(f"service names must be unique; given twice: {twice}")
    for service in services:
        if unknown := sorted(set(service.needs) - by_name.keys()):
            raise LifecycleError(
                f"service {service.name!r} needs {unknown}, but there are {names}"
            )
    needs = {service.name: service.needs for service in services}
    try:
        return tuple(by_name[name] for name in TopologicalSorter(needs).static_order())
    except CycleError as error:
        circle = " -> ".join(error.args[1])
        raise LifecycleError(
            f"services need each other in a circle: {circle}"
        ) from None


def _failure(member: Member) -> dict[str, str | None]:
    # The class only: a message may hold what the user's own code put into it.
    return {"service": member.service.name, "error": member.status().error}


def _now() -> float:
    return asyncio.get_running_loop().time()


def _ms_since(began: float) -> float:
    return round((_now() - began) * 1000, 3)
