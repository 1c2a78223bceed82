"""One entry of a stream in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mcp_crew_redis.events.event import Event

if TYPE_CHECKING:
    from mcp_crew_redis.events.consumer.table import StreamState

__all__ = ["Held"]


class Held:
    """One entry in this process.

    Attributes:
        stream: Where it stands.
        entry_id: Its place there.
        event: What it says.
        count: Deliveries, this one included.
        since: When it came or was last held on to, in monotonic seconds.
        is_copy: It is no sign that its event was handled: another entry is.
        is_over: It takes up no room any more.
        is_left: Another consumer had it, and has not finished with it.
        is_taken: Another consumer has it now; that was told.
        is_suspect: That has happened before: consumers may die of it.
    """

    __slots__ = (
        "count",
        "entry_id",
        "event",
        "is_copy",
        "is_left",
        "is_over",
        "is_suspect",
        "is_taken",
        "since",
        "stream",
    )

    def __init__(
        self,
        stream: StreamState,
        entry_id: bytes,
        event: Event[Any],
        count: int,
        since: float,
    ) -> None:
        self.stream = stream
        self.entry_id = entry_id
        self.event = event
        self.count = count
        self.since = since
        self.is_copy = self.is_left = self.is_over = False
        self.is_suspect = self.is_taken = False

    def recount(self, count: int) -> None:
        """Take note of another number of deliveries; the event says it too."""
        self.count = count
        event = self.event
        self.event = Event.of(
            event.type,
            event.tenant_id,
            int(event.priority),
            event.payload,
            event.fields,
            event.stream_id,
            count,
        )
