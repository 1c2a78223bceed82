"""How an event gets into its stream."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from mcp_crew_redis._wire.envelope import BODY, ENVELOPE
from mcp_crew_redis._wire.uuid7 import id_text
from mcp_crew_redis.events.event import EventReceipt
from mcp_crew_redis.events.hub import EventHub
from mcp_crew_redis.events.line import Draft

__all__ = ["Publisher", "Waiting"]

T = TypeVar("T")
Waiting = Coroutine[Any, Any, T]


class Publisher:
    """Publishes the events of all tenants of one running crew.

    Args:
        hub: What the rooms of the events share.
    """

    __slots__ = ("_hub", "_note_type", "_send")

    def __init__(self, hub: EventHub) -> None:
        self._hub = hub
        self._send = hub.port.send
        self._note_type = hub.store.registry.note_type

    async def append(self, draft: Draft) -> EventReceipt:
        """Append one event to its stream, once: the plain publish."""
        line, envelope, stream, head, body = draft
        if self._hub.on_used:
            self._hub.used()
        await self._note_type(line.tenant_id, line.event_type)
        stream_id = await self._send("XADD", stream, "*", ENVELOPE, head, BODY, body)
        return EventReceipt(id_text(envelope.id), stream_id.decode())
