"""What the processes of an event run publish, and how they handle it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from zlib import crc32

from mcp_crew_redis.events.kinds import EventPriority
from mcp_crew_redis.events.schemas import EventCatalog, EventSchema

__all__ = ["Load"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What all processes of a run agree on; everything else follows from an event's id.

    Attributes:
        tenants: How many there are.
        types: How many event types.
        callers: Of each publisher, each with its own events.
        pause: Seconds between two events of a caller.
        work: Milliseconds that the slowest call of a handler takes.
        claim_after: Of the subscription.
        max_deliveries: Likewise.
        concurrency: Likewise.
        shared: One event in so many is published by every publisher, under one id.
        plain: One in so many of a publisher's own is not idempotent.
        raising: The handler raises for one in so many.
        deadly: It ends its process for one in so many.
        partitions: The events of one key are handled in order, by whoever has their
            partition; 0 for no order.
        batch: Events that a handler takes at once; 0 for a handler of one.
        dedup: Of the subscription.
        is_same: Every event is published to each tenant, under the same id and key.
    """

    tenants: int = 3
    types: int = 3
    callers: int = 4
    pause: float = 0.01
    work: float = 100.0
    claim_after: float = 1.0
    max_deliveries: int = 5
    concurrency: int = 32
    shared: int = 10
    plain: int = 0
    raising: int = 0
    deadly: int = 0
    partitions: int = 0
    batch: int = 0
    dedup: bool = False
    is_same: bool = False

    def place(self, name: str) -> tuple[str, str, EventPriority, str]:
        """Return tenant, type, priority and key of an event."""
        number = crc32(name.encode())
        key = f"k{number >> 24 & 7}"
        if self.is_same:
            return "", "same.thing", EventPriority.NORMAL, "same"
        return (
            f"t{number % self.tenants}",
            f"kind{(number >> 8) % self.types}.happened",
            EventPriority(number >> 16 & 3),
            key,
        )

    @property
    def catalog(self) -> EventCatalog:
        """What publishers and consumers have agreed on."""
        types = [f"kind{number}.happened" for number in range(self.types)]
        count = max(1, self.partitions)
        return EventCatalog(
            [EventSchema(type=name, partitions=count) for name in types]
        )

    @property
    def streams(self) -> int:
        """How many there are at most."""
        return self.tenants * self.types * len(EventPriority)

    def chosen(self, names: Iterable[tuple[str, str]], of: int) -> set[tuple[str, str]]:
        """Return the events among these, tenant and id, that are one in so many."""
        return {name for name in names if self.is_one(name, of)}

    def is_one(self, name: tuple[str, str], of: int) -> bool:
        """Whether an event, tenant and id, is one in so many."""
        return of > 0 and crc32("|".join(name).encode()) // 7 % of == 0
