"""Delayed events get into their streams when they are due."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from mcp_crew_redis._core.port import Call, Port
from mcp_crew_redis._wire.keys import STREAM_NAMESPACE, KeySpace, TenantKeys
from mcp_crew_redis._wire.streams import scheduled_bodies_key, scheduled_key, tally_key
from mcp_crew_redis.errors import UnavailableError

__all__ = ["Schedule", "streams_head"]

MOVED: Final = 100
"""Events of a tenant that one script moves at most."""
NO_GROUP: Final = "-"
"""Under this name stands what concerns no group."""
_FAILED: Final = (
    60.0  # seconds after which a key that cannot be worked on is tried again
)


class Schedule:
    """Moves what is due of a tenant, in order, each event once.

    Args:
        port: Runs the script.
        space: Parses and builds keys.
        on_dropped: Takes a tenant and how many of its events were no events.
    """

    def __init__(
        self, port: Port, space: KeySpace, on_dropped: Callable[[str, int], None]
    ) -> None:
        self._port = port
        self._space = space
        self._on_dropped = on_dropped

    def tenant_of(self, key: bytes) -> str | None:
        """Return the tenant whose due times stand under a key; None for other keys."""
        parsed = self._space.parse(key)
        if parsed is None or parsed.namespace != STREAM_NAMESPACE:
            return None
        keys = self._space.tenant(parsed.tenant)
        return parsed.tenant if scheduled_key(keys) == key else None

    async def work(self, keys: Sequence[bytes]) -> Mapping[bytes, float]:
        """Move what is due under these keys; see `Work`.

        Raises:
            UnavailableError: Redis did not answer.
        """
        tenants = {key: self.tenant_of(key) for key in keys}
        ours = {key: tenant for key, tenant in tenants.items() if tenant is not None}
        calls = [self._call(self._space.tenant(tenant)) for tenant in ours.values()]
        again: dict[bytes, float] = {}
        replies = await self._port.run_many(calls)
        for (key, tenant), reply in zip(ours.items(), replies, strict=True):
            if isinstance(reply, UnavailableError):
                again[key] = 1.0
            elif isinstance(reply, Exception):
                again[key] = _FAILED
            else:
                _, dropped, next_ms = reply
                if dropped:
                    self._on_dropped(tenant, dropped)
                if next_ms >= 0:
                    again[key] = next_ms / 1e3
        return again

    @staticmethod
    def _call(keys: TenantKeys) -> Call:
        names = (
            scheduled_key(keys),
            scheduled_bodies_key(keys),
            tally_key(keys, NO_GROUP),
        )
        return "event_due", names, (streams_head(keys), MOVED)


def streams_head(keys: TenantKeys) -> bytes:
    """Return what the keys of a tenant's streams begin with."""
    return keys.key(STREAM_NAMESPACE, "-")[:-1]
