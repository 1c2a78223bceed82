"""Room for entries: who waits for it, who makes it, and that all of it comes back."""

from __future__ import annotations

import asyncio

import pytest

from mcp_crew_redis.events.event import Event
from mcp_crew_redis.events.outcomes import Retry
from tests.integration.events.consuming import (
    consuming,
    crew_on,
    groups_of,
    is_settled,
    one_handler,
    stream,
)
from tests.rig.waiting import wait_until

pytestmark = pytest.mark.timeout(60)

CLAIM = 0.5  # seconds, instead of 30
HOT = ("acme", "order.paid")
CROWD = 1_200  # more of one key than wait without taking up room


async def publish(crew, *payloads, **options):
    for payload in payloads:
        await crew.tenant("acme").events.publish("order.paid", payload, **options)


async def all_is_settled(server):
    await wait_until(lambda: is_settled(server, stream()), "nothing is pending")


class Gated:
    """A handler whose calls end when the gate is opened."""

    def __init__(self):
        self.gate = asyncio.Event()
        self.begun = []

    async def handle(self, event):
        self.begun.append(event.payload)
        await self.gate.wait()


def has_read_all(server):
    """Whether the group has been given the last entry, since it was last moved."""
    (last,) = server.execute("XREVRANGE", stream(), "+", "-", "COUNT", 1)
    (group,) = groups_of(server, stream())
    return group["last-delivered-id"] == last[0].decode()


async def rewind(crew, server):
    """Have the group begin again, and wait until it has read to the end."""
    events = crew.tenant("acme").events
    assert await events.rewind("g", "order.paid", "earliest") == 1
    await wait_until(lambda: has_read_all(server), "it has read all again")


async def held(consumer, count):
    """Wait until so many entries are held."""

    def holds():
        (statistics,) = consumer.statistics()
        return statistics.held == count

    await wait_until(holds, f"{count} are held")


async def at_rest(consumer):
    """Wait until a consumer has read nothing for a while: it has all it wants."""
    now = asyncio.get_running_loop().time
    seen, since = -1, 0.0

    def rests():
        nonlocal seen, since
        reads = consumer.statistics()[0].reads
        if reads != seen:
            seen, since = reads, now()
        return now() - since > 0.1

    await wait_until(rests, "nothing is read any more")


# --- who waits for room -------------------------------------------------------------


async def test_a_retry_makes_the_room_that_a_sweep_waits_for(server):
    """A failed event at the head of a long queue of its key has its next attempt."""
    done, given = [], []

    async def handle(event):
        given.append(event.payload)
        if event.payload == 0 and event.delivery_count < 3:
            raise Retry(after=0.2)
        done.append(event.payload)

    async with crew_on(server) as crew:
        events = [Event.new("order.paid", n, key="k") for n in range(CROWD)]
        await crew.tenant("acme").events.publish_many(events)
    subscriptions = one_handler(
        handle, ordering="key", concurrency=4, claim_after=CLAIM
    )
    async with consuming(server, subscriptions) as (_, consumer):
        await wait_until(lambda: len(done) >= CROWD, "all are handled", 15)
        await all_is_settled(server)
        await held(consumer, 0)

    assert done == list(range(CROWD))
    assert given == [0, 0, *range(CROWD)]


async def test_a_hot_key_takes_the_room_of_no_other_stream(server):
    """Thousands wait for one slow event; those of others are handled meanwhile."""
    gate, begun, done = asyncio.Event(), [], []

    async def handle(event):
        if event.key == "hot" and not gate.is_set():
            begun.append(event.payload)
            await gate.wait()
        done.append((event.tenant_id, event.type, event.payload))

    subscriptions = one_handler(handle, "order.*", ordering="key", concurrency=4)
    async with consuming(server, subscriptions) as (crew, consumer):
        hot = [Event.new("order.paid", n, key="hot") for n in range(2 * CROWD)]
        await crew.tenant("acme").events.publish_many(hot)
        await wait_until(lambda: bool(begun), "the first is slow")
        await at_rest(consumer)
        for tenant, name in (("nova", "order.paid"), ("acme", "order.sent")):
            events = [Event.new(name, n, key=f"k{n}") for n in range(50)]
            await crew.tenant(tenant).events.publish_many(events)
        await wait_until(lambda: len(done) >= 100, "others are handled")
        assert consumer.statistics()[0].held < CROWD
        gate.set()
        await all_is_settled(server)

    assert begun == [0]
    assert {one for one in done[:100] if one[:2] == ("acme", "order.paid")} == set()
    hot_ones = [n for tenant, name, n in done if (tenant, name) == HOT]
    assert hot_ones == list(range(2 * CROWD))


# --- what is read twice -------------------------------------------------------------


@pytest.mark.parametrize("ordering", [None, "key"])
async def test_entries_read_again_while_held_take_up_no_more_room(server, ordering):
    """A group is rewound again and again: each is handled once, all room comes back."""
    gated = Gated()
    subscriptions = one_handler(gated.handle, concurrency=4, ordering=ordering)
    async with consuming(server, subscriptions) as (crew, consumer):
        await publish(crew, 0, 1, key="k")
        await wait_until(lambda: bool(gated.begun), "a call is busy")
        await held(consumer, 2)
        for _ in range(3):
            await rewind(crew, server)
        await held(consumer, 2)
        gated.gate.set()
        await all_is_settled(server)
        await held(consumer, 0)
        await publish(crew, *range(2, 12), key="k")
        await wait_until(lambda: len(gated.begun) == 12, "it goes on")
        await held(consumer, 0)

    assert sorted(gated.begun) == list(range(12))


@pytest.mark.parametrize("ordering", [None, "key"])
async def test_a_group_rewound_under_load_holds_nothing_at_the_end(server, ordering):
    """Entries in hand, handled and not yet acknowledged, and new ones side by side."""
    count, given = 300, []

    async def handle(event):
        await asyncio.sleep(0.002)
        given.append(event.payload)

    subscriptions = one_handler(handle, concurrency=4, ordering=ordering)
    async with consuming(server, subscriptions) as (crew, consumer):
        events = [Event.new("order.paid", n, key=f"k{n % 5}") for n in range(count)]
        await crew.tenant("acme").events.publish_many(events)
        for number in (20, 40, 60):
            await wait_until(lambda n=number: len(given) >= n, "some are done")
            await crew.tenant("acme").events.rewind("g", "order.paid", "earliest")
        await all_is_settled(server)
        await held(consumer, 0)
        await publish(crew, "more", key="k1")
        await wait_until(lambda: "more" in given, "it goes on")
        await held(consumer, 0)

    assert set(given) == {*range(count), "more"}


async def test_an_entry_kept_for_its_retry_is_not_read_again(server):
    """Rewound meanwhile, the group gives it once more: it waits for its due time."""
    given = []

    async def handle(event):
        given.append((event.payload, event.delivery_count))
        if event.payload == 0 and event.delivery_count == 1:
            raise Retry(after=0.5)

    subscriptions = one_handler(handle, concurrency=4, ordering="key")
    async with consuming(server, subscriptions) as (crew, consumer):
        await publish(crew, 0, 1, key="k")
        await wait_until(lambda: given == [(0, 1)], "the first has failed")
        await rewind(crew, server)
        await all_is_settled(server)
        await held(consumer, 0)

    assert given[0] == (0, 1)
    assert [payload for payload, _ in given] == [0, 0, 1]


async def test_a_group_destroyed_while_entries_are_held_gives_all_room_back(server):
    """It is made anew from the beginning: what is in hand comes again."""
    gated = Gated()
    subscriptions = one_handler(gated.handle, concurrency=4)
    async with consuming(server, subscriptions) as (crew, consumer):
        await publish(crew, 0, 1)
        await wait_until(lambda: len(gated.begun) == 2, "calls are busy")
        server.execute("XGROUP", "DESTROY", stream(), "g")
        await publish(crew, 2)
        await wait_until(lambda: 2 in gated.begun, "it goes on")
        gated.gate.set()
        await all_is_settled(server)
        await held(consumer, 0)

    assert set(gated.begun) == {0, 1, 2}
