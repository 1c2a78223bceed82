"""Consumers at work: who gets which events, when, and how many at a time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from pydantic import BaseModel

from mcp_crew_redis.errors import LifecycleError
from mcp_crew_redis.events.event import Event
from mcp_crew_redis.events.kinds import EventPriority
from mcp_crew_redis.events.outcomes import Reject, Retry
from mcp_crew_redis.events.schemas import EventCatalog, EventSchema
from mcp_crew_redis.events.subscriptions import Subscriptions
from mcp_crew_redis.lifecycle import ServiceState
from mcp_crew_redis.services import EventConsumer
from tests.integration.events.consuming import (
    Record,
    consuming,
    crew_on,
    groups_of,
    is_settled,
    letters,
    one_handler,
    pending_of,
    stream,
)
from tests.rig.waiting import wait_until

pytestmark = pytest.mark.timeout(60)
everywhere = pytest.mark.every_server

LOW, CRITICAL = EventPriority.LOW, EventPriority.CRITICAL


@pytest.fixture
def server(request, session_servers):
    """Every kind in a test marked so, but the cluster: crews have none yet."""
    name = getattr(request, "param", "valkey")
    if name == "clustered":
        pytest.skip("crews do not speak to clusters yet")
    return session_servers(name)


async def publish(crew, *payloads, tenant="acme", event_type="order.paid", **options):
    """Publish one event for each payload, in order."""
    for payload in payloads:
        await crew.tenant(tenant).events.publish(event_type, payload, **options)


async def backlog(crew, count, *, tenant="acme", event_type="order.paid", **options):
    """Publish many at once, numbered from 0."""
    events = [Event.new(event_type, number, **options) for number in range(count)]
    await crew.tenant(tenant).events.publish_many(events)


# --- delivery -----------------------------------------------------------------------


@everywhere
async def test_published_is_handled_and_acknowledged(server):
    """With payload, tenant, type and the number of the delivery."""
    record = Record()
    async with consuming(server, one_handler(record.handle)) as (crew, _):
        await publish(crew, {"order": 7}, key="7")
        await record.until(1)

        (event,) = record.events
        assert (event.payload, event.key) == ({"order": 7}, "7")
        assert (event.tenant_id, event.type) == ("acme", "order.paid")
        assert (event.delivery_count, event.priority) == (1, EventPriority.NORMAL)
        await wait_until(lambda: is_settled(server, stream()), "it is acknowledged")


async def test_what_was_published_before_is_handled_too(server):
    """Groups begin at the beginning."""
    record = Record()
    async with crew_on(server) as crew:
        await publish(crew, 1, 2, 3)
    async with consuming(server, one_handler(record.handle)):
        await record.until(3)

    assert record.payloads == [1, 2, 3]


async def test_a_group_that_starts_with_the_latest_skips_what_is_there(server):
    """But not what is published later, in streams that come later too."""
    record = Record()
    subscriptions = one_handler(record.handle, "order.>", start="latest")
    async with crew_on(server) as crew:
        await publish(crew, "old")
    async with consuming(server, subscriptions) as (crew, _):
        await wait_until(lambda: groups_of(server, stream()), "the group is made")
        await publish(crew, "new")
        await publish(crew, "first", event_type="order.shipped")
        await record.until(2)

    assert sorted(record.payloads) == ["first", "new"]


async def test_nothing_is_delivered_twice(server):
    """Neither within one process nor by the next one."""
    record = Record()
    async with consuming(server, one_handler(record.handle)) as (crew, _):
        await backlog(crew, 500)
        await record.until(500)
    async with consuming(server, one_handler(record.handle)) as (crew, _):
        await publish(crew, "last")
        await wait_until(lambda: "last" in record.payloads, "it is handled")

    assert len(record) == 501
    assert sorted(record.payloads[:500]) == list(range(500))


async def test_consumers_of_one_group_share_its_events(server):
    """Each event goes to one of them; both get some."""
    one, two = Record(), Record()

    def slowly(record):
        async def handle(event):
            await asyncio.sleep(0.001)
            await record.handle(event)

        return one_handler(handle, concurrency=2)

    async with (
        consuming(server, slowly(one)) as (crew, _),
        consuming(server, slowly(two)),
    ):
        await backlog(crew, 400)
        await wait_until(lambda: len(one) + len(two) >= 400, "all are handled")

    assert sorted(one.payloads + two.payloads) == list(range(400))
    assert min(len(one), len(two)) > 0


async def test_each_group_gets_all_events(server):
    """Whatever the others do with theirs."""
    one, two = Record(), Record()
    subscriptions = Subscriptions()
    subscriptions.on("order.paid", group="one")(one.handle)

    @subscriptions.on("order.paid", group="two", max_deliveries=1)
    async def fail(event):
        await two.handle(event)
        raise Reject("not mine")

    async with consuming(server, subscriptions) as (crew, _):
        await backlog(crew, 50)
        await one.until(50)
        await two.until(50)
        await wait_until(lambda: len(letters(server, group="two")) == 50, "letters")

    assert sorted(one.payloads) == sorted(two.payloads) == list(range(50))
    assert letters(server, group="one") == []


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("order.paid", {"order.paid"}),
        ("order.*", {"order.paid", "order.shipped"}),
        ("order.>", {"order.paid", "order.shipped", "order.line.added"}),
        (
            ">",
            {"order", "order.paid", "order.shipped", "order.line.added", "tool.paid"},
        ),
        ("*.paid", {"order.paid", "tool.paid"}),
        ("*", {"order"}),
    ],
)
async def test_patterns_choose_types(server, pattern, wanted):
    """Those that match, and no others."""
    types = ("order", "order.paid", "order.shipped", "order.line.added", "tool.paid")
    record = Record()
    async with consuming(server, one_handler(record.handle, pattern)) as (crew, _):
        for event_type in types:
            await publish(crew, event_type, event_type=event_type)
        await record.until(len(wanted))
        await publish(crew, "end", event_type=min(wanted))
        await wait_until(lambda: "end" in record.payloads, "the last is handled")

    assert {event.type for event in record.events} == wanted
    assert len(record) == len(wanted) + 1


async def test_only_tenants_that_are_named_are_served(server):
    """One, several, or all."""
    one, some, every = Record(), Record(), Record()
    subscriptions = Subscriptions()
    subscriptions.on(">", group="one", tenants=["acme"])(one.handle)
    subscriptions.on(">", group="some", tenants=["acme", "globex"])(some.handle)
    subscriptions.on(">", group="all")(every.handle)
    async with consuming(server, subscriptions) as (crew, _):
        for tenant in ("acme", "globex", "initech"):
            await publish(crew, tenant, tenant=tenant)
        await every.until(3)
        await some.until(2)
        await one.until(1)

    assert sorted(every.payloads) == ["acme", "globex", "initech"]
    assert sorted(some.payloads) == ["acme", "globex"]
    assert one.payloads == ["acme"]


async def test_new_tenants_and_types_are_found_while_running(server):
    """Written by another process, soon after they were."""
    record = Record()
    async with (
        consuming(server, one_handler(record.handle, ">")) as (crew, consumer),
        crew_on(server) as other,
    ):
        await publish(crew, "known")
        await record.until(1)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await publish(other, "new", tenant="globex", event_type="tool.updated")
        await record.until(2)

        assert loop.time() - began < 1.0
        (statistics,) = consumer.statistics()
        assert statistics.streams == 2


async def test_every_priority_is_handled(server):
    """Lanes are streams of their own."""
    record = Record()
    async with consuming(server, one_handler(record.handle)) as (crew, _):
        for priority in EventPriority:
            await publish(crew, priority.name, priority=priority)
        await record.until(4)

    got = {event.payload: event.priority for event in record.events}
    assert got == {priority.name: priority for priority in EventPriority}


# --- payloads -----------------------------------------------------------------------


class Paid(BaseModel):
    order: int


@dataclass
class Shipped:
    order: int


async def test_payloads_come_as_what_the_subscription_asks_for(server):
    """A model; what the catalog says of the type counts where it says nothing."""
    one, two = Record(), Record()
    subscriptions = Subscriptions()
    subscriptions.on("order.paid", group="g", payload=Paid)(one.handle)
    subscriptions.on("order.shipped", group="g")(two.handle)
    catalog = EventCatalog([EventSchema(type="order.shipped", payload=Shipped)])
    async with consuming(server, subscriptions, catalog=catalog) as (crew, _):
        await publish(crew, {"order": 7})
        await publish(crew, Shipped(8), event_type="order.shipped")
        await one.until(1)
        await two.until(1)

    assert one.payloads == [Paid(order=7)]
    assert two.payloads == [Shipped(8)]


# --- batches ------------------------------------------------------------------------


async def test_a_batch_handler_gets_lists_of_one_tenant(server):
    """No longer than asked for, each event once."""
    lists = []

    async def handle(events):
        lists.append([(event.tenant_id, event.payload) for event in events])

    async with crew_on(server) as crew:
        for tenant in ("acme", "globex"):
            await backlog(crew, 300, tenant=tenant)
    subscriptions = one_handler(handle, batch=True, batch_size=64)
    async with consuming(server, subscriptions):
        await wait_until(lambda: sum(map(len, lists)) >= 600, "all are handled")
        for tenant in ("acme", "globex"):
            await wait_until(lambda t=tenant: is_settled(server, stream(t)), "acks")

    assert max(map(len, lists)) <= 64
    assert all(len({tenant for tenant, _ in one}) == 1 for one in lists)
    assert len({each for one in lists for each in one}) == 600
    assert sum(map(len, lists)) == 600


async def test_a_batch_handler_tells_of_each_event(server):
    """What it names is tried again or buried; the others are done."""
    given = []

    async def handle(events):
        given.extend((event.payload, event.delivery_count) for event in events)
        return {
            event.id: Retry(after=0.01) if event.payload == 1 else Reject("bad")
            for event in events
            if event.payload in (1, 2) and event.delivery_count == 1
        }

    subscriptions = one_handler(handle, batch=True, batch_size=10)
    async with crew_on(server) as crew:
        await backlog(crew, 5)
    async with consuming(server, subscriptions):
        await wait_until(lambda: (1, 2) in given, "the first is tried again")
        await wait_until(lambda: is_settled(server, stream()), "all are settled")

    assert sorted(given) == [(0, 1), (1, 1), (1, 2), (2, 1), (3, 1), (4, 1)]
    assert [letter[b"_r"] for letter in letters(server)] == [b"bad"]


@pytest.mark.parametrize("dedup", [False, True])
async def test_large_batches_do_not_stop_the_reading(server, dedup):
    """So many acknowledgements at once are more than may wait for Redis."""
    sizes = []

    async def handle(events):
        sizes.append(len(events))
        await asyncio.sleep(0)

    async with crew_on(server) as crew:
        await backlog(crew, 30_000)
    subscriptions = one_handler(
        handle, batch=True, batch_size=10_000, concurrency=1, dedup=dedup
    )
    async with consuming(server, subscriptions):
        await wait_until(lambda: sum(sizes) >= 30_000, "all are handled", 20)
        await wait_until(lambda: is_settled(server, stream()), "all is acknowledged")


# --- bounds -------------------------------------------------------------------------


async def test_no_more_calls_than_allowed_at_a_time(server):
    """Never, and all of them are used."""
    under_way, most, count = 0, 0, 0

    async def handle(_):
        nonlocal under_way, most, count
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.002)
        under_way -= 1
        count += 1

    async with crew_on(server) as crew:
        for priority in EventPriority:
            await backlog(crew, 100, priority=priority)
    async with consuming(server, one_handler(handle, concurrency=7)):
        await wait_until(lambda: count >= 400, "all are handled")

    assert most == 7


async def test_what_is_fetched_is_bounded_whatever_the_backlog(server):
    """A slow consumer leaves the rest to others."""
    gate = asyncio.Event()
    record = Record()

    async def handle(event):
        await gate.wait()
        await record.handle(event)

    async with crew_on(server) as crew:
        await backlog(crew, 20_000)
    async with consuming(server, one_handler(handle, concurrency=8)) as (_, consumer):
        await wait_until(lambda: pending_of(server, stream()) >= 8, "calls are busy")
        await asyncio.sleep(0.3)  # whatever else it would fetch, it has
        (statistics,) = consumer.statistics()
        assert pending_of(server, stream()) <= 8 + 32
        assert statistics.held <= 8 + 32
        gate.set()
        await record.until(100)


@pytest.mark.slow
async def test_fetching_ahead_is_bounded_at_full_speed(server):
    """100,000 wait; it works, and holds little more than it has calls."""
    record = Record()
    most = 0

    async def handle(event):
        nonlocal most
        most = max(most, consumer.statistics()[0].held)
        await record.handle(event)

    async with crew_on(server) as crew:
        await backlog(crew, 100_000)
    async with consuming(server, one_handler(handle, concurrency=8)) as (_, consumer):
        await record.until(20_000, timeout=30)

    assert most <= 8 + 4 * 8 + 1


async def test_critical_events_overtake_slow_ones(server):
    """Calls are kept for them: they do not wait for one that is slow."""
    gate = asyncio.Event()
    handled = []

    async def handle(event):
        if event.priority is LOW:
            await gate.wait()
        handled.append(event.payload)

    async with consuming(server, one_handler(handle, concurrency=4)) as (crew, _):
        await backlog(crew, 1_000, priority=LOW)
        await wait_until(lambda: pending_of(server, stream(lane=3)) >= 3, "busy")
        await publish(crew, "alert", priority=CRITICAL)
        await wait_until(lambda: handled == ["alert"], "it is handled", 1.0)
        gate.set()


async def test_low_events_are_not_starved(server):
    """At least one in fifteen while all lanes have something."""
    lanes = []

    async def handle(event):
        lanes.append(int(event.priority))

    async with crew_on(server) as crew:
        for priority in EventPriority:
            await backlog(crew, 1_500, priority=priority)
    async with consuming(server, one_handler(handle, concurrency=4)):
        await wait_until(lambda: len(lanes) >= 1_500, "some are handled")

    first = lanes[:1_500]
    assert first.count(3) >= 1_500 / 15 * 0.8
    assert first.count(0) > first.count(1) > first.count(2) > first.count(3)


# --- life ---------------------------------------------------------------------------


async def test_what_a_handler_publishes_descends_from_its_event(server):
    """Also when several are handled at a time."""
    record = Record()
    subscriptions = Subscriptions()

    @subscriptions.on("order.paid", group="g")
    async def forward(event):
        await asyncio.sleep(0)
        tenant = crew.tenant(event.tenant_id)
        await tenant.events.publish("order.shipped", event.payload)

    subscriptions.on("order.shipped", group="g")(record.handle)
    async with consuming(server, subscriptions) as (crew, _):
        ids = {}
        for number in range(20):
            receipt = await crew.tenant("acme").events.publish("order.paid", number)
            ids[number] = receipt.event_id
        await record.until(20)

    assert {event.payload: event.causation_id for event in record.events} == ids
    assert {event.payload: event.correlation_id for event in record.events} == ids


async def test_a_consumer_is_built_anew_for_each_run(server):
    """A crew may be entered again; the service itself runs once."""
    record = Record()
    consumer = EventConsumer(one_handler(record.handle))
    crew = crew_on(server, consumer)
    for number in range(2):
        async with crew:
            await publish(crew, number)
            await record.until(number + 1)
    async with crew_on(server) as crew:
        service = consumer.build(crew)
        assert repr(service).startswith("<ConsumerService consumer")
    assert repr(consumer) == "<EventConsumer consumer 1 subscriptions>"


async def test_a_service_is_run_once(server):
    """Build another for another run."""
    consumer = EventConsumer(one_handler(Record().handle))
    async with consuming(server, one_handler(Record().handle)) as (crew, _):
        service = consumer.build(crew)

        class Status:
            def started(self):
                service.drain()

        await service.run(task_status=Status())
        with pytest.raises(LifecycleError, match="build another"):
            await service.run(task_status=Status())


async def test_a_consumer_starts_without_redis_and_waits(make_server):
    """The crew runs; what is published later is handled."""
    server = make_server("valkey")
    record = Record()
    server.kill()
    async with consuming(server, one_handler(record.handle)) as (crew, _):
        assert crew.state is ServiceState.RUNNING
        server.start()

        async def is_published():
            try:
                await publish(crew, 1)
            except Exception:  # noqa: BLE001 - it is not back yet
                return False
            return True

        await wait_until(is_published, "it is published", 10)
        await record.until(1, timeout=10)


async def test_statistics_tell_what_was_done(server):
    """One line for each subscription; none before the start."""
    record = Record()
    consumer = EventConsumer(one_handler(record.handle))
    assert consumer.statistics() == ()
    async with crew_on(server, consumer) as crew:
        await backlog(crew, 10)
        await record.until(10)
        await wait_until(lambda: is_settled(server, stream()), "all is acknowledged")
        (statistics,) = consumer.statistics()

    assert (statistics.group, statistics.pattern) == ("g", "order.paid")
    assert (statistics.handled, statistics.failed, statistics.held) == (10, 0, 0)
    assert (statistics.streams, statistics.unacknowledged) == (1, 0)
    assert statistics.reads >= 1
