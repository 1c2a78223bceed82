"""Reads that are not answered: what they took is got back, and nothing else is lost."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from mcp_crew_redis.events.event import Event
from mcp_crew_redis.events.line import partition_of
from mcp_crew_redis.events.schemas import EventCatalog, EventSchema
from mcp_crew_redis.testing import FaultProxy
from tests.integration.events.consuming import (
    Record,
    consuming,
    crew_on,
    is_settled,
    letters,
    one_handler,
    stream,
    tally,
)
from tests.rig.waiting import wait_until

pytestmark = pytest.mark.timeout(60)

TYPES = ("order.a", "order.b", "order.c")
LEFT = 400  # entries that nobody has finished with: many round trips' worth
WINDOW = 0.5  # seconds over which scripts are counted
FEW = 15  # scripts in that time: signs of life, and none that loops


class Through:
    """A server as it is seen through a proxy."""

    def __init__(self, proxy):
        self.unix_socket = proxy.unix_socket


class Gated(Record):
    """A handler whose calls end when the gate is opened."""

    def __init__(self):
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = 0

    async def handle(self, event):
        await self.handle_many([event])

    async def handle_many(self, events):
        self.begun += len(events)
        await self.gate.wait()
        await super().handle_many(events)


def scripts(server):
    """Return how many scripts have been run."""
    return server.info("commandstats")["cmdstat_evalsha"]["calls"]


async def assert_calm(server):
    """Assert that next to no scripts are run while there is nothing to do."""
    before = scripts(server)
    await asyncio.sleep(WINDOW)  # what is measured, not waited for
    assert scripts(server) - before <= FEW


async def holds(consumer, count):
    """Wait until at least so many entries are held."""
    await wait_until(
        lambda: consumer.statistics()[0].held >= count, f"{count} are held"
    )


def reads(consumer):
    """Return the partitions that a consumer reads."""
    (statistics,) = consumer.statistics()
    return statistics.partitions


async def settled(server, *keys):
    for key in keys:
        await wait_until(lambda key=key: is_settled(server, key), f"{key} is settled")


async def left_behind(server, keys, count):
    """Have a process that is no more leave so many entries of each stream behind."""
    for key in keys:
        server.execute("XGROUP", "CREATE", key, "g", "0", "MKSTREAM")
        read = ("XREADGROUP", "GROUP", "g", "dead", "COUNT", count)
        server.execute(*read, "STREAMS", key, ">")


# --- a catch-up that fails ----------------------------------------------------------


@pytest.mark.parametrize("ordering", [None, "key"])
@pytest.mark.parametrize("later", [False, True], ids=["at once", "one by one"])
async def test_a_failed_catch_up_leaves_the_other_streams_in_the_line(
    server, ordering, later
):
    """Two answers in a row are lost: every stream is read on, without another ring."""
    record = Record()
    subscriptions = one_handler(record.handle, "order.*", ordering=ordering)
    async with (
        FaultProxy(server.unix_socket) as proxy,
        crew_on(server) as publisher,
        consuming(Through(proxy), subscriptions) as (crew, _),
    ):
        events = publisher.tenant("acme").events
        await events.publish_many([Event.new(name, 0, key="k") for name in TYPES])
        await record.until(3)
        await settled(server, *(stream(event_type=name) for name in TYPES))
        claim = crew.events.hub.port.scripts.load("event_claim").sha
        first = TYPES[:1] if later else TYPES
        with capture_logs():
            proxy.drop_reply_to(b"XREADGROUP")
            await events.publish_many([Event.new(name, 1, key="k") for name in first])
            await proxy.wait_for_dropped_reply()
            proxy.drop_reply_to(claim.encode() if isinstance(claim, str) else claim)
            for name in TYPES[len(first) :]:
                await events.publish(name, 1, key="k")
            await proxy.wait_for_dropped_reply()
            await record.until(6)
        await settled(server, *(stream(event_type=name) for name in TYPES))

    assert sorted(record.payloads) == [0, 0, 0, 1, 1, 1]


async def test_a_stream_whose_catch_up_failed_is_read_on_itself(server):
    """What the lost answers had brought comes, and what is published afterwards."""
    record = Record()
    async with (
        FaultProxy(server.unix_socket) as proxy,
        crew_on(server) as publisher,
        consuming(Through(proxy), one_handler(record.handle)) as (crew, _),
    ):
        events = publisher.tenant("acme").events
        await events.publish("order.paid", 0)
        await record.until(1)
        claim = crew.events.hub.port.scripts.load("event_claim").sha
        with capture_logs():
            proxy.drop_reply_to(b"XREADGROUP")
            await events.publish("order.paid", 1)
            await proxy.wait_for_dropped_reply()
            for _ in range(2):
                proxy.drop_reply_to(claim.encode() if isinstance(claim, str) else claim)
                await proxy.wait_for_dropped_reply()
            await record.until(2)
        await events.publish("order.paid", 2)
        await record.until(3)
        await settled(server, stream())

    assert record.payloads == [0, 1, 2]


# --- a catch-up of many entries -----------------------------------------------------


async def test_a_large_read_that_was_lost_is_caught_up_with_once(server):
    """All of it while the calls are busy; then nothing is asked for again and again."""
    gated = Gated()
    subscriptions = one_handler(
        gated.handle_many, batch=True, batch_size=256, concurrency=2
    )
    async with (
        FaultProxy(server.unix_socket) as proxy,
        crew_on(server) as publisher,
        consuming(Through(proxy), subscriptions) as (_, consumer),
    ):
        events = publisher.tenant("acme").events
        await events.publish("order.paid", -1)
        await gated.until(1)
        gated.gate.clear()
        with capture_logs():
            proxy.drop_reply_to(b"XREADGROUP")
            await events.publish_many([Event.new("order.paid", n) for n in range(LEFT)])
            await proxy.wait_for_dropped_reply()
            await holds(consumer, LEFT)
        await assert_calm(server)
        gated.gate.set()
        await gated.until(1 + LEFT)
        await settled(server, stream())

    assert sorted(gated.payloads) == list(range(-1, LEFT))


@pytest.mark.parametrize("keys", [1, 40], ids=["one key", "many keys"])
async def test_what_a_dead_process_left_is_taken_over_once(server, keys):
    """Entry by entry, in chunks that go on where the last has ended."""
    gated, catalog = (
        Gated(),
        EventCatalog([EventSchema(type="order.paid", partitions=2)]),
    )
    gated.gate.clear()
    async with crew_on(server, catalog=catalog) as crew:
        events = [Event.new("order.paid", n, key=f"k{n % keys}") for n in range(LEFT)]
        await crew.tenant("acme").events.publish_many(events)
    numbers = sorted({partition_of(f"k{n}", 2) for n in range(keys)})
    streams = [stream(partition=number) for number in numbers]
    await left_behind(server, streams, LEFT)
    subscriptions = one_handler(gated.handle, ordering="key", concurrency=4)
    async with consuming(server, subscriptions, catalog=catalog):
        await wait_until(lambda: gated.begun >= min(keys, 3), "calls are busy")
        await assert_calm(server)
        gated.gate.set()
        await gated.until(LEFT, timeout=10)
        await settled(server, *streams)

    assert sorted(gated.payloads) == list(range(LEFT))
    assert {event.delivery_count for event in gated.events} == {2}
    assert tally(server)["redelivered"] == LEFT
    assert letters(server) == []
    by_key = [[n for n in gated.payloads if n % keys == key] for key in range(keys)]
    assert all(numbers == sorted(numbers) for numbers in by_key)


async def test_new_events_come_after_what_was_left_behind(server):
    """However many chunks that takes: nothing of a key is overtaken."""
    gated, catalog = (
        Gated(),
        EventCatalog([EventSchema(type="order.paid", partitions=2)]),
    )
    key = stream(partition=partition_of("k", 2))
    async with crew_on(server, catalog=catalog) as crew:
        events = crew.tenant("acme").events
        await events.publish_many(
            [Event.new("order.paid", n, key="k") for n in range(LEFT)]
        )
        await left_behind(server, [key], LEFT)
        subscriptions = one_handler(gated.handle, ordering="key", concurrency=4)
        gated.gate.clear()
        async with consuming(server, subscriptions, catalog=catalog):
            await wait_until(lambda: gated.begun >= 1, "a call is busy")
            await events.publish_many(
                [Event.new("order.paid", LEFT + n, key="k") for n in range(10)]
            )
            gated.gate.set()
            await gated.until(LEFT + 10, timeout=10)
            await settled(server, key)

    assert gated.payloads == list(range(LEFT + 10))


async def test_a_lost_read_and_what_another_took_meanwhile_come_in_order(server):
    """Cut off for longer than its lease: first its own, then the other's, then new."""
    record = Record()
    catalog = EventCatalog([EventSchema(type="order.paid", partitions=2)])
    key = stream(partition=partition_of("k", 2))
    subscriptions = one_handler(record.handle, ordering="key", claim_after=0.5)
    async with (
        FaultProxy(server.unix_socket) as proxy,
        crew_on(server, catalog=catalog) as publisher,
        consuming(Through(proxy), subscriptions, catalog=catalog) as (_, consumer),
    ):
        events = publisher.tenant("acme").events
        await events.publish("order.paid", 0, key="k")
        await record.until(1)
        await settled(server, key)
        with capture_logs():
            proxy.drop_reply_to(b"XREADGROUP")
            await events.publish("order.paid", 1, key="k")
            await proxy.wait_for_dropped_reply()
            proxy.refuse()
            proxy.cut()
            await wait_until(lambda: not reads(consumer), "its lease has lapsed")
            receipts = [
                await events.publish("order.paid", number, key="k")
                for number in range(2, 7)
            ]
            ids = [receipt.stream_id for receipt in receipts[:3]]
            read = ("XREADGROUP", "GROUP", "g", "other", "COUNT", 3)
            server.execute(*read, "STREAMS", key, ">")

            def is_back():
                if reads(consumer):
                    return True
                # Until then the other one lives: no sweep finds what it has.
                server.execute("XCLAIM", key, "g", "other", 0, *ids, "RETRYCOUNT", 1)
                return False

            await proxy.accept()
            await wait_until(is_back, "it has its lease again", 10)
            await record.until(7, timeout=10)
        await settled(server, key)

    assert record.payloads == list(range(7))
