"""Who reads which streams: one process each, and none that nobody reads."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from itertools import chain

import pytest
from structlog.testing import capture_logs

from mcp_crew_redis.events.event import Event
from mcp_crew_redis.events.line import partition_of
from mcp_crew_redis.events.outcomes import Retry
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

CLAIM = 0.5  # seconds, instead of 30
PARTS = 4
SHARES = "mcp-crew:shares:g:order.paid"
GIVEN_BACK = b"$2\r\n-1\r\n"  # a delivery less: how a script is asked to give back


def divided(count=PARTS):
    """Return a catalog with so many partitions."""
    return EventCatalog([EventSchema(type="order.paid", partitions=count)])


def in_order(handler, **options):
    """Return subscriptions that keep the order of keys."""
    return one_handler(
        handler,
        **{"ordering": "key", "claim_after": CLAIM, "max_deliveries": 1_000, **options},
    )


def key_of(partition, start=0):
    """Return a key whose events are in that partition."""
    return next(
        f"k{n}"
        for n in range(start, start + 1_000)
        if partition_of(f"k{n}", PARTS) == partition
    )


def owned(consumer):
    """Return the partitions that a consumer reads."""
    (statistics,) = consumer.statistics()
    return list(statistics.partitions)


async def reads(consumer, *partitions):
    """Wait until a consumer reads these, and no others."""
    await wait_until(lambda: owned(consumer) == list(partitions), f"{partitions}", 10)


async def are_divided(*consumers, count=PARTS):
    """Wait until each has some of the partitions, and none two readers."""

    def holds():
        parts = [owned(one) for one in consumers]
        return all(parts) and sorted(chain(*parts)) == list(range(count))

    await wait_until(holds, "partitions are divided", 10)


async def publish(crew, *payloads, tenant="acme", **options):
    for payload in payloads:
        await crew.tenant(tenant).events.publish("order.paid", payload, **options)


async def backlog(crew, count, *, first=0, tenant="acme"):
    events = [
        Event.new("order.paid", n, key=f"k{n}") for n in range(first, first + count)
    ]
    await crew.tenant(tenant).events.publish_many(events)


class Through:
    """A server as it is seen through a proxy."""

    def __init__(self, proxy):
        self.unix_socket = proxy.unix_socket


# --- among streams that others read -------------------------------------------------


@pytest.mark.parametrize("processes", [2, 3])
async def test_streams_of_others_hide_none_of_ours(server, processes):
    """With room for one event at a time: all partitions are rung at once."""
    record, catalog = Record(), divided(16)
    subscriptions = in_order(record.handle, concurrency=1)
    async with AsyncExitStack() as stack:
        crews = [
            await stack.enter_async_context(
                consuming(server, subscriptions, catalog=catalog)
            )
            for _ in range(processes)
        ]
        await are_divided(*(consumer for _, consumer in crews), count=16)
        await backlog(crews[0][0], 64)
        await record.until(64)

    assert sorted(record.payloads) == list(range(64))


async def test_a_process_that_is_alone_again_reads_what_was_rung_for_others(server):
    """What came for partitions of another's is found when they have become ours."""
    slow, record = asyncio.Event(), Record()

    async def stuck(_event):
        await slow.wait()

    async with consuming(server, in_order(record.handle), catalog=divided()) as (
        crew,
        one,
    ):
        async with consuming(
            server, in_order(stuck, concurrency=1), catalog=divided()
        ) as (_, two):
            await are_divided(one, two)
            await backlog(crew, 40)
            theirs = {n for n in range(40) if partition_of(f"k{n}", 4) in owned(two)}
            await record.until(40 - len(theirs))
            slow.set()
        await reads(one, *range(PARTS))
        await backlog(crew, 40, first=40)
        for number in range(PARTS):
            key = stream(partition=number)
            await wait_until(lambda key=key: is_settled(server, key), "all are read")

    assert theirs


# --- leases -------------------------------------------------------------------------


async def test_a_lapsed_lease_is_gained_anew(server):
    """What was published while nobody might read is read as soon as one may again."""
    record = Record()
    async with consuming(server, in_order(record.handle), catalog=divided()) as (
        crew,
        consumer,
    ):
        await reads(consumer, *range(PARTS))
        await backlog(crew, 8)
        await record.until(8)
        with capture_logs():  # no sign of life is taken: this is no hash
            server.execute("SET", SHARES, "in the way")
            await reads(consumer)
            await backlog(crew, 8, first=8)
            server.execute("DEL", SHARES)
            await record.until(16)

    assert sorted(record.payloads) == list(range(16))


async def test_after_an_outage_longer_than_its_lease_a_process_reads_all_again(server):
    """Its partitions are the same as before; what others have published comes."""
    record = Record()
    async with (
        FaultProxy(server.unix_socket) as proxy,
        crew_on(server, catalog=divided()) as publisher,
    ):
        subscriptions = in_order(record.handle)
        async with consuming(Through(proxy), subscriptions, catalog=divided()) as (
            _,
            consumer,
        ):
            await backlog(publisher, 8)
            await record.until(8)
            with capture_logs():
                proxy.refuse()
                proxy.cut()
                await reads(consumer)
                await backlog(publisher, 8, first=8)
                await proxy.accept()
                await record.until(16, timeout=10)
            await reads(consumer, *range(PARTS))

    assert sorted(record.payloads) == list(range(16))


async def test_what_another_took_while_a_lease_had_lapsed_comes_first(server):
    """It read on in between and died: its entries are taken over before later ones."""
    record = Record()
    key = stream(partition=partition_of("k", PARTS))
    async with consuming(server, in_order(record.handle), catalog=divided()) as (
        crew,
        consumer,
    ):
        await publish(crew, 0, key="k")
        await record.until(1)
        with capture_logs():
            server.execute("SET", SHARES, "in the way")
            await reads(consumer)
            await publish(crew, *range(1, 4), key="k")
            read = ("XREADGROUP", "GROUP", "g", "dead", "COUNT", 2, "STREAMS", key, ">")
            server.execute(*read)
            server.execute("DEL", SHARES)
            await record.until(4)
        await wait_until(lambda: is_settled(server, key), "nothing is pending")

    assert record.payloads == [0, 1, 2, 3]
    assert [event.delivery_count for event in record.events] == [1, 2, 2, 1]


@pytest.mark.parametrize("most", [1, 3])
async def test_what_is_in_our_own_hand_is_not_taken_over(server, most):
    """A lease lapses and is gained anew while a call is busy: it is disturbed by none.

    Neither is its event delivered once more, nor counted so, nor buried.
    """
    gate, begun, key = asyncio.Event(), [], key_of(0)

    async def handle(event):
        begun.append((event.payload, event.delivery_count))
        if event.payload == "slow":
            await gate.wait()

    subscriptions = in_order(handle, max_deliveries=most)
    async with consuming(server, subscriptions, catalog=divided()) as (crew, consumer):
        await publish(crew, "slow", "behind", key=key)
        await wait_until(lambda: len(begun) == 1, "a call is busy")
        for number in range(2):
            with capture_logs():
                server.execute("SET", SHARES, "in the way")
                await reads(consumer)
                server.execute("DEL", SHARES)
                await reads(consumer, *range(PARTS))
            await publish(crew, number, key=key_of(0, 1_000))  # read after taking over
            await wait_until(lambda n=number: (n, 1) in begun, "it is handled")
        gate.set()
        place = stream(partition=0)
        await wait_until(lambda: is_settled(server, place), "nothing is pending")

    assert begun == [("slow", 1), (0, 1), (1, 1), ("behind", 1)]
    assert letters(server) == []
    assert "redelivered" not in tally(server)


# --- types that are divided later ---------------------------------------------------


@pytest.mark.parametrize("ordering", [None, "key"])
async def test_a_type_divided_later_is_read_to_its_end_undivided(server, ordering):
    """What was published before the partitions were declared is handled."""
    record = Record()
    async with crew_on(server) as crew:
        await backlog(crew, 5)
    subscriptions = in_order(record.handle, ordering=ordering)
    async with consuming(server, subscriptions, catalog=divided()) as (crew, _):
        await backlog(crew, 5, first=5)
        await record.until(10)
        await wait_until(lambda: is_settled(server, stream()), "nothing is pending")

    assert sorted(record.payloads) == list(range(10))


async def test_what_was_left_undivided_is_taken_over_when_a_type_is_divided(server):
    """A process of before has died with it, or parked it."""
    record = Record()

    async def fail(_event):
        raise Retry(after=0.3)

    async with consuming(server, one_handler(fail)) as (crew, consumer):
        await publish(crew, "parked", key="k")
        await wait_until(lambda: consumer.statistics()[0].failed == 1, "it fails")
    async with crew_on(server) as crew:
        await publish(crew, "left", key="k")
    server.execute(
        *("XREADGROUP", "GROUP", "g", "dead", "COUNT", 1, "STREAMS", stream(), ">")
    )
    async with consuming(server, in_order(record.handle), catalog=divided()):
        await record.until(2)
        await wait_until(lambda: is_settled(server, stream()), "nothing is pending")

    assert sorted(record.payloads) == ["left", "parked"]


# --- handing over -------------------------------------------------------------------


async def test_an_entry_kept_for_its_retry_does_not_block_the_handover(server):
    """Partitions go to a process that joins; it keeps the order of the failing keys."""
    record = Record()

    async def handle(event):
        if event.payload == "poison":
            raise Retry(after=3_600)
        await record.handle(event)

    bad = [key_of(partition) for partition in range(PARTS)]
    good = [key_of(partition, 1_000) for partition in range(PARTS)]
    async with consuming(server, in_order(handle), catalog=divided()) as (crew, one):
        await reads(one, *range(PARTS))
        for key in bad:
            await publish(crew, "poison", "behind", key=key)
        await wait_until(lambda: one.statistics()[0].held == 2 * PARTS, "kept")
        async with consuming(server, in_order(handle), catalog=divided()) as (_, two):
            await are_divided(one, two)
            for key in good:
                await publish(crew, key, key=key)
            await record.until(PARTS)

    assert sorted(record.payloads) == sorted(good)


async def test_a_partition_is_not_handed_over_while_a_call_is_busy_with_it(server):
    """Whoever joins gets it when the handler has returned; nothing overlaps."""
    gate, begun, record = asyncio.Event(), [], Record()

    async def handle(event):
        begun.append(event.payload)
        if event.payload == "slow":
            await gate.wait()
        await record.handle(event)

    async with consuming(server, in_order(handle), catalog=divided()) as (crew, one):
        await reads(one, *range(PARTS))
        for number in range(PARTS):
            await publish(crew, "slow", "next", key=key_of(number))
        await wait_until(lambda: begun == ["slow"] * PARTS, "calls are busy")
        async with consuming(server, in_order(handle), catalog=divided()) as (_, two):
            await wait_until(lambda: len(owned(one)) == 2, "two are leaving")
            assert owned(two) == []
            gate.set()
            await are_divided(one, two)
            await record.until(2 * PARTS)

    assert sorted(begun) == ["next"] * PARTS + ["slow"] * PARTS
    assert begun[:PARTS] == ["slow"] * PARTS


async def test_a_handover_whose_answer_is_lost_goes_on(server):
    """What was given back is nobody's in between, and then the other process's."""
    gate, record = asyncio.Event(), Record()

    async def handle(event):
        if event.payload == 0:
            await gate.wait()
        await record.handle(event)

    subscriptions = in_order(handle, claim_after=2.0)
    async with (
        FaultProxy(server.unix_socket) as proxy,
        consuming(Through(proxy), subscriptions, catalog=divided()) as (_, one),
        crew_on(server, catalog=divided()) as crew,
    ):
        await reads(one, *range(PARTS))
        for number in range(PARTS):
            await publish(crew, 0, 1, 2, key=key_of(number))
        await wait_until(lambda: one.statistics()[0].held == 3 * PARTS, "all are held")
        with capture_logs():
            proxy.drop_reply_to(GIVEN_BACK)
            async with consuming(server, subscriptions, catalog=divided()) as (_, two):
                await proxy.wait_for_dropped_reply()
                gate.set()
                await are_divided(one, two)
                await record.until(3 * PARTS, timeout=10)
                for number in range(PARTS):
                    place = stream(partition=number)
                    await wait_until(lambda key=place: is_settled(server, key), "all")

    for number in range(PARTS):
        mine = [e.payload for e in record.events if e.key == key_of(number)]
        assert mine == [0, 1, 2]


# --- other tenants ------------------------------------------------------------------


async def test_processes_of_other_tenants_share_no_partitions(server):
    """Same group, same pattern: each reads all partitions of its own tenant."""
    acme, nova = Record(), Record()
    one = in_order(acme.handle, tenants=["acme"])
    two = in_order(nova.handle, tenants=["nova"])
    async with (
        consuming(server, one, catalog=divided()) as (crew, first),
        consuming(server, two, catalog=divided()) as (_, second),
    ):
        await reads(first, *range(PARTS))
        await reads(second, *range(PARTS))
        for tenant in ("acme", "nova"):
            await backlog(crew, 20, tenant=tenant)
        await acme.until(20)
        await nova.until(20)

    assert sorted(acme.payloads) == sorted(nova.payloads) == list(range(20))
    assert {event.tenant_id for event in acme.events} == {"acme"}
    assert {event.tenant_id for event in nova.events} == {"nova"}


async def test_the_same_tenants_in_another_order_share_their_partitions(server):
    """It is the same work: each partition has one reader."""
    record = Record()
    one = in_order(record.handle, tenants=["acme", "nova"])
    two = in_order(record.handle, tenants=["nova", "acme"])
    async with (
        consuming(server, one, catalog=divided()) as (crew, first),
        consuming(server, two, catalog=divided()) as (_, second),
    ):
        await are_divided(first, second)
        for tenant in ("acme", "nova"):
            await backlog(crew, 20, tenant=tenant)
        await record.until(40)
