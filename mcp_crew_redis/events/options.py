"""The keyword arguments of a publish."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypedDict

from mcp_crew_redis.events.kinds import EventPriority

__all__ = ["EventAttributes", "PublishOptions"]


class EventAttributes(TypedDict, total=False):
    """What may be said of an event besides type, payload and key: see `Event.new`."""

    event_id: str | None
    source: str | None
    correlation_id: str | None
    causation_id: str | None
    traceparent: str | None
    tracestate: str | None
    schema_version: int | None
    expires_in: float | None
    occurred_at: datetime | None
    extensions: Mapping[str, Any] | None


class PublishOptions(EventAttributes, total=False):
    """What `TenantEvents.publish` takes besides type and payload."""

    priority: EventPriority
    key: str | None
    delay: float | None
    idempotent: bool
    durable: bool
