"""Events: something has happened, and whoever wants to know is told.

The tutorial's tier: one concept per test, the public API only, a real server. It reads
from top to bottom.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sized
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from mcp_crew_redis import (
    Backoff,
    CodecError,
    CrewRedis,
    DataType,
    Event,
    EventCatalog,
    EventConsumer,
    EventPriority,
    EventReceipt,
    EventSchema,
    EventType,
    InvalidEventTypeError,
    Reject,
    Retry,
    Subscriptions,
    Tenant,
    from_cloudevent,
    to_cloudevent,
)
from tests.rig.waiting import wait_until

AT_ONCE = Backoff(base=0.0, maximum=0.0)
Serve = Callable[..., AbstractAsyncContextManager[CrewRedis]]


class Inbox:
    """Writes down what its handlers are given, in order."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[Event[Any]] = asyncio.Queue()

    async def take(self, event: Event[Any]) -> None:
        """Handle an event by writing it down."""
        self.events.put_nowait(event)

    async def next(self) -> Event[Any]:
        """Wait for the next one."""
        async with asyncio.timeout(10):
            return await self.events.get()

    async def payloads(self, count: int) -> list[Any]:
        """Wait for so many and return what they say."""
        return [(await self.next()).payload for _ in range(count)]


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def subscriptions() -> Subscriptions:
    return Subscriptions()


@pytest.fixture
def serve(crew_redis: CrewRedis) -> Serve:
    """Return what starts a crew with handlers: a process of its own, so to speak."""

    @asynccontextmanager
    async def serve(
        subscriptions: Subscriptions, catalog: EventCatalog | None = None
    ) -> AsyncIterator[CrewRedis]:
        services = [EventConsumer(subscriptions)]
        async with CrewRedis(
            crew_redis.settings, services=services, event_catalog=catalog
        ) as crew:
            yield crew

    return serve


async def has(listing: Awaitable[Sized], count: int) -> bool:
    """Whether a listing has so many."""
    return len(await listing) >= count


# --- something has happened ---------------------------------------------------
async def test_an_event_is_published_and_handled(
    serve: Serve, subscriptions: Subscriptions, inbox: Inbox
) -> None:
    """A type in dotted words, a payload, and a coroutine function that wants it."""

    @subscriptions.on("order.paid", group="shop")
    async def ship(event: Event[Any]) -> None:
        await inbox.take(event)

    async with serve(subscriptions) as crew:
        receipt = await crew.tenant("acme").events.publish("order.paid", {"order": 7})

        event = await inbox.next()
        assert (event.type, event.payload) == ("order.paid", {"order": 7})
        assert (event.id, event.tenant_id) == (receipt.event_id, "acme")


async def test_a_publisher_needs_nobody_who_listens(
    crew_redis: CrewRedis, serve: Serve, subscriptions: Subscriptions, inbox: Inbox
) -> None:
    """What was published before the first handler existed waits for it."""
    await crew_redis.tenant("acme").events.publish("order.paid", 1)
    subscriptions.on("order.paid", group="shop")(inbox.take)

    async with serve(subscriptions):
        assert await inbox.payloads(1) == [1]


async def test_the_crew_s_own_types_have_names(
    serve: Serve, subscriptions: Subscriptions, inbox: Inbox
) -> None:
    """Others are any dotted lower-case words; what is none is refused."""
    subscriptions.on(EventType.TOOL_DISCOVERED, group="index")(inbox.take)

    async with serve(subscriptions) as crew:
        events = crew.tenant("acme").events
        await events.publish(EventType.TOOL_DISCOVERED, {"tool": "search"})
        with pytest.raises(InvalidEventTypeError):
            await events.publish("Tool Discovered", {})

        assert (await inbox.next()).type == "tool.discovered"


# --- who is told --------------------------------------------------------------
async def test_a_group_shares_its_events(
    serve: Serve, subscriptions: Subscriptions, inbox: Inbox
) -> None:
    """Of two processes with the same group, one gets each event."""
    subscriptions.on("order.paid", group="shop")(inbox.take)

    async with serve(subscriptions) as one, serve(subscriptions):
        events = one.tenant("acme").events
        await events.publish_many([Event.new("order.paid", n) for n in range(20)])

        assert sorted(await inbox.payloads(20)) == list(range(20))
        assert inbox.events.empty()


async def test_each_group_gets_every_event(
    serve: Serve, subscriptions: Subscriptions
) -> None:
    """Shipping does not take an order away from bookkeeping."""
    shop, books = Inbox(), Inbox()
    subscriptions.on("order.paid", group="shop")(shop.take)
    subscriptions.on("order.paid", group="books")(books.take)

    async with serve(subscriptions) as crew:
        await crew.tenant("acme").events.publish("order.paid", 7)

        assert await shop.payloads(1) == await books.payloads(1) == [7]


async def test_a_pattern_stands_for_many_types(
    serve: Serve, subscriptions: Subscriptions, inbox: Inbox
) -> None:
    """`*` is one word, a last `>` all that follow; types may come later."""
    deep = Inbox()
    subscriptions.on("tool.*", group="one-word")(inbox.take)
    subscriptions.on("tool.>", group="any")(deep.take)

    async with serve(subscriptions) as crew:
        events = crew.tenant("acme").events
        await events.publish("tool.call.failed", 1)
        await events.publish("tool.removed", 2)

        assert await inbox.payloads(1) == [2]
        assert sorted(await deep.payloads(2)) == [1, 2]


async def test_a_handler_serves_all_tenants_or_those_it_names(
    serve: Serve, subscriptions: Subscriptions, inbox: Inbox
) -> None:
    """And is told of each event whose it is."""
    acme_only = Inbox()
    subscriptions.on("order.paid", group="all")(inbox.take)
    subscriptions.on("order.paid", group="acme", tenants=["acme"])(acme_only.take)

    async with serve(subscriptions) as crew:
        await crew.tenant("nova").events.publish("order.paid", "of nova")
        await crew.tenant("acme").events.publish("order.paid", "of acme")

        told = {(await inbox.next()).tenant_id for _ in range(2)}
        assert told == {"acme", "nova"}
        assert await acme_only.payloads(1) == ["of acme"]


# --- what is said -------------------------------------------------------------
class Order(BaseModel):
    number: int
    total: float = 0.0


async def test_a_payload_has_a_type(
    serve: Serve, subscriptions: Subscriptions, inbox: Inbox
) -> None:
    """A schema is checked when an event is published, and what is handled is it."""
    catalog = EventCatalog([EventSchema(type="order.paid", payload=Order)])

    @subscriptions.on("order.paid", group="shop")
    async def ship(event: Event[Order]) -> None:
        assert event.payload.number == 7
        await inbox.take(event)

    async with serve(subscriptions, catalog) as crew:
        events = crew.tenant("acme").events
        await events.publish("order.paid", Order(number=7))
        with pytest.raises(CodecError):
            await events.publish("order.paid", {"numero": 7})

        assert await inbox.payloads(1) == [Order(number=7)]


async def test_an_old_payload_is_brought_up_to_date(
    crew_redis: CrewRedis, serve: Serve, subscriptions: Subscriptions, inbox: Inbox
) -> None:
    """An upcaster leads from each version to the next; handlers know the last one."""
    await crew_redis.tenant("acme").events.publish("order.paid", {"id": 7})
    schema = EventSchema(
        type="order.paid",
        payload=Order,
        version=2,
        upcasters={1: lambda old: {"number": old["id"]}},
    )
    subscriptions.on("order.paid", group="shop")(inbox.take)

    async with serve(subscriptions, EventCatalog([schema])):
        event = await inbox.next()
        assert (event.payload, event.schema_version) == (Order(number=7), 1)


async def test_what_is_published_in_a_handler_descends_from_its_event(
    serve: Serve, subscriptions: Subscriptions, inbox: Inbox
) -> None:
    """Its cause is that event; the correlation is that of the first of all."""

    @subscriptions.on("order.paid", group="shop")
    async def ship(event: Event[Any]) -> None:
        await crew.tenant(event.tenant_id).events.publish("order.shipped", None)

    subscriptions.on("order.shipped", group="mail")(inbox.take)

    async with serve(subscriptions) as crew:
        paid = await crew.tenant("acme").events.publish("order.paid", None)

        shipped = await inbox.next()
        assert shipped.causation_id == shipped.correlation_id == paid.event_id


# --- what may go wrong --------------------------------------------------------
async def test_a_handler_that_raises_gets_its_event_again(
    serve: Serve, subscriptions: Subscriptions, inbox: Inbox
) -> None:
    """After a pause, and with the number of the delivery."""

    @subscriptions.on("order.paid", group="shop", backoff=AT_ONCE)
    async def ship(event: Event[Any]) -> None:
        await inbox.take(event)
        if event.delivery_count < 3:
            raise ConnectionError("the carrier does not answer")

    async with serve(subscriptions) as crew:
        await crew.tenant("acme").events.publish("order.paid", 7)

        deliveries = [(await inbox.next()).delivery_count for _ in range(3)]
        assert deliveries == [1, 2, 3]


async def test_a_handler_may_say_when_it_wants_it_again(
    serve: Serve, subscriptions: Subscriptions, inbox: Inbox
) -> None:
    """The pause survives this process."""

    @subscriptions.on("order.paid", group="shop")
    async def ship(event: Event[Any]) -> None:
        await inbox.take(event)
        if event.delivery_count == 1:
            raise Retry("the carrier is closed", after=0.05)

    async with serve(subscriptions) as crew:
        await crew.tenant("acme").events.publish("order.paid", 7)

        assert await inbox.payloads(2) == [7, 7]


async def test_what_cannot_be_handled_is_a_dead_letter(
    serve: Serve, subscriptions: Subscriptions, inbox: Inbox
) -> None:
    """With its reason; it can be looked at, and given back once the cause is gone."""
    is_fixed = False

    @subscriptions.on("order.paid", group="shop", max_deliveries=2, backoff=AT_ONCE)
    async def ship(event: Event[Any]) -> None:
        if not is_fixed and event.payload == "poison":
            raise ValueError("no such address")
        if event.payload == "spam":
            raise Reject("not an order")
        await inbox.take(event)

    async with serve(subscriptions) as crew:
        events = crew.tenant("acme").events
        for payload in ("poison", "spam", "good"):
            await events.publish("order.paid", payload)
        assert await inbox.payloads(1) == ["good"]

        dead = events.dead_letters("shop")
        await wait_until(lambda: has(dead.list(), 2), "two have died")
        letters = await dead.list()
        told = {each.event.payload: (each.reason, each.attempts) for each in letters}
        assert told == {
            "poison": ("ValueError: no such address", 2),
            "spam": ("not an order", 1),
        }

        is_fixed = True
        [poison] = [each.id for each in letters if each.event.payload == "poison"]
        await dead.replay([poison])
        assert await inbox.payloads(1) == ["poison"]
        assert await dead.purge() == 1


async def test_a_batch_handler_says_which_it_has_not_handled(
    serve: Serve, subscriptions: Subscriptions, inbox: Inbox
) -> None:
    """It takes lists; what it does not name is handled."""

    @subscriptions.on("sample.taken", group="store", batch=True, backoff=AT_ONCE)
    async def store(events: list[Event[Any]]) -> dict[str, Retry | Reject]:
        failed: dict[str, Retry | Reject] = {}
        for event in events:
            await inbox.take(event)
            if event.payload == 5 and event.delivery_count == 1:
                failed[event.id] = Retry()
        return failed

    async with serve(subscriptions) as crew:
        events = [Event.new("sample.taken", number) for number in range(10)]
        await crew.tenant("acme").events.publish_many(events)

        assert sorted(await inbox.payloads(11)) == sorted([*range(10), 5])


# --- order --------------------------------------------------------------------
async def test_urgent_events_overtake(
    crew_redis: CrewRedis, serve: Serve, subscriptions: Subscriptions, inbox: Inbox
) -> None:
    """Each priority has a lane of its own; a backlog of low ones holds up nobody."""
    events = crew_redis.tenant("acme").events
    low, urgent = EventPriority.LOW, EventPriority.CRITICAL
    backlog = [Event.new("alert.raised", "low", priority=low) for _ in range(200)]
    await events.publish_many(backlog)
    await events.publish("alert.raised", "critical", priority=urgent)
    subscriptions.on("alert.raised", group="desk", concurrency=1)(inbox.take)

    async with serve(subscriptions):
        assert "critical" in await inbox.payloads(10)


async def test_events_of_one_key_are_handled_in_order(
    serve: Serve, subscriptions: Subscriptions, inbox: Inbox
) -> None:
    """Each after the one before, also when that one had to be tried again."""

    @subscriptions.on("account.moved", group="book", ordering="key", backoff=AT_ONCE)
    async def book(event: Event[Any]) -> None:
        if event.payload == 3 and event.delivery_count == 1:
            raise ConnectionError
        await inbox.take(event)

    async with serve(subscriptions) as crew:
        moves = [
            Event.new("account.moved", number, key=key)
            for number in range(10)
            for key in ("anna", "ben")
        ]
        await crew.tenant("acme").events.publish_many(moves)

        handled = [await inbox.next() for _ in moves]
        for key in ("anna", "ben"):
            order = [event.payload for event in handled if event.key == key]
            assert order == list(range(10))


# --- when ---------------------------------------------------------------------
async def test_an_event_may_be_delayed(
    serve: Serve, subscriptions: Subscriptions, inbox: Inbox
) -> None:
    """Nobody gets it before its time; it waits in Redis, not in a process."""
    subscriptions.on("reminder.due", group="mail")(inbox.take)

    async with serve(subscriptions) as crew:
        events = crew.tenant("acme").events
        await events.publish("reminder.due", "later", delay=0.3)
        await events.publish("reminder.due", "now")

        assert await inbox.payloads(2) == ["now", "later"]


async def test_an_id_makes_publishing_repeatable(
    serve: Serve, subscriptions: Subscriptions, inbox: Inbox
) -> None:
    """Whoever does not know whether it was published publishes it again."""
    subscriptions.on("order.paid", group="shop")(inbox.take)

    async with serve(subscriptions) as crew:
        events = crew.tenant("acme").events
        first, again = [
            await events.publish("order.paid", 7, event_id="order-7", idempotent=True)
            for _ in range(2)
        ]

        assert (first.is_duplicate, again.is_duplicate) == (False, True)
        assert await inbox.payloads(1) == [7]
        assert inbox.events.empty()


async def test_an_event_may_be_of_no_use_after_a_while(
    crew_redis: CrewRedis, serve: Serve, subscriptions: Subscriptions, inbox: Inbox
) -> None:
    """Who comes too late is not bothered with it, and it is counted."""
    events = crew_redis.tenant("acme").events
    short = await events.publish("price.quoted", "short-lived", expires_in=0.001)
    await events.publish("price.quoted", "long-lived", expires_in=3_600)
    subscriptions.on("price.quoted", group="shop")(inbox.take)
    await wait_until(lambda: is_over(short), "it is of no use any more")

    async with serve(subscriptions):
        assert await inbox.payloads(1) == ["long-lived"]

        async def is_counted() -> bool:
            return (await events.stats("shop"))[0].expired == 1

        await wait_until(is_counted, "it is counted")


def is_over(receipt: EventReceipt) -> bool:
    """Whether a millisecond has passed since an event was published."""
    ms = int(str(receipt.stream_id).partition("-")[0])
    return datetime.now(UTC).timestamp() * 1_000 > ms + 5


# --- state and events together ------------------------------------------------
@pytest.fixture
def acme(crew_redis: CrewRedis) -> Tenant:
    return crew_redis.tenant("acme")


async def test_state_and_events_change_together(acme: Tenant) -> None:
    """All of a transaction happens, or nothing."""
    since = datetime.now(UTC) - timedelta(minutes=1)

    async with acme.transaction() as tx:
        tx.set(DataType.STATE, "order:7", "paid")
        tx.increment(DataType.COUNTER, "orders")
        tx.publish("order.paid", {"order": 7})
    with suppress(InvalidEventTypeError):
        async with acme.transaction() as tx:
            tx.publish("order.paid", {"order": 8})
            tx.publish("Order Paid", {"order": 9})

    assert await acme.get(DataType.STATE, "order:7") == "paid"
    past = [event.payload async for event in acme.events.replay(">", since=since)]
    assert past == [{"order": 7}]


# --- looking on, and looking back ---------------------------------------------
async def test_a_tail_shows_what_happens_from_now_on(acme: Tenant) -> None:
    """Without a group: nobody acknowledges, everybody who looks sees everything."""
    await acme.events.publish("order.paid", "before")

    async with acme.events.tail("order.*") as tail:
        await acme.events.publish("order.paid", "after")
        async with asyncio.timeout(10):
            assert (await anext(tail)).payload == "after"


async def test_a_replay_shows_what_has_happened(acme: Tenant) -> None:
    """As long as events are retained, whether they were handled or not."""
    since = datetime.now(UTC) - timedelta(minutes=1)
    for number in range(3):
        await acme.events.publish("order.paid", number)

    past = [event async for event in acme.events.replay("order.*", since=since)]

    assert [event.payload for event in past] == [0, 1, 2]


async def test_a_group_may_be_sent_back(
    serve: Serve, subscriptions: Subscriptions, inbox: Inbox
) -> None:
    """After a mistake in a handler it gets again what it had already."""
    subscriptions.on("order.paid", group="shop")(inbox.take)

    async with serve(subscriptions) as crew:
        events = crew.tenant("acme").events
        await events.publish("order.paid", 7)
        assert await inbox.payloads(1) == [7]

        await events.rewind("shop", "order.*", "earliest")
        assert await inbox.payloads(1) == [7]


async def test_the_figures_of_a_group(
    serve: Serve, subscriptions: Subscriptions, inbox: Inbox
) -> None:
    """How long its streams are, what is pending, and what it has cost."""
    subscriptions.on("order.paid", group="shop")(inbox.take)

    async with serve(subscriptions) as crew:
        events = crew.tenant("acme").events
        await events.publish("order.paid", 7)
        await inbox.next()

        [figures] = await events.stats("shop")
        assert (figures.group, figures.length, figures.dead) == ("shop", 1, 0)


# --- to others ----------------------------------------------------------------
async def test_an_event_is_a_cloudevent_elsewhere() -> None:
    """A mapping for `json.dumps`, and back."""
    event = Event.new("order.paid", {"order": 7}, key="customer-3", source="/shop")

    told = to_cloudevent(event)

    assert (told["specversion"], told["subject"]) == ("1.0", "customer-3")
    assert from_cloudevent(told) == event
