"""How a consumer ends: it finishes what it has begun, and gives back the rest."""

from __future__ import annotations

import asyncio

import pytest

from mcp_crew_redis.events.event import Event
from mcp_crew_redis.events.outcomes import Retry
from tests.integration.events.consuming import (
    Record,
    consuming,
    crew_on,
    deliveries,
    is_settled,
    one_handler,
    pending_of,
    stream,
)
from tests.rig.waiting import wait_until

pytestmark = pytest.mark.timeout(60)


async def backlog(crew, count, **options):
    events = [Event.new("order.paid", number, **options) for number in range(count)]
    await crew.tenant("acme").events.publish_many(events)


def consumers(server, key=None):
    """Return the consumers of the group."""
    return server.execute("XINFO", "CONSUMERS", key or stream(), "g")


def counts(server):
    """Return how often each pending entry has been delivered."""
    return [count for _, count in deliveries(server, stream())]


class Slow:
    """A handler whose calls end when the gate is opened."""

    def __init__(self):
        self.gate = asyncio.Event()
        self.begun, self.ended, self.cancelled = [], [], []

    async def handle(self, event):
        self.begun.append(event.payload)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(event.payload)
            raise
        self.ended.append(event.payload)


async def test_what_has_begun_is_finished_and_acknowledged(server):
    """Leaving waits for it; the rest is there for others at once, uncounted."""
    slow = Slow()
    async with crew_on(server) as crew:
        await backlog(crew, 200)
    subscriptions = one_handler(slow.handle, concurrency=5, claim_after=30)
    async with consuming(server, subscriptions):
        await wait_until(lambda: len(slow.begun) == 4, "calls are busy")
        asyncio.get_running_loop().call_later(0.1, slow.gate.set)

    assert sorted(slow.ended) == sorted(slow.begun)
    assert slow.cancelled == []
    assert len(slow.begun) == 4
    assert set(counts(server)) <= {0}


async def test_the_rest_is_handled_by_another_soon(server):
    """Long before `claim_after`, and as if for the first time."""
    slow, record = Slow(), Record()
    async with crew_on(server) as crew:
        await backlog(crew, 100)
    async with consuming(server, one_handler(slow.handle, concurrency=5)):
        await wait_until(lambda: len(slow.begun) == 4, "calls are busy")
        slow.gate.set()
    async with consuming(server, one_handler(record.handle)):
        await wait_until(
            lambda: len(record) + len(slow.ended) >= 100, "all are handled", 10
        )
        await wait_until(lambda: is_settled(server, stream()), "nothing is pending")

    assert sorted(record.payloads + slow.ended) == list(range(100))
    assert {event.delivery_count for event in record.events} == {1}


async def test_who_has_nothing_left_leaves_the_group(server):
    """No consumer is left behind."""
    record = Record()
    async with consuming(server, one_handler(record.handle)) as (crew, _):
        await backlog(crew, 20)
        await record.until(20)

    assert consumers(server) == []
    assert pending_of(server, stream()) == 0


async def test_past_the_deadline_calls_are_cancelled_and_their_events_let_go(server):
    """Others have them at once; the delivery counts, for the handler had begun."""
    slow, record = Slow(), Record()
    async with consuming(
        server, one_handler(slow.handle, concurrency=4), drain_timeout=0.2
    ) as (crew, _):
        await backlog(crew, 3)
        await wait_until(lambda: len(slow.begun) == 3, "calls are busy")

    assert sorted(slow.cancelled) == [0, 1, 2]
    assert counts(server) == [1, 1, 1]
    began = asyncio.get_running_loop().time()
    async with consuming(server, one_handler(record.handle)):
        await record.until(3, timeout=10)
        await wait_until(lambda: is_settled(server, stream()), "nothing is pending")

    assert asyncio.get_running_loop().time() - began < 8
    assert {event.delivery_count for event in record.events} == {2}


async def test_a_cancelled_crew_lets_go_too(server):
    """Its task is cancelled from outside."""
    slow, record = Slow(), Record()

    async def run():
        async with consuming(
            server, one_handler(slow.handle, concurrency=4), drain_timeout=0.2
        ) as (crew, _):
            await backlog(crew, 3)
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(run())
        await wait_until(lambda: len(slow.begun) == 3, "calls are busy")
        task.cancel()
    async with consuming(server, one_handler(record.handle)):
        await record.until(3, timeout=10)

    assert sorted(slow.cancelled) == [0, 1, 2]


async def test_what_waits_for_its_next_attempt_stays_where_it_is(server):
    """Parked in Redis: leaving takes nothing along."""
    given = []

    async def handle(event):
        given.append(event.delivery_count)
        if event.delivery_count == 1:
            raise Retry(after=0.5)

    async with consuming(server, one_handler(handle)) as (crew, _):
        await backlog(crew, 3)
        await wait_until(lambda: len(given) == 3, "all have failed")
    assert pending_of(server, stream()) == 3
    async with consuming(server, one_handler(handle)):
        await wait_until(lambda: len(given) == 6, "all come again")

    assert sorted(given) == [1, 1, 1, 2, 2, 2]


async def test_what_is_kept_for_its_key_is_given_back(server):
    """With those that wait behind it; the attempts that were made stay counted."""
    given = []

    async def handle(event):
        given.append((event.payload, event.delivery_count))
        if event.payload == 0 and event.delivery_count == 1:
            raise Retry(after=5)

    subscriptions = one_handler(handle, ordering="key")
    async with consuming(server, subscriptions) as (crew, _):
        await backlog(crew, 3, key="k")
        await wait_until(lambda: given == [(0, 1)], "the first has failed")
    assert pending_of(server, stream()) == 3
    async with consuming(server, subscriptions):
        await wait_until(lambda: len(given) == 4, "all are handled", 10)

    assert given == [(0, 1), (0, 2), (1, 1), (2, 1)]


async def test_leaving_under_load_loses_nothing(server):
    """Again and again, with handlers that fail now and then."""
    handled = []

    async def handle(event):
        await asyncio.sleep(0.001)
        if event.delivery_count == 1 and event.payload % 7 == 0:
            raise Retry(after=0.01)
        handled.append(event.payload)

    async with crew_on(server) as crew:
        await backlog(crew, 2_000)
    seen = -1
    while len(handled) < 2_000 and seen != len(handled):
        async with consuming(server, one_handler(handle, concurrency=8)):
            seen = len(handled)
            enough = min(seen + 300, 2_000)
            await wait_until(lambda n=enough: len(handled) >= n, "some are done", 15)
    await wait_until(lambda: is_settled(server, stream()), "nothing is pending")

    assert sorted(handled) == list(range(2_000))
