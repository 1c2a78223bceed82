"""What type checkers make of events: checked by mypy and pyright, never run."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, assert_type

from mcp_crew_redis import (
    ALL_TENANTS,
    Backoff,
    BatchOutcome,
    Event,
    EventCatalog,
    EventConsumer,
    EventPriority,
    EventSchema,
    EventType,
    Reject,
    Retry,
    Subscriptions,
    from_cloudevent,
    to_cloudevent,
)
from mcp_crew_redis.events.subscriptions import Subscription


class Order:
    """A type of the user's own."""

    total = 1.0


subscriptions = Subscriptions()


@subscriptions.on("order.*", group="shop", payload=Order, tenants=["acme"])
async def one(event: Event[Order]) -> None:
    """Know the payload."""
    assert_type(event.payload, Order)
    assert_type(event.priority, EventPriority)
    assert_type(event.key, str | None)
    assert_type(event.delivery_count, int)
    if event.delivery_count > 1:
        raise Retry(after=1.0)
    raise Reject("why")


@subscriptions.on("order.*", group="shop", batch=True, batch_size=100)
async def many(events: list[Event[Order]]) -> BatchOutcome:
    """Say of each which it has not handled."""
    return {event.id: Retry(after=1) for event in events if event.payload.total > 1}


@subscriptions.on("order.*", group="audit", batch=True, backoff=Backoff(base=2.0))
async def all_of_them(events: list[Event[Any]]) -> None:
    """Nothing to say: all of them are handled."""


@subscriptions.on(EventType.ALERT_RAISED, group="a", tenants=ALL_TENANTS)
async def anything(event: Event[Any]) -> None:
    """Take any payload."""


class Agent:
    """Handlers may have a state."""

    async def handle(self, event: Event[Order]) -> None:
        """Handle nothing."""


subscriptions.on("order.*", group="agent", ordering="key")(Agent().handle)
still_a_handler: Callable[[Event[Order]], Coroutine[Any, Any, None]] = one


async def direct(event: Event[Order]) -> None:
    """A handler stays the coroutine function that it was: unit tests call it."""
    assert_type(await one(event), None)
    assert_type(await many([event]), BatchOutcome)


def events() -> None:
    """An event knows the type of its payload; one of a subclass is one of the class."""
    event = Event.new("order.paid", Order(), key="7")
    assert_type(event, Event[Order])
    wider: Event[object] = event
    assert_type(wider.id, str)
    for subscription in subscriptions:
        assert_type(subscription, Subscription)
    schema = EventSchema(
        type="order.paid", payload=Order, version=2, upcasters={1: dict}
    )
    assert_type(EventCatalog([schema]).get("order.paid"), EventSchema | None)


def elsewhere(event: Event[Order]) -> None:
    """A mapping there, an event of any payload back."""
    assert_type(to_cloudevent(event), dict[str, Any])
    assert_type(from_cloudevent({}), Event[Any])
    assert_type(EventConsumer(subscriptions).statistics()[0].handled, int)


def plain(event: Event[Order]) -> None:
    """Block the loop."""


async def of_others(number: int) -> None:
    """Take something else."""


async def counting(event: Event[Order]) -> int:
    """Return what nobody looks at."""
    return event.delivery_count


def refused(event: Event[Order]) -> None:
    """What would be a mistake at run time is one here."""
    table = Subscriptions()
    table.on("a", group="g")(plain)  # type: ignore[type-var]  # not async
    table.on("a", group="g")(of_others)  # type: ignore[type-var]  # takes no event
    table.on("a", group="g")(counting)  # type: ignore[type-var]  # returns something
    table.on("a", group="g", batch=True)(one)  # type: ignore[type-var]  # no list
    table.on("a", group="g")(many)  # type: ignore[type-var]  # takes a list
    table.on("a", group="g", ordering="type")  # type: ignore[call-overload]  # no such order
    event.payload = Order()  # type: ignore[misc]  # frozen
    narrower: Event[Order] = Event.new("a", object())  # type: ignore[arg-type]  # noqa: F841
