"""What the tests of publishing share: a bus on a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mcp_crew_redis._core.bell import Bell
from mcp_crew_redis.events.bus import EventBus
from mcp_crew_redis.events.hub import EventHub
from mcp_crew_redis.events.schemas import EventCatalog, EventSchema
from tests.integration.store.outage_parts import opened

__all__ = ["ORDERS", "bodies", "buses", "stream"]

ORDERS = b"p:events:{acme}:order.paid:normal"


@asynccontextmanager
async def buses(
    kwargs: dict[str, Any], *schemas: EventSchema, **options: Any
) -> AsyncIterator[EventBus]:
    """Give a bus on the connection `kwargs`; it is closed at the end."""
    async with opened(kwargs, **options) as store:
        hub = EventHub(store, Bell(store.context.port.client), EventCatalog(schemas))
        bus = EventBus(hub)
        try:
            yield bus
        finally:
            await store.aclose()
            await bus.aclose()


def stream(server: Any, key: bytes = ORDERS) -> list[Any]:
    """Return the entries of a stream: id and fields."""
    return list(server.execute("XRANGE", key, "-", "+"))


def bodies(server: Any, key: bytes = ORDERS) -> list[bytes]:
    """Return the payloads of a stream, encoded."""
    found = []
    for _, fields in stream(server, key):
        pairs = fields if isinstance(fields, dict) else _pairs(fields)
        found.append(pairs[b"d"])
    return found


def _pairs(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
