"""What the tests of the janitor share: a process without a crew."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mcp_crew_redis._core.bell import Bell
from mcp_crew_redis._wire.streams import stream_key, tally_key
from mcp_crew_redis.events.bus import EventBus
from mcp_crew_redis.events.hub import EventHub
from mcp_crew_redis.events.janitor.janitor import Janitor
from mcp_crew_redis.events.janitor.pace import JanitorPace
from mcp_crew_redis.events.schemas import EventCatalog, EventSchema
from mcp_crew_redis.lifecycle import Lifecycle
from mcp_crew_redis.store.store import Store
from tests.integration.store.parts import store
from tests.rig.servers import RealServer

__all__ = ["LONG", "QUICK", "SHORT", "Process", "process"]

#: Everything soon.
QUICK = JanitorPace(lease=1.5, report=0.05, recheck=0.1, survey=0.1, retry=0.1)

#: Kept for a moment, and for no longer than two.
SHORT = EventSchema(type="order.short", retention=0.2, hard_retention=0.6)

#: Kept for a moment once it is acknowledged, else for an hour.
LONG = EventSchema(type="order.long", retention=0.2, hard_retention=3_600.0)


class Process:
    """A bus, a bell and a janitor on one connection."""

    def __init__(self, context: Any, server: RealServer, pace: JanitorPace) -> None:
        self.server = server
        self.store = Store(context)
        self.bell = Bell(context.port.client)
        catalog = EventCatalog([SHORT, LONG])
        self.hub = EventHub(self.store, self.bell, catalog)
        self.bus = EventBus(self.hub)
        self.janitor = Janitor(self.bus, pace=pace)

    def key(self, event_type: str, tenant: str = "acme", lane: int = 2) -> bytes:
        """Return the key of a stream."""
        return stream_key(self.hub.keys.tenant(tenant), event_type, lane)

    async def add(self, event_type: str, count: int = 1, tenant: str = "acme") -> bytes:
        """Have so many entries in a stream that the registry knows; return its key."""
        await self.store.registry.note_type(tenant, event_type)
        key = self.key(event_type, tenant)
        for number in range(count):
            self.server.execute("XADD", key, "*", "m", "m", "d", str(number))
        return key

    def length(self, key: bytes) -> int:
        """Return how many entries a stream has."""
        return int(self.server.execute("XLEN", key))

    def tally(self, group: str, field: str, tenant: str = "acme") -> int:
        """Return what a group has counted."""
        key = tally_key(self.hub.keys.tenant(tenant), group)
        return int(self.server.execute("HGET", key, field) or 0)

    def read(self, key: bytes, group: str, count: int, *, ack: int = 0) -> list[bytes]:
        """Have a group, which is made if need be, read and acknowledge; return ids."""
        groups = self.server.execute("XINFO", "GROUPS", key)
        if group.encode() not in [info[b"name"] for info in groups]:
            self.server.execute("XGROUP", "CREATE", key, group, "0")
        command = ("XREADGROUP", "GROUP", group, "c", "COUNT", count, "STREAMS")
        ((_, entries),) = self.server.execute(*command, key, ">")
        ids = [entry_id for entry_id, _ in entries]
        if ack:
            self.server.execute("XACK", key, group, *ids[:ack])
        return ids


@asynccontextmanager
async def process(
    server: RealServer,
    *,
    kwargs: dict[str, Any] | None = None,
    pace: JanitorPace = QUICK,
    is_used: bool = True,
) -> AsyncIterator[Process]:
    """Give a process whose janitor runs; drained at the end."""
    async with store(kwargs or server.client_kwargs) as context:
        one = Process(context, server, pace)
        services = [one.bell, one.janitor]
        lifecycle = Lifecycle(services, start_timeout=5.0, drain_timeout=5.0)
        try:
            async with lifecycle.running():
                if is_used:
                    one.hub.used()
                yield one
        finally:
            await one.store.aclose()
