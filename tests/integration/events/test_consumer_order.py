"""`ordering="key"`: events of one key one after the other, whatever fails."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from random import Random

import pytest

from mcp_crew_redis.events.event import Event
from mcp_crew_redis.events.outcomes import Reject, Retry
from mcp_crew_redis.events.schemas import EventCatalog, EventSchema
from tests.integration.events.consuming import (
    SOON,
    consuming,
    crew_on,
    is_settled,
    letters,
    one_handler,
    stream,
)
from tests.rig.waiting import wait_until

pytestmark = pytest.mark.timeout(60)

PARTS = 4
CATALOG = EventCatalog([EventSchema(type="order.paid", partitions=PARTS)])


class Order:
    """Handlers of several processes, and in which order they handled each key.

    Fails for no reason now and then; never the same key at two places at a time.
    """

    def __init__(self, seed=1, *, failures=0.2, pause=0.002):
        self.done = defaultdict(list)
        self.under_way = set()
        self.overlaps = 0
        self._random = Random(seed)
        self._failures, self._pause = failures, pause

    async def handle(self, event):
        self.overlaps += event.key in self.under_way
        self.under_way.add(event.key)
        try:
            await asyncio.sleep(self._random.uniform(0, self._pause))
            if self._random.random() < self._failures:
                raise Retry(after=0)
        finally:
            self.under_way.discard(event.key)
        self.done[event.key].append(event.payload)

    def __len__(self):
        return sum(map(len, self.done.values()))

    async def until(self, count, timeout=30):  # noqa: ASYNC109
        await wait_until(lambda: len(self) >= count, f"{count} are handled", timeout)


async def backlog(crew, count, keys=10, *, first=0):
    events = [
        Event.new("order.paid", number, key=f"k{number % keys}")
        for number in range(first, first + count)
    ]
    await crew.tenant("acme").events.publish_many(events)


def ordered(order, count, keys=10):
    """Assert that each key's events were handled once, in order."""
    for key in range(keys):
        assert order.done[f"k{key}"] == list(range(key, count, keys)), f"k{key}"
    assert order.overlaps == 0


# --- in one process -----------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
async def test_each_key_keeps_its_order_through_failures(server, seed):
    """Keys go on side by side; each failed event is tried before the next of its."""
    order = Order(seed)
    subscriptions = one_handler(
        order.handle, ordering="key", max_deliveries=1_000, concurrency=8
    )
    async with crew_on(server) as crew:
        await backlog(crew, 400)
    async with consuming(server, subscriptions):
        await order.until(400)
        await wait_until(lambda: is_settled(server, stream()), "nothing is pending")

    ordered(order, 400)


async def test_a_failing_key_does_not_hold_up_others(server):
    """They are handled while it waits for its next attempt."""
    done = []

    async def handle(event):
        if event.key == "bad":
            raise Retry(after=60)
        done.append(event.payload)

    subscriptions = one_handler(handle, ordering="key", concurrency=2)
    async with consuming(server, subscriptions) as (crew, _):
        for number in range(40):
            key = "bad" if number % 2 else f"k{number % 6}"
            await crew.tenant("acme").events.publish("order.paid", number, key=key)
        await wait_until(lambda: len(done) == 20, "the others are handled")

    assert sorted(done) == list(range(0, 40, 2))


async def test_after_a_dead_letter_the_next_of_the_key_has_its_turn(server):
    """What will never be handled is in nobody's way."""
    done = []

    async def handle(event):
        if event.payload in (0, 2):
            raise Reject("bad") if event.payload else ValueError("bad")
        done.append(event.payload)

    subscriptions = one_handler(handle, ordering="key", max_deliveries=2)
    async with consuming(server, subscriptions) as (crew, _):
        for number in range(4):
            await crew.tenant("acme").events.publish("order.paid", number, key="k")
        await wait_until(lambda: done == [1, 3], "the others are handled")
        await wait_until(lambda: is_settled(server, stream()), "nothing is pending")

    assert len(letters(server)) == 2


async def test_events_without_a_key_wait_for_nobody(server):
    """They have no order to keep."""
    gate, done = asyncio.Event(), []

    async def handle(event):
        if event.payload == 0:
            await gate.wait()
        done.append(event.payload)

    async with consuming(server, one_handler(handle, ordering="key")) as (crew, _):
        for number in range(5):
            await crew.tenant("acme").events.publish("order.paid", number)
        await wait_until(lambda: sorted(done) == [1, 2, 3, 4], "the others are done")
        gate.set()


async def test_the_same_key_of_two_tenants_is_two_keys(server):
    """One tenant's failure is not the other's."""
    done = []

    async def handle(event):
        if event.tenant_id == "acme":
            raise Retry(after=60)
        done.append(event.payload)

    subscriptions = one_handler(handle, ordering="key")
    async with consuming(server, subscriptions) as (crew, _):
        for number in range(3):
            for tenant in ("acme", "globex"):
                events = crew.tenant(tenant).events
                await events.publish("order.paid", number, key="k")
        await wait_until(lambda: done == [0, 1, 2], "the other's are handled")


# --- across processes ---------------------------------------------------------------


def divided(order, **options):
    return one_handler(
        order.handle,
        **{
            "ordering": "key",
            "max_deliveries": 1_000,
            "claim_after": 0.5,
            "concurrency": 8,
            "backoff": SOON,
            **options,
        },
    )


def owned(consumer):
    """Return the partitions that a consumer reads."""
    (statistics,) = consumer.statistics()
    return set(statistics.partitions)


async def is_divided(*consumers):
    """Wait until every partition is read by one of them, and by all of them some."""

    def holds():
        parts = [owned(one) for one in consumers]
        return all(parts) and sorted(n for part in parts for n in part) == list(
            range(PARTS)
        )

    await wait_until(holds, "partitions are divided", 15)


async def settled(server):
    for number in range(PARTS):
        key = stream(partition=number)
        if server.execute("EXISTS", key):
            await wait_until(lambda key=key: is_settled(server, key), "no pending", 15)


async def test_two_processes_divide_the_partitions_and_keep_the_order(server):
    """Each key is handled at one place at a time."""
    order = Order(pause=0.001)
    async with (
        consuming(server, divided(order), catalog=CATALOG) as (crew, one),
        consuming(server, divided(order), catalog=CATALOG) as (_, two),
    ):
        await is_divided(one, two)
        await backlog(crew, 600)
        await order.until(600)
        await settled(server)
        handled = [consumer.statistics()[0].handled for consumer in (one, two)]

    ordered(order, 600)
    assert min(handled) > 0


async def test_partitions_are_handed_over_in_order(server):
    """A second process comes and goes while the first works."""
    order = Order(pause=0.003)
    async with consuming(server, divided(order), catalog=CATALOG) as (crew, one):
        await backlog(crew, 300)
        async with consuming(server, divided(order), catalog=CATALOG) as (_, two):
            await is_divided(one, two)
            await backlog(crew, 300, first=300)
            await order.until(400)
        await order.until(600)
        await settled(server)
        await wait_until(lambda: owned(one) == set(range(PARTS)), "all come back", 10)

    ordered(order, 600)


async def test_a_type_without_partitions_keeps_its_order_in_one_process(server):
    """Whoever is alone has all."""
    order = Order(pause=0.001)
    async with consuming(server, divided(order), catalog=CATALOG) as (crew, one):
        await backlog(crew, 200)
        await order.until(200)
        assert owned(one) == set(range(PARTS))

    ordered(order, 200)


async def test_what_another_process_has_left_comes_first_and_once(server):
    """However much it is: taken over in order, each entry counted as delivered once."""
    given = []

    async def handle(event):
        given.append((event.payload, event.key, event.delivery_count))
        await asyncio.sleep(0.001)

    async with crew_on(server, catalog=CATALOG) as crew:
        await backlog(crew, 800)
    for number in range(PARTS):
        key = stream(partition=number)
        server.execute("XGROUP", "CREATE", key, "g", "0")
        read = ("XREADGROUP", "GROUP", "g", "dead", "COUNT", 150, "STREAMS", key, ">")
        server.execute(*read)
    subscriptions = one_handler(
        handle, ordering="key", max_deliveries=3, claim_after=0.5, concurrency=8
    )
    async with consuming(server, subscriptions, catalog=CATALOG):
        await wait_until(lambda: len(given) >= 800, "all are handled", 20)
        await settled(server)

    by_key = defaultdict(list)
    for payload, key, _ in given:
        by_key[key].append(payload)
    assert letters(server) == []
    assert by_key == {f"k{key}": list(range(key, 800, 10)) for key in range(10)}
    assert {count for _, _, count in given} == {1, 2}
