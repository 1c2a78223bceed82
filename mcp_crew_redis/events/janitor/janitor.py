"""The janitor: a service of every crew that has to do with events."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from contextlib import suppress
from random import Random
from uuid import uuid4

from anyio import CancelScope, create_task_group, move_on_after
from anyio.abc import TaskStatus

from mcp_crew_redis._core.backoff import DecorrelatedJitter
from mcp_crew_redis._core.bell import BellListener
from mcp_crew_redis._wire.keys import STREAM_NAMESPACE
from mcp_crew_redis.errors import CrewRedisError, LifecycleError, UnavailableError
from mcp_crew_redis.events.bus import EventBus
from mcp_crew_redis.events.janitor.losses import Losses
from mcp_crew_redis.events.janitor.pace import SHARES, JanitorPace
from mcp_crew_redis.events.janitor.retention import Retention
from mcp_crew_redis.events.janitor.rounds import Round, Wake, now
from mcp_crew_redis.events.janitor.schedule import NO_GROUP, Schedule
from mcp_crew_redis.events.janitor.survey import Survey
from mcp_crew_redis.events.shares import Shares
from mcp_crew_redis.log import get_logger

__all__ = ["Janitor"]

log = get_logger(__name__)

LEAVE_TIMEOUT = 1.0  # seconds at the end for giving its part to others
MAX_FOREIGN = 10_000  # keys of others that are known as such
RING_PAUSE = 0.005  # seconds in which due times that ring are looked at once


class Janitor(BellListener):
    """Moves delayed events when they are due, and trims streams. A `Service`.

    The tenants are divided among all processes by leases; what one does not own it
    does not touch, and without an answer from Redis it owns nothing soon. It asks for
    nothing, and listens to nothing, before this process publishes or consumes for the
    first time. In an outage it waits.

    Args:
        bus: Publishes what it has to report; with its hub.
        pace: How often and how much.
    """

    name = "janitor"
    needs: Sequence[str] = ("bell",)

    def __init__(self, bus: EventBus, *, pace: JanitorPace | None = None) -> None:
        hub = self._hub = bus.hub
        pace = self._pace = pace or JanitorPace()
        random = self._random = Random()  # noqa: S311 - jitter
        self._losses = Losses(bus, pace.report)
        self._retention = Retention(hub, pace, self._losses.add)
        self._schedule = Schedule(hub.port, hub.keys, self._dropped)
        owns, retry = self._owns_key, pace.retry
        work = self._retention.work
        self._trims = Round("retention", work, owns, random, retry)
        self._moves = Round("schedule", self._schedule.work, owns, random, retry)
        self._survey = Survey(hub, self.owns, self._found)
        self._foreign: set[bytes] = set()
        self._surveyed_part: frozenset[int] = frozenset()
        self._shares: Shares | None = None
        self._surveyed = 0.0
        self._is_survey_due = self._is_used = self._is_stopped = False
        self._begin, self._renewal, self._look = Wake(), Wake(), Wake()
        self._keeping: CancelScope | None = None  # needs a loop: made on running
        hub.on_used.append(self._used)

    def owns(self, tenant_id: str) -> bool:
        """Whether the events of a tenant are for this process now."""
        number = zlib.crc32(tenant_id.encode()) % SHARES
        if self._shares is not None and number in self._shares.owned:
            return True
        if number in self._surveyed_part:
            # Something goes unnoticed from here on: look around once it is owned again.
            self._surveyed_part -= {number}
        return False

    @property
    def part(self) -> frozenset[int]:
        """The numbers that it owns now, of 64; a tenant's is that of its name."""
        return frozenset() if self._shares is None else self._shares.owned

    # --- the service ------------------------------------------------------------------

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Serve until drained. Cancelled, what is under way may take effect unreported.

        Raises:
            LifecycleError: It has run before.
        """
        if self._shares is not None or self._is_stopped:
            raise LifecycleError("a janitor runs once")
        task_status.started()
        while not (self._is_used or self._is_stopped):
            await self._begin.wait()
        if not self._is_stopped:
            await self._serve()

    def drain(self) -> None:
        """Finish what is under way, report what was lost, leave the rest to others."""
        self._is_stopped = True
        self._trims.stop()
        self._moves.stop()
        self._begin.set()
        if self._keeping is not None:
            self._keeping.cancel()

    async def _serve(self) -> None:
        hub = self._hub
        key, lease = hub.keys.shares(self.name), self._pace.lease
        self._shares = Shares(hub.port, key, uuid4().hex, lease, SHARES, hub.clock)
        prefix = hub.keys.namespace_prefix(STREAM_NAMESPACE)
        async with create_task_group() as reporting:
            reporting.start_soon(self._losses.run)
            with hub.bell.listen(prefix, self):
                async with create_task_group() as group:
                    group.start_soon(self._keep)
                    for work in (self._trims, self._moves):
                        group.start_soon(work.run)
            self._losses.stop()
        # Without an answer the lease passes.
        with move_on_after(LEAVE_TIMEOUT), suppress(CrewRedisError):
            await self._shares.leave()

    async def _keep(self) -> None:
        """Keep the part, until the end: nothing of this has to be finished."""
        with CancelScope() as self._keeping:
            async with create_task_group() as group:
                group.start_soon(self._renew)
                group.start_soon(self._look_around)

    def _used(self) -> None:
        self._is_used = True
        self._begin.set()

    # --- its part ---------------------------------------------------------------------

    async def _renew(self) -> None:
        """Keep the lease, and look around when the part has grown."""
        assert self._shares is not None
        give_up: list[int] = []
        is_told = False
        while not self._is_stopped:
            seconds = self._pace.lease / 3
            try:
                held = await self._shares.hold(give_up)
            except CrewRedisError as error:
                if not isinstance(error, UnavailableError) and not is_told:
                    is_told = True  # once: it will be so for a while
                    log.warning("janitor.renewal_failed", cause=type(error).__name__)
                seconds = min(seconds, 1.0) * self._random.uniform(0.5, 1.0)
            else:
                is_told = False
                if held.owned - self._surveyed_part:
                    self._want_survey()
                self._surveyed_part = held.owned
                self._foreign.clear()
                give_up = sorted(held.owned)[: held.surplus]
                if give_up:
                    continue  # at once: somebody waits for them
            await self._renewal.wait(seconds)

    def _owns_key(self, key: bytes) -> bool:
        """Whether a key is for this process now; what is not is forgotten."""
        tenant_id = self._retention.tenant_of(key) or self._schedule.tenant_of(key)
        if tenant_id is not None and self.owns(tenant_id):
            return True
        self._retention.forget(key)
        return False

    # --- what there is to do ----------------------------------------------------------

    async def _look_around(self) -> None:
        """Survey whenever it is wanted; again after a pause if Redis did not answer."""
        pauses = DecorrelatedJitter(self._random, cap=self._pace.retry)
        while not self._is_stopped:
            if not self._is_survey_due:
                await self._look.wait()
                continue
            self._is_survey_due = False
            try:
                await self._survey.run()
            except CrewRedisError:
                self._is_survey_due = True
                await self._look.wait(next(pauses))
            else:
                pauses = DecorrelatedJitter(self._random, cap=self._pace.retry)
                self._surveyed = now()

    def _want_survey(self) -> None:
        self._is_survey_due = True
        self._look.set()

    def _found(self, key: bytes) -> None:
        """Take up a key that exists, unless it is known."""
        if self._schedule.tenant_of(key) is not None:
            self._moves.put(key)
        elif not self._retention.is_known(key) and self._retention.meet(key):
            self._trims.put(key)

    def _dropped(self, tenant_id: str, count: int) -> None:
        self._losses.add(tenant_id, "", NO_GROUP, count)

    # --- what the bell tells ----------------------------------------------------------

    def on_keys(self, keys: Sequence[bytes]) -> None:
        """Take up new streams and new due times."""
        for key in keys:
            if self._retention.is_known(key):
                seconds = self._retention.rung(key)
                if seconds is not None:
                    self._trims.put(key, seconds)
            elif key not in self._foreign:
                self._rung(key)

    def _rung(self, key: bytes) -> None:
        """Take up a key that is no stream known so far, if it is for this process."""
        if (tenant_id := self._schedule.tenant_of(key)) is not None:
            if self.owns(tenant_id):
                self._moves.put(key, RING_PAUSE)
            return
        name = self._retention.meet(key)
        if name is not None and self.owns(name.tenant_id):
            # Nothing of a new one has had its time; of an old one, it can wait so long.
            self._trims.put(key, self._random.uniform(0.0, 1.0))
            return
        self._retention.forget(key)
        if len(self._foreign) >= MAX_FOREIGN:
            self._foreign.clear()
        self._foreign.add(key)

    def on_flushed(self) -> None:
        """There is nothing any more, and the part has to be taken anew."""
        self._retention.clear()
        self._hub.store.registry.forget_all()
        self._renewal.set()

    def on_healthy(self) -> None:
        """What came before has to be looked for."""
        self._renewal.set()
        self._want_survey()

    def on_tick(self) -> None:
        """Without a bell: look at everything, once in a while."""
        if now() - self._surveyed >= self._pace.survey:
            self._want_survey()

    def __repr__(self) -> str:
        return f"<Janitor {self._shares!r} {len(self._retention)} streams>"
