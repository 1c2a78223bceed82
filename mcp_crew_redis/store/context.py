"""What the rooms of the store share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from mcp_crew_redis._core.port import Port
from mcp_crew_redis._wire.codec import MsgpackCodec
from mcp_crew_redis._wire.keys import KeySpace
from mcp_crew_redis._wire.ttl import TtlPolicy
from mcp_crew_redis.clock import Clock
from mcp_crew_redis.store.stamps import StampSource

__all__ = ["StoreContext", "TenantNotes"]


class TenantNotes(Protocol):
    """Remembers which tenants there are; see `store/registry.py`."""

    async def note(self, tenant_id: str) -> None:
        """Record that this tenant is being written to.

        Awaited before a process's first write for a tenant.

        Raises:
            UnavailableError: Redis did not answer.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreContext:
    """The parts that every operation of the store needs.

    Attributes:
        port: Commands and scripts.
        keys: The only builder of keys.
        codec: Values to bytes and back.
        ttl: Times to live by data type and kind.
        clock: Local time.
        stamps: The order of writes.
        max_value_bytes: Limit of one encoded value, header included.
        tombstone_ttl: Seconds that a delete of a synchronised value is remembered.
    """

    port: Port
    keys: KeySpace
    codec: MsgpackCodec
    ttl: TtlPolicy
    clock: Clock
    stamps: StampSource
    max_value_bytes: int
    tombstone_ttl: float
