"""What there is already: the bell tells only of what changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from mcp_crew_redis._wire.keys import TenantKeys
from mcp_crew_redis._wire.streams import LANES, scheduled_key, stream_key
from mcp_crew_redis.errors import InvalidEventTypeError
from mcp_crew_redis.events.hub import EventHub
from mcp_crew_redis.events.kinds import check_type

__all__ = ["Survey", "candidates"]

PAGE: Final = 256
"""Keys that are asked for in one round trip."""
REST: Final = 0.001
"""Seconds between two tenants: others use the server too."""


class Survey:
    """Finds the streams and the due times of tenants by the registry, at a pace.

    Args:
        hub: What the rooms of the events share.
        owns: Whether a tenant is for this process.
        found: Takes every key that exists.
    """

    def __init__(
        self,
        hub: EventHub,
        owns: Callable[[str], bool],
        found: Callable[[bytes], None],
    ) -> None:
        self._hub = hub
        self._owns = owns
        self._found = found

    async def run(self) -> None:
        """Look once at every tenant of this process.

        Raises:
            UnavailableError: Redis did not answer; what was found by then is found.
        """
        registry = self._hub.store.registry
        async for tenant_id in registry.tenants():
            if self._owns(tenant_id):
                await self._look(tenant_id)
                await self._hub.clock.sleep(REST)

    async def _look(self, tenant_id: str) -> None:
        hub = self._hub
        types = await hub.store.registry.types(tenant_id)
        keys = list(candidates(hub, hub.keys.tenant(tenant_id), types))
        for start in range(0, len(keys), PAGE):
            page = keys[start : start + PAGE]
            replies = await hub.port.send_many([("EXISTS", key) for key in page])
            for key, reply in zip(page, replies, strict=True):
                if reply == 1:
                    self._found(key)


def candidates(
    hub: EventHub, keys: TenantKeys, types: frozenset[str]
) -> Iterator[bytes]:
    """Give the keys that a tenant with these types may have: due times and streams."""
    yield scheduled_key(keys)
    for event_type in types:
        try:
            check_type(event_type)
        except InvalidEventTypeError:
            continue  # nobody of ours noted that
        for lane in range(len(LANES)):
            yield stream_key(keys, event_type, lane)
            count = hub.catalog.partitions(event_type)
            for partition in range(count if count > 1 else 0):
                yield stream_key(keys, event_type, lane, partition)
