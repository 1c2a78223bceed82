"""What urgent events take from others, and what many tenants cost: end to end."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from mcp_crew_redis import Event, EventPriority
from tests.integration.events.consuming import (
    Record,
    consuming,
    crew_on,
    is_settled,
    one_handler,
    stream,
)
from tests.rig.waiting import wait_until

LOW, CRITICAL = EventPriority.LOW, EventPriority.CRITICAL
LEAST = 1 / 15
"""The share of low events, however many others there are."""


@pytest.fixture
def server(session_servers):
    return session_servers("valkey")


async def fill(server, count, *priorities):
    """Have so many events of each priority wait."""
    async with crew_on(server) as crew:
        for priority in priorities:
            events = [
                Event.new("order.paid", number, priority=priority)
                for number in range(count)
            ]
            await crew.tenant("acme").events.publish_many(events)


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 8},
        {"concurrency": 1},
        {"concurrency": 4, "ordering": "key"},
        {"concurrency": 8, "dedup": True},
        {"batch": True},
        {"batch": True, "batch_size": 20, "concurrency": 8},
    ],
    ids=str,
)
async def test_low_events_keep_their_share_of_the_work(server, options):
    """While all lanes are full, and however handlers take them."""
    record, taken = Record(), 6_000

    async def handle(events):
        await record.handle_many(events if isinstance(events, list) else [events])
        await asyncio.sleep(0)

    await fill(server, taken, *EventPriority)
    async with consuming(server, one_handler(handle, **options)):
        await record.until(taken, 30)

    counts = Counter(event.priority for event in record.events[:taken])
    assert counts[LOW] >= 0.95 * LEAST * taken  # what is cut off at the end counts too
    assert counts[CRITICAL] >= counts[LOW]


async def test_a_critical_event_passes_all_that_wait(server):
    """Whatever is under way is finished; nothing else comes before it."""
    record = Record()

    async def handle(event):
        await record.handle(event)
        await asyncio.sleep(0.001)

    await fill(server, 10_000, LOW)
    async with consuming(server, one_handler(handle, concurrency=4)) as (crew, _):
        await record.until(500)
        await crew.tenant("acme").events.publish("order.paid", "now", priority=CRITICAL)
        before = len(record)
        await wait_until(lambda: "now" in record.payloads, "it is handled")

    assert record.payloads.index("now") - before < 2_000


async def test_many_tenants_need_few_connections(server):
    """Lanes and bell; none for each tenant, type or group."""
    record, tenants = Record(), [f"t{number}" for number in range(300)]
    async with consuming(server, one_handler(record.handle)) as (crew, _):
        for tenant in tenants:
            await crew.tenant(tenant).events.publish("order.paid", tenant)
        await record.until(len(tenants), 20)
        clients = await crew.redis.client_list()

    assert {event.tenant_id for event in record.events} == set(tenants)
    assert all(event.tenant_id == event.payload for event in record.events)
    names = Counter(client["lib-name"] for client in clients if client["lib-name"])
    assert sum(names.values()) <= 4


async def test_one_tenants_backlog_does_not_hold_up_another(server):
    """Streams of one lane have their turns."""
    record = Record()

    async def handle(event):
        await record.handle(event)
        await asyncio.sleep(0.001)

    await fill(server, 5_000, EventPriority.NORMAL)
    async with consuming(server, one_handler(handle, concurrency=4)) as (crew, _):
        await record.until(300)
        await crew.tenant("nova").events.publish("order.paid", "nova")
        before = len(record)
        await wait_until(lambda: "nova" in record.payloads, "it is handled")

        assert record.payloads.index("nova") - before < 2_000
        assert not is_settled(server, stream())
