"""The bell: one connection per node that tells listeners which keys have changed.

dial -> track -> PONG -> on_healthy -> on_keys ... -> (no PONG, cut) -> on_lost -> dial
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, replace
from random import Random

from anyio import CancelScope
from anyio.abc import TaskStatus

from mcp_crew_redis._core.bell_dialler import REFUSED, BellDialler
from mcp_crew_redis._core.bell_line import BellLine, LineEndedError
from mcp_crew_redis._core.bell_listening import BellListener, Registration
from mcp_crew_redis._core.bell_pace import BellPace
from mcp_crew_redis._core.bell_statistics import BellCounts, BellMode, BellStatistics
from mcp_crew_redis._core.bell_table import BellTable, is_covered
from mcp_crew_redis._core.bell_ticker import Ticker
from mcp_crew_redis._core.client import PipelinedRedis
from mcp_crew_redis._core.dialling import DialFailedError
from mcp_crew_redis.clock import Clock, SystemClock
from mcp_crew_redis.errors import LifecycleError
from mcp_crew_redis.log import get_logger

__all__ = ["Bell", "BellListener", "BellMode", "BellStatistics", "Registration"]

log = get_logger(__name__)

CLOSE_WATCH = 1.0  # seconds between PINGs while somebody watches closely


class Bell:
    """Tells of changed keys. A `Service`: it dials while it runs and has listeners.

    It needs one connection more than `REDIS_CREW_POOL_SIZE`, and for the moment of a
    change of prefixes two. Its own failures say nothing to the node's circuit; while
    that is open it waits.

    Args:
        client: Whose node it listens to, with its address and credentials.
        clock: Pauses; tests may hold it still.
        random: Jitter; tests may pin it.
        name: As a service.
        needs: As a service.
    """

    def __init__(
        self,
        client: PipelinedRedis,
        *,
        clock: Clock | None = None,
        random: Random | None = None,
        name: str = "bell",
        needs: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.needs = needs
        self._node = client.node
        self._dialler = BellDialler(client)
        self._clock = clock or SystemClock()
        random = random or Random()  # noqa: S311 - jitter
        self._pace = BellPace(self._node, self._clock, random)
        self._ticker = Ticker(self._clock, random)
        self._table = BellTable()
        self._line: BellLine | None = None
        self._scope: CancelScope | None = None
        self._wake: asyncio.Event | None = None
        self._mode = BellMode.TRACKING
        self._healthy_since: float | None = None
        self._counts = BellCounts()

    # --- listening ------------------------------------------------------------------

    def listen(self, prefix: bytes, listener: BellListener) -> Registration:
        """Tell `listener` of the keys under `prefix`, from its `on_healthy` on.

        That call may come before this one returns. Prefixes may overlap; each listener
        is told each change once. Where the prefix names a tenant, the server is asked
        for the namespace and the listener told of that tenant alone.

        Args:
            prefix: A namespace (`mcp-crew:knowledge:`), or one of a tenant
                (`mcp-crew:knowledge:{acme}:`).
            listener: Called on the loop that the bell runs in.

        Raises:
            ConfigurationError: The prefix is empty or ends within a tenant's name.
        """
        registration = Registration(prefix, listener, self)
        self._table.add(registration)
        if self._line is not None and is_covered(prefix, self._line.prefixes):
            registration.tell_healthy()
        elif self._mode is BellMode.POLLING:
            self._ticker.add(registration)
        self._stir()
        return registration

    def left(self, registration: Registration) -> None:
        """Forget a closed registration; its prefix goes at the next PONG."""
        self._table.remove(registration)
        if registration.is_watched_closely:
            self.pace_changed()

    def hasten(self, registration: Registration) -> None:
        """See `Registration.hasten`."""
        if self._mode is BellMode.POLLING and not registration.is_closed:
            self._ticker.hasten(registration)

    def pace_changed(self) -> None:
        """Take up the pace that the registrations ask for."""
        if self._line is not None:
            self._line.set_interval(self._interval)

    # --- the service ----------------------------------------------------------------

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Listen until drained. Ready after the first attempt, whatever its outcome.

        Cancellation closes the connection at once and tells every listener on_lost.

        Raises:
            LifecycleError: It is already running.
        """
        if self._scope is not None:
            raise LifecycleError("this bell is already running")
        self._wake = asyncio.Event()
        try:
            with CancelScope() as self._scope:
                if self._wants_dial():
                    await self._attempt()
                task_status.started()
                await self._serve()
        finally:
            self._scope = self._wake = None
            self._mode = BellMode.TRACKING
            self._drop("drained")

    def drain(self) -> None:
        """End `run` now: there is nothing to finish."""
        if self._scope is not None:
            self._scope.cancel()

    async def _serve(self) -> None:
        assert self._wake is not None
        while not self._node.is_closed:
            if self._wants_dial():
                is_polling = self._mode is BellMode.POLLING
                await self._pace.wait(self._tick if is_polling else None)
                await self._attempt()
            else:
                await self._wake.wait()
                self._wake.clear()

    def _wants_dial(self) -> bool:
        """Whether the server is asked for something else than what is wanted."""
        wanted = self._table.cover()
        if not wanted:
            self._drop("nobody listens")
        return bool(wanted) and (self._line is None or self._line.prefixes != wanted)

    async def _tick(self, seconds: float) -> None:
        await self._ticker.run(self._table, seconds)

    def _stir(self) -> None:
        if self._wake is not None:
            self._wake.set()

    # --- dialling -------------------------------------------------------------------

    async def _attempt(self) -> None:
        """Try to get a line for what is wanted, and put it in force."""
        prefixes = self._table.cover()
        if not (prefixes and self._pace.is_admitted):
            return  # without a prefix the server would ring for every key
        line = BellLine(
            timeout=self._node.settings.command_timeout,
            interval=self._interval,
            on_keys=self._keys_changed,
            on_flushed=self._flushed,
            on_proven=self._proven,
            on_ended=self._line_ended,
        )
        try:
            await self._dialler.dial(line, prefixes)
            self._counts.dials += 1
            await self._replace(line)
        except Exception as error:  # noqa: BLE001 - whatever it is: no bell
            self._failed(self._dialler.failure(error))

    async def _replace(self, line: BellLine) -> None:
        """Put `line` in force; what the old one still had to tell is told first."""
        old = self._line
        try:
            if old is not None and old.run_id != line.run_id:
                old.end("another server")  # what happened here was never told
            elif old is not None:
                await old.prove()
        except LineEndedError:
            pass  # told as a loss; the new line heals it
        except BaseException:
            line.end("cancelled")
            raise
        if not line.is_alive:
            raise LineEndedError("closed")
        old, self._line = self._line, line
        if old is not None:
            self._counts.pushes += old.pushes
            old.end("replaced")
        line.set_interval(self._interval)
        self._pace.succeeded()
        self._mode = BellMode.TRACKING
        if old is None:
            self._healthy_since = self._clock.wall()
            log.info("bell.healthy", node=self._node.address)
        self._table.tell_tracked(line.prefixes)

    def _failed(self, failure: DialFailedError) -> None:
        """Note a failed dial; an older line that lives goes on, for its prefixes."""
        self._counts.dial_failures += 1
        pause = self._pace.failed(failure)
        address, cause = self._node.address, failure.cause
        if cause == REFUSED:
            error = str(failure.make())
            log.warning("bell.tracking_refused", node=address, error=error)
        else:
            log.warning(
                "bell.dial_failed", node=address, cause=cause, retry_after=pause
            )
        if self._pace.is_futile:
            self._mode = BellMode.POLLING

    # --- what the line tells --------------------------------------------------------

    def _keys_changed(self, keys: Sequence[bytes]) -> None:
        self._counts.keys += len(keys)
        self._table.tell_keys(keys)

    def _flushed(self) -> None:
        self._counts.flushes += 1
        self._table.tell_flushed()

    def _proven(self, line: BellLine) -> None:
        """Look, with each PONG, whether this is still the right line."""
        if line is not self._line:
            return
        self._pace.proven()
        lane = self._node.interactive
        if lane.is_alive and line.run_id and lane.run_id not in ("", line.run_id):
            line.end("another server")  # where the data are is where to listen
        elif line.prefixes != self._table.cover():
            self._stir()

    def _line_ended(self, line: BellLine, cause: str) -> None:
        if line is self._line:
            self._pace.lost()
            self._drop(cause)

    def _drop(self, cause: str) -> None:
        """Go without a line; tell it to everybody who counted on one."""
        line, self._line = self._line, None
        if line is None:
            return
        line.end(cause)
        self._counts.pushes += line.pushes
        self._healthy_since = None
        self._counts.losses += bool(self._table)
        log.info("bell.lost", node=self._node.address, cause=cause)
        self._table.tell_lost()
        self._stir()

    @property
    def is_healthy(self) -> bool:
        """Whether every change under the prefixes in force is told now."""
        return self._line is not None

    def statistics(self) -> BellStatistics:
        """Return the figures of this moment."""
        line, counts = self._line, self._counts
        pushes = 0 if line is None else line.pushes
        return BellStatistics(
            mode=self._mode,
            is_healthy=line is not None,
            healthy_since=self._healthy_since,
            listeners=len(self._table),
            prefixes=() if line is None else tuple(sorted(line.prefixes)),
            listener_failures=self._table.failures,
            **asdict(replace(counts, pushes=counts.pushes + pushes)),
        )

    @property
    def _interval(self) -> float:
        usual = self._node.settings.idle_ping
        return min(usual, CLOSE_WATCH) if self._table.is_watched_closely else usual

    def __repr__(self) -> str:
        return f"<Bell {self._node.address} {self._mode} {self.is_healthy=}>"
