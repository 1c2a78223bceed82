"""Which streams there are, and which of them have grown: the bell, and the registry.

The bell names streams that change, those of new tenants and types too. What exists
already it does not name: that is read from the registry, at the start and whenever the
bell was lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Final

from mcp_crew_redis._core.backoff import DecorrelatedJitter
from mcp_crew_redis._core.bell import BellListener, Registration
from mcp_crew_redis._wire.keys import STREAM_NAMESPACE
from mcp_crew_redis._wire.streams import LANES, stream_key, stream_name
from mcp_crew_redis.errors import CrewRedisError
from mcp_crew_redis.events.consumer.runner import Runner
from mcp_crew_redis.events.consumer.table import StreamState
from mcp_crew_redis.events.hub import EventHub
from mcp_crew_redis.events.subscriptions import AllTenants
from mcp_crew_redis.log import get_logger

__all__ = ["Discovery"]

log = get_logger(__name__)

MAX_KNOWN: Final = 200_000
"""Streams whose listeners are remembered; beyond, they are looked up again."""
GLANCE: Final = 1.0
"""Seconds between looks for what the bell cannot tell."""
POLL: Final = 2.0
"""Seconds between looks for new tenants and types where there is no bell."""
PAGE: Final = 256
"""Tenants after which other work has its turn."""

Rings = tuple[tuple[Runner, StreamState], ...]


class Discovery(BellListener):
    """Tells runners which of their streams may have grown.

    Args:
        hub: The parts.
        runners: Who wants to know.
    """

    def __init__(self, hub: EventHub, runners: Sequence[Runner]) -> None:
        self._hub = hub
        self._keys, self._clock = hub.keys, hub.clock
        self._runners = tuple(runners)
        self._known: dict[bytes, Rings] = {}
        self._registrations: list[Registration] = []
        self._tenants = _named(runners)
        self._look = asyncio.Event()
        self._is_first = True
        self._was_lost = False
        self._polled_at = 0.0

    # --- the bell ---------------------------------------------------------------------

    def start(self) -> None:
        """Listen from now on."""
        for prefix in self._prefixes():
            self._registrations.append(self._hub.bell.listen(prefix, self))
        self._look.set()

    def stop(self) -> None:
        """Listen no more."""
        for registration in self._registrations:
            registration.close()
        self._registrations.clear()

    def on_keys(self, keys: Sequence[bytes]) -> None:
        """Ring the streams that have changed."""
        known = self._known
        for key in keys:
            rings = known.get(key)
            if rings is None:
                rings = self._meet(key)
            for runner, state in rings:
                runner.ring(state)

    def on_flushed(self) -> None:
        """Look into every stream: the groups are gone with them."""
        self._ring_all()

    def on_lost(self) -> None:
        """Remember that what the server remembers may be less than before."""
        self._was_lost = True

    def on_healthy(self) -> None:
        """Look for all there is: nobody has told of it."""
        self._look.set()
        if self._was_lost:
            self._was_lost = False
            for runner in self._runners:
                runner.server_changed()

    def on_tick(self) -> None:
        """Look by oneself, where there is no bell."""
        self._ring_all()
        now = self._clock.monotonic()
        if now - self._polled_at >= POLL:
            self._polled_at = now
            self._look.set()

    def _ring_all(self) -> None:
        for runner in self._runners:
            runner.ring_all()

    def _prefixes(self) -> list[bytes]:
        if self._tenants is None:
            return [self._keys.namespace_prefix(STREAM_NAMESPACE)]
        # Up to and with the tenant: everything before a stream's own name.
        return [
            stream_key(self._keys.tenant(tenant), "x", 0).rpartition(b"x:")[0]
            for tenant in sorted(self._tenants)
        ]

    def _meet(self, key: bytes) -> Rings:
        """Return who wants a stream that was not known."""
        name = stream_name(self._keys, key)
        rings: Rings = ()
        if name is not None:
            rings = tuple(
                (runner, runner.stream(key, name))
                for runner in self._runners
                if runner.subscription.wants(name.tenant_id, name.event_type)
            )
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[key] = rings
        return rings

    # --- the registry -----------------------------------------------------------------

    async def run(self) -> None:
        """Look through the registry whenever that is called for."""
        pauses = DecorrelatedJitter(self._hub.random, cap=2.0)
        while True:
            if not await self._is_wanted():
                self._look_by_hand()
                continue
            try:
                await self._survey()
                pauses.reset()
            except CrewRedisError as error:
                log.info("consumer.survey_failed", cause=type(error).__name__)
                self._look.set()
                await self._clock.sleep(next(pauses))

    async def _is_wanted(self) -> bool:
        """Wait a moment; return whether the registry is to be looked through."""
        with suppress(TimeoutError):
            async with asyncio.timeout(GLANCE):
                await self._look.wait()
        is_wanted = self._look.is_set()
        self._look.clear()
        return is_wanted

    def _look_by_hand(self) -> None:
        """Look for what no bell tells now: it is lost, or a stream was refused."""
        for runner in self._runners:
            runner.look_again()
            if self._was_lost:
                runner.ring_all()

    async def _survey(self) -> None:
        """Ring every stream that may exist, of every tenant that is wanted."""
        count = 0
        async for tenant_id in self._all_tenants():
            for event_type in await self._hub.store.registry.types(tenant_id):
                self._survey_type(tenant_id, event_type)
            count += 1
            if count % PAGE == 0:
                await self._clock.sleep(0)
        await self._note_known()
        self._ring_all()
        if self._is_first:
            self._is_first = False
            for runner in self._runners:
                runner.surveyed()
            log.info("consumer.streams_surveyed", tenants=count)

    async def _note_known(self) -> None:
        """Write down the streams that are read here: a server may forget the registry.

        Whoever has been writing to them believes that it was noted.
        """
        states = [
            state
            for runner in self._runners
            for state in runner.streams()
            if not state.is_new
        ]
        names: set[tuple[str, str]] = set()
        for at in range(0, len(states), PAGE):
            page = states[at : at + PAGE]
            # One that is gone was purged, perhaps: its tenant is not to come back.
            replies = await self._hub.port.send_many(
                [("EXISTS", state.key) for state in page]
            )
            names |= {
                state.name[:2]
                for state, reply in zip(page, replies, strict=True)
                if reply == 1
            }
        for tenant_id, event_type in names:
            await self._hub.store.registry.note_type(tenant_id, event_type)

    def _survey_type(self, tenant_id: str, event_type: str) -> None:
        if not any(
            runner.subscription.wants(tenant_id, event_type) for runner in self._runners
        ):
            return
        keys, count = (
            self._keys.tenant(tenant_id),
            self._hub.catalog.partitions(event_type),
        )
        # A type that was divided later has entries in its undivided streams too.
        partitions = [None, *range(count if count > 1 else 0)]
        for lane in range(len(LANES)):
            for partition in partitions:
                key = stream_key(keys, event_type, lane, partition)
                self.on_keys((key,))

    async def _all_tenants(self) -> AsyncIterator[str]:
        if self._tenants is None:
            async for tenant_id in self._hub.store.registry.tenants():
                yield tenant_id
            return
        for tenant_id in sorted(self._tenants):
            yield tenant_id


def _named(runners: Sequence[Runner]) -> frozenset[str] | None:
    """Return the tenants that are wanted, None for all."""
    names: set[str] = set()
    for runner in runners:
        tenants = runner.subscription.tenants
        if isinstance(tenants, AllTenants):
            return None
        names |= tenants
    return frozenset(names)
