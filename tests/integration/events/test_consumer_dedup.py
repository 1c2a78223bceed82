"""`dedup=True`: what a group has handled is skipped when it comes again."""

from __future__ import annotations

import asyncio

import pytest

from mcp_crew_redis.events.event import Event
from mcp_crew_redis.events.kinds import EventPriority
from mcp_crew_redis.events.outcomes import Reject, Retry
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

SEEN = "mcp-crew:event:{acme}:seen:g:"


async def publish(crew, payload, event_id, **options):
    options.setdefault("tenant", "acme")
    tenant = crew.tenant(options.pop("tenant"))
    await tenant.events.publish("order.paid", payload, event_id=event_id, **options)


async def settled(server, key=None):
    await wait_until(lambda: is_settled(server, key or stream()), "all is settled")


async def test_a_repetition_is_skipped_and_counted(server):
    """Under the same id, in the same stream."""
    record = Record()
    subscriptions = one_handler(record.handle, dedup=True)
    async with consuming(server, subscriptions) as (crew, consumer):
        await publish(crew, 1, "one")
        await record.until(1)
        await settled(server)
        await publish(crew, 2, "one")
        await publish(crew, 3, "two")
        await record.until(2)
        await settled(server)
        await wait_until(lambda: tally(server).get("duplicates") == 1, "it is counted")
        (statistics,) = consumer.statistics()

    assert record.payloads == [1, 3]
    assert (statistics.handled, statistics.duplicates, statistics.held) == (2, 1, 0)


async def test_a_repetition_in_another_lane_is_skipped(server):
    """It is the id that counts."""
    record = Record()
    subscriptions = one_handler(record.handle, dedup=True)
    async with consuming(server, subscriptions) as (crew, _):
        await publish(crew, 1, "one")
        await record.until(1)
        await settled(server)
        await publish(crew, 2, "one", priority=EventPriority.HIGH)
        await settled(server, stream(lane=1))

    assert record.payloads == [1]


async def test_repetitions_in_one_read_are_handled_once(server):
    """Nobody has handled the first when the second comes."""
    record = Record()
    async with crew_on(server) as crew:
        events = [Event.new("order.paid", n, event_id=f"e{n % 10}") for n in range(200)]
        await crew.tenant("acme").events.publish_many(events)
    async with consuming(server, one_handler(record.handle, dedup=True)):
        await record.until(10)
        await settled(server)

    assert sorted(event.id for event in record.events) == [f"e{n}" for n in range(10)]


async def test_a_repetition_while_the_first_is_handled_is_not_handled_too(server):
    """Of the two, one is handled; none is lost when that one fails."""
    under_way, most, handled = 0, 0, []

    async def handle(event):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        if event.delivery_count == 1:
            raise Retry(after=0)
        handled.append(event.id)

    subscriptions = one_handler(handle, dedup=True, concurrency=8)
    async with consuming(server, subscriptions) as (crew, _):
        for number in range(6):
            await publish(crew, number, "one")
        await wait_until(lambda: handled, "one is handled")
        await settled(server)

    assert handled == ["one"]
    assert most == 1


async def test_a_repetition_of_another_process_is_skipped(server):
    """What is remembered is in Redis."""
    record = Record()
    for number in range(3):
        subscriptions = one_handler(record.handle, dedup=True)
        async with consuming(server, subscriptions) as (crew, _):
            await publish(crew, number, "one")
            await settled(server)

    assert record.payloads == [0]


async def test_without_dedup_it_is_handled_again(server):
    """Nothing is remembered."""
    record = Record()
    async with consuming(server, one_handler(record.handle)) as (crew, _):
        await publish(crew, 1, "one")
        await publish(crew, 2, "one")
        await record.until(2)

    assert server.execute("KEYS", SEEN + "*") == []


async def test_other_groups_and_tenants_remember_for_themselves(server):
    """The same id is another event there."""
    one, two = Record(), Record()
    subscriptions = one_handler(one.handle, dedup=True)
    subscriptions.on("order.paid", group="other", dedup=True)(two.handle)
    async with consuming(server, subscriptions) as (crew, _):
        await publish(crew, 1, "one")
        await publish(crew, 2, "one", tenant="globex")
        await one.until(2)
        await two.until(2)

    assert sorted(one.payloads) == sorted(two.payloads) == [1, 2]


async def test_a_failed_event_is_not_remembered(server):
    """Its repetition is another chance."""
    record = Record()

    async def handle(event):
        await record.handle(event)
        if event.payload == "bad":
            raise Reject("bad")

    async with consuming(server, one_handler(handle, dedup=True)) as (crew, _):
        await publish(crew, "bad", "one")
        await wait_until(lambda: letters(server), "it is buried")
        await publish(crew, "good", "one")
        await record.until(2)
        await settled(server)

    assert record.payloads == ["bad", "good"]


async def test_what_is_remembered_expires(server):
    """After a day."""
    record = Record()
    subscriptions = one_handler(record.handle, dedup=True)
    async with consuming(server, subscriptions) as (crew, _):
        await publish(crew, 1, "one")
        await settled(server)

    assert 86_000_000 < server.execute("PTTL", SEEN + "one") <= 86_400_000


async def test_batches_skip_repetitions_too(server):
    """A list never has an event twice."""
    lists = []

    async def handle(events):
        lists.append([event.id for event in events])

    subscriptions = one_handler(handle, dedup=True, batch=True, batch_size=50)
    async with crew_on(server) as crew:
        events = [Event.new("order.paid", n, event_id=f"e{n % 30}") for n in range(300)]
        await crew.tenant("acme").events.publish_many(events)
    async with consuming(server, subscriptions):
        await settled(server)

    assert sorted(each for one in lists for each in one) == sorted(
        f"e{n}" for n in range(30)
    )
