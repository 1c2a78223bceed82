"""What the demo keeps for its tenants, item by item, and how two of them are compared.

Two processes compare what they hold by digests: the first one's of what it stored, the
second one's of what it read.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from mcp_crew_redis._wire.codec import MsgpackCodec
from mcp_crew_redis.types import DataType

__all__ = ["TYPES", "Item", "Reading", "digest_of"]

TYPES = (
    DataType.TOOLS,
    DataType.CACHE,
    DataType.KNOWLEDGE,
    DataType.CONVERSATION,
    DataType.COUNTER,
)
"""The data types of what the tenants keep, in the order of the story."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One value to keep.

    Attributes:
        tenant_id: Whose it is.
        data_type: What it is.
        identifier: Its name among the tenant's values of that type.
        kind: Row of the TTL table; None for the type's usual one.
        value: The value; of a counter, the calls to count.
    """

    tenant_id: str
    data_type: DataType
    identifier: str
    kind: str | None
    value: object

    @property
    def name(self) -> tuple[str, str, str]:
        """What no other item has: tenant, type and identifier."""
        return self.tenant_id, self.data_type.value, self.identifier


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the other process has read.

    Attributes:
        digest: See `digest_of`; "" when there was nothing.
        ttl: Seconds that it still had; None when there was nothing.
        read_us: Microseconds that reading it took.
    """

    digest: str
    ttl: float | None
    read_us: float


def digest_of(value: object) -> str:
    """Return the same text for equal values, in every process."""
    return hashlib.sha256(MsgpackCodec().encode(value)).hexdigest()
