"""What the unit tests of consumers share: entries that stand in no stream."""

from __future__ import annotations

from itertools import count

from mcp_crew_redis._wire.streams import StreamName
from mcp_crew_redis.events.consumer.held import Held
from mcp_crew_redis.events.consumer.table import StreamState
from mcp_crew_redis.events.event import Event
from mcp_crew_redis.events.making import make_envelope
from mcp_crew_redis.events.subscriptions import Subscription, Subscriptions

__all__ = ["anything", "held", "state", "subscribed"]

_numbers = count(1)


async def handle(events: object) -> None:
    """Handle nothing."""


def subscribed(**options: object) -> Subscription:
    """Return a subscription with these options."""
    table = Subscriptions()
    table.on(">", **{"group": "g", **options})(handle)
    (subscription,) = table
    return subscription


def state(lane: int = 2, tenant: str = "acme", event_type: str = "t") -> StreamState:
    """Return a stream that nobody knows."""
    name = StreamName(tenant, event_type, lane)
    return StreamState(f"{tenant}:{event_type}:{lane}".encode(), name)


def held(
    stream: StreamState,
    payload: object = None,
    *,
    key: str | None = None,
    event_id: str | None = None,
) -> Held:
    """Return an entry of a stream, as it is taken in."""
    entry_id = b"%d-0" % next(_numbers)
    name = stream.name
    envelope = make_envelope(key=key, event_id=event_id)
    event = Event.of(
        name.event_type, name.tenant_id, name.lane, payload, envelope, entry_id, 1
    )
    return Held(stream, entry_id, event, 1, 0.0)


def anything(_):
    """Mean all of them."""
    return True
