"""What type checkers make of publishing: checked by mypy and pyright, never run."""

from __future__ import annotations

from typing import assert_type

from mcp_crew_redis import CrewRedis
from mcp_crew_redis.events.bus import EventBus, TenantEvents
from mcp_crew_redis.events.event import Event, EventReceipt
from mcp_crew_redis.events.kinds import EventPriority, EventType


async def of_a_tenant(crew: CrewRedis) -> None:
    """Everything is a keyword after type and payload."""
    events = crew.tenant("acme").events
    assert_type(events, TenantEvents)
    receipt = await events.publish(
        EventType.TOOL_DISCOVERED,
        {"tool": "search"},
        priority=EventPriority.HIGH,
        key="search",
        delay=1.5,
        event_id="e1",
        idempotent=True,
        durable=False,
        expires_in=60.0,
        correlation_id="c",
        causation_id="b",
        traceparent=None,
        tracestate=None,
        schema_version=2,
        source="agent",
        occurred_at=None,
        extensions={"a": 1},
    )
    assert_type(receipt, EventReceipt)
    assert_type(receipt.stream_id, str | None)
    many = await events.publish_many([Event.new("a.b", 1), Event.new("a.b", "x")])
    assert_type(many, list[EventReceipt])
    await events.publish("a.b", 1, dellay=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await events.publish("a.b", 1, source=2)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def of_all_tenants(crew: CrewRedis) -> None:
    """The same, and whose it is."""
    assert_type(crew.events, EventBus)
    receipt = await crew.events.publish("a.b", 1, tenant_id="acme", idempotent=True)
    assert_type(receipt, EventReceipt)
    await crew.events.publish("a.b", 1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await crew.events.publish_many([Event.new("a.b", 1)], tenant_id="acme")
