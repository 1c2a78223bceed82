"""The crew: settings in, one running wire and its services out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from anyio import CancelScope

from mcp_crew_redis._core.client import PipelinedRedis
from mcp_crew_redis._core.embedded import EmbeddedServer
from mcp_crew_redis.crew import checkup, parts
from mcp_crew_redis.crew.offer import OUTSIDE, CrewOffer
from mcp_crew_redis.crew.spec import ServiceSpec
from mcp_crew_redis.crew.state import open_state
from mcp_crew_redis.errors import LifecycleError
from mcp_crew_redis.events.janitor import Janitor
from mcp_crew_redis.events.schemas import EventCatalog
from mcp_crew_redis.health import HealthReport
from mcp_crew_redis.lifecycle import (
    Caller,
    Lifecycle,
    ServiceState,
    StopSignals,
    held,
)
from mcp_crew_redis.log import get_logger
from mcp_crew_redis.settings import CrewSettings
from mcp_crew_redis.store.conflicts import MergeConflict

__all__ = ["CrewRedis"]

log = get_logger(__name__)


class CrewRedis(CrewOffer):
    """Everything an application needs from Redis, from one `async with`.

    Construction is inert: no socket, no task, no event loop. Entering connects and
    starts the services in the order of their needs, all or nothing; leaving drains
    them in reverse, within deadlines. Cancelling the caller drains too. May be entered
    again after it has been left: every run has a client and services of its own.

    Args:
        settings: None reads the environment.
        services: What runs as long as the crew does.
        merge: Decides what is written where a write that waited for Redis finds a
            newer one of somebody else; None keeps what stands.
        event_catalog: What publishers and consumers have agreed on about the types of
            events; None for an empty one: any payload for any type.

    Raises:
        ConfigurationError: The settings cannot be used; names each variable.
    """

    def __init__(
        self,
        settings: CrewSettings | None = None,
        *,
        services: Sequence[ServiceSpec] = (),
        merge: MergeConflict | None = None,
        event_catalog: EventCatalog | None = None,
    ) -> None:
        self._merge = merge
        self._catalog = EventCatalog() if event_catalog is None else event_catalog
        self._settings = CrewSettings() if settings is None else settings
        parts.check(self._settings)
        self._embedded = self._settings.embedded_server
        self._specs = tuple(services)
        self._running: AbstractAsyncContextManager[None] | None = None
        self._client: PipelinedRedis | None = None
        self._server: EmbeddedServer | None = None
        self._lifecycle: Lifecycle | None = None
        self._signals: StopSignals | None = None
        self._opening: CancelScope | None = None  # needs a loop: made on entering

    @classmethod
    def embedded(
        cls,
        data_dir: Path | None = None,
        *,
        settings: CrewSettings | None = None,
        services: Sequence[ServiceSpec] = (),
        merge: MergeConflict | None = None,
        event_catalog: EventCatalog | None = None,
    ) -> Self:
        """Make a crew with a server of its own, whatever address the settings name.

        Args:
            data_dir: Where the server keeps its data; processes that name the same
                folder share one server. None: REDIS_CREW_DATA_DIR, or nothing is kept.
            settings: None reads the environment.
            services: What runs as long as the crew does.
            merge: As for `CrewRedis`.
            event_catalog: As for `CrewRedis`.
        """
        crew = cls(
            settings, services=services, merge=merge, event_catalog=event_catalog
        )
        folder = data_dir or crew._embedded.data_dir
        crew._embedded = replace(crew._embedded, is_wanted=True, data_dir=folder)
        return crew

    # --- what its user asks -----------------------------------------------------------

    @property
    def settings(self) -> CrewSettings:
        """The settings it was made with."""
        return self._settings

    @property
    def state(self) -> ServiceState:
        """Where it stands as a whole."""
        if self._lifecycle is not None:
            return self._lifecycle.state
        running = self._running is not None
        return ServiceState.STARTING if running else ServiceState.STOPPED

    @property
    def redis(self) -> PipelinedRedis:
        """The client: a `redis.asyncio.Redis`, to be handed to any library.

        Raises:
            LifecycleError: Before the start or after the end.
        """
        if self._client is None:
            raise LifecycleError(OUTSIDE)
        return self._client

    async def health(self) -> HealthReport:
        """Report on the loop, Redis and every service; costs one PING.

        Never raises for what it reports on, and may be asked in any state.
        """
        patience = self._settings.wire.command_timeout
        return await checkup.report(
            self.state,
            await checkup.redis_health(self._client, patience),
            embedded=self._server,
            offer=self._state,
            statuses=() if self._lifecycle is None else self._lifecycle.statuses(),
        )

    async def run_until_stopped(self) -> None:
        """Return when SIGTERM or SIGINT comes; the `async with` then drains.

        A second signal cuts the drain short. Previous handlers are back afterwards.

        Raises:
            LifecycleError: Not running, or not in the main thread.
        """
        if self.state is not ServiceState.RUNNING:
            raise LifecycleError(OUTSIDE)
        if self._signals is None:
            self._signals = StopSignals(self._cut_short)
            self._signals.install()
        try:
            await self._signals.wait()
        except BaseException:
            self._restore_signals()
            raise
        log.info("crew.stop_requested", signal=self._signals.received)

    @asynccontextmanager
    async def lifespan(self, _app: object = None) -> AsyncGenerator[dict[str, Self]]:
        """Run for the length of an ASGI application or an MCP server.

        There `request.state.crew`, here `ctx.request_context.lifespan_context["crew"]`.
        """
        async with self:
            yield {"crew": self}

    def __repr__(self) -> str:
        own = self._embedded.is_wanted
        address = "embedded" if own else parts.where(self._settings)[0]
        statuses = self._lifecycle.statuses() if self._lifecycle else ()
        circuit = self._client.circuit_state.value if self._client else "none"
        names = ", ".join(f"{each.name}: {each.state}" for each in statuses)
        return f"<CrewRedis {self.state} {address}, circuit {circuit} [{names}]>"

    # --- life -------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._running is not None:
            raise LifecycleError(
                "the crew has been entered already: share the one you have, or make "
                "another CrewRedis"
            )
        self._opening = CancelScope()
        self._lifecycle = None
        serve = partial(self._serve, self._opening)
        self._running = held(serve, stop=self._stop, name="crew")
        try:
            await self._running.__aenter__()
        except BaseException:
            self._running = None
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        if self._running is None:
            raise LifecycleError("the crew has not been entered: use `async with`")
        try:
            return await self._running.__aexit__(kind, error, trace)
        finally:
            self._running = None
            self._restore_signals()

    async def _serve(self, opening: CancelScope, caller: Caller) -> None:
        """Open, serve, close; in a task that no cancellation of the caller reaches."""
        async with AsyncExitStack() as stack:
            stack.callback(self._forget)
            with opening:
                await self._open(stack)
            if opening.cancel_called:
                return
            limits = self._settings.lifecycle
            own = self._offer.bell, Janitor(self._offer.events)
            self._lifecycle = Lifecycle(
                [*own, *(spec.build(self) for spec in self._specs)],
                start_timeout=limits.start_timeout,
                drain_timeout=limits.drain_timeout,
                shutdown_timeout=limits.shutdown_timeout,
            )
            await self._lifecycle.serve(caller)

    async def _open(self, stack: AsyncExitStack) -> None:
        """Open what the services stand on; the stack closes it after them."""
        if self._embedded.is_wanted:
            server = EmbeddedServer(
                self._embedded.data_dir, binary=self._embedded.binary
            )
            self._server = await stack.enter_async_context(server)
        self._client = parts.make_client(self._settings, self._server)
        stack.push_async_callback(parts.close, self._client)
        self._state = await open_state(
            self._settings,
            self._client,
            stack,
            merge=self._merge,
            catalog=self._catalog,
        )
        is_strict = self._embedded.is_wanted or self._settings.start == "strict"
        await parts.dial(self._client, self._settings, is_strict=is_strict)

    def _stop(self) -> None:
        if self._opening is not None:
            self._opening.cancel()  # no effect once it is open
        if self._lifecycle is not None:
            self._lifecycle.stop()

    def _cut_short(self) -> None:
        log.warning("crew.drain_cut_short")
        if self._lifecycle is not None:
            self._lifecycle.cut_short()

    def _forget(self) -> None:
        self._client = self._server = self._state = None

    def _restore_signals(self) -> None:
        if self._signals is not None:
            self._signals.restore()
            self._signals = None
