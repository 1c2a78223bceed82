"""What is not as it should be: each has an outcome, and nobody else suffers."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import BaseModel
from structlog.testing import capture_logs

from mcp_crew_redis._wire.codec import MsgpackCodec
from mcp_crew_redis._wire.envelope import pack_envelope
from mcp_crew_redis.events.making import make_envelope
from mcp_crew_redis.events.outcomes import Retry
from mcp_crew_redis.events.schemas import EventCatalog, EventSchema
from mcp_crew_redis.lifecycle import ServiceState
from tests.integration.events.consuming import (
    SOON,
    Record,
    consuming,
    is_settled,
    letters,
    one_handler,
    pending_of,
    stream,
    tally,
)
from tests.rig.waiting import wait_until

pytestmark = pytest.mark.timeout(60)


class Paid(BaseModel):
    order: int


def add(server, *fields, key=None):
    """Append an entry by hand."""
    return server.execute("XADD", key or stream(), "*", *fields)


def parts(payload, **attributes):
    """Return the fields of an event as we write it."""
    envelope = pack_envelope(make_envelope(**attributes))
    return b"m", envelope, b"d", MsgpackCodec().encode(payload)


async def publish(crew, *payloads, **options):
    for payload in payloads:
        await crew.tenant("acme").events.publish("order.paid", payload, **options)


async def known(crew, record, payload="first"):
    """Publish one event, so that the stream is known, and forget it again."""
    await publish(crew, payload)
    await record.until(1)
    record.events.clear()


async def buried(server, count=1):
    """Wait for dead letters and return their reasons."""
    await wait_until(lambda: len(letters(server)) >= count, f"{count} letters")
    await wait_until(lambda: is_settled(server, stream()), "nothing is pending")
    return [letter[b"_r"].decode() for letter in letters(server)]


# --- entries ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        ("x", "1"),
        (b"m", b"", b"d", b""),
        (b"m", b"\xc1", b"d", b"\xc0"),
        (b"d", b"\xc0"),
        (b"m", pack_envelope(make_envelope())),
        (b"m", pack_envelope(make_envelope()), b"d", b"\xc1"),
        (b"m", b"\x93\x02\xa1x\x01", b"d", b"\xc0"),
        (b"\xff\x00", b"\xff", b"m", b"\x90"),
    ],
)
async def test_a_foreign_entry_is_a_dead_letter_and_no_handler_sees_it(server, fields):
    """Not retried; what follows is handled."""
    record = Record()
    add(server, *fields)
    async with consuming(server, one_handler(record.handle)) as (crew, consumer):
        await publish(crew, "good")
        (reason,) = await buried(server)
        await record.until(1)
        (statistics,) = consumer.statistics()

    assert record.payloads == ["good"]
    assert reason
    assert (statistics.dead, statistics.redelivered) == (1, 0)


async def test_many_foreign_entries_are_all_buried(server):
    """More than are fetched at once, and those between them are handled."""
    record = Record()
    subscriptions = one_handler(record.handle, concurrency=4)
    async with consuming(server, subscriptions) as (crew, _):
        await known(crew, record)
        for number in range(150):
            add(server, "x", number)
            add(server, *parts(number))
        await record.until(150, timeout=20)
        await buried(server, 150)

    assert sorted(record.payloads) == list(range(150))


async def test_a_payload_that_does_not_validate_is_a_dead_letter(server):
    """Named by its field, never by its value; not retried."""
    record = Record()
    add(server, *parts({"order": "secret words"}))
    subscriptions = one_handler(record.handle, payload=Paid)
    async with consuming(server, subscriptions) as (crew, _):
        await publish(crew, {"order": 7})
        (reason,) = await buried(server)
        await record.until(1)

    assert record.payloads == [Paid(order=7)]
    assert "order" in reason
    assert "secret" not in reason
    assert letters(server)[0][b"_n"] == b"1"


async def test_an_event_of_a_newer_schema_is_a_dead_letter(server):
    """Until this process is brought up to date."""
    record = Record()
    catalog = EventCatalog([EventSchema(type="order.paid", payload=Paid, version=2)])
    subscriptions = one_handler(record.handle)
    async with consuming(server, subscriptions, catalog=catalog) as (crew, _):
        await known(crew, record, Paid(order=1))
        add(server, *parts({"order": 7}, schema_version=3))
        (reason,) = await buried(server)

    assert "newer" in reason
    assert len(record) == 0


async def test_an_older_one_is_brought_up_to_date_or_buried(server):
    """By its upcaster; one that raises is told by its class."""
    record = Record()

    def upcast(payload):
        return {"order": payload["number"]}

    schema = EventSchema(
        type="order.paid", payload=Paid, version=2, upcasters={1: upcast}
    )
    subscriptions, catalog = one_handler(record.handle), EventCatalog([schema])
    async with consuming(server, subscriptions, catalog=catalog) as (crew, _):
        await known(crew, record, Paid(order=1))
        add(server, *parts({"number": 7}))
        add(server, *parts({"nothing": 7}))
        (reason,) = await buried(server)
        await record.until(1)

    assert record.payloads == [Paid(order=7)]
    assert "KeyError" in reason


async def test_an_expired_event_is_acknowledged_unseen(server):
    """Nobody needs it any more; it is counted."""
    record = Record()
    add(server, *parts("late", expires_in=0.001))
    await asyncio.sleep(0.002)  # it expires
    async with consuming(server, one_handler(record.handle)) as (crew, consumer):
        await publish(crew, "good")
        await record.until(1)
        await wait_until(lambda: is_settled(server, stream()), "it is acknowledged")
        await wait_until(lambda: tally(server).get("expired") == 1, "it is counted")
        (statistics,) = consumer.statistics()

    assert record.payloads == ["good"]
    assert statistics.expired == 1
    assert letters(server) == []


@pytest.mark.key_leaks(reason="keys by hand")
@pytest.mark.parametrize(
    "key",
    [
        "mcp-crew:events:{acme}:order.paid",
        "mcp-crew:events:{acme}:order.paid:urgent",
        "mcp-crew:events:{acme}:Order Paid:normal",
        "mcp-crew:events:{acme}::normal",
        "mcp-crew:events:{acme}:order.paid:normal.999",
        "mcp-crew:events:{acme}:order.paid:normal.01",
        "mcp-crew:events:{}:order.paid:normal",
        "mcp-crew:events:order.paid:normal",
        "mcp-crew:events:{acme}:" + "x" * 129 + ":normal",
        "mcp-crew:events:{acme}:scheduled",
        b"mcp-crew:events:{acme}:\xff\xfe:normal",
    ],
)
async def test_a_stream_that_is_none_of_ours_is_let_be(server, key):
    """No group is made of it, and nothing is read."""
    record = Record()
    async with consuming(server, one_handler(record.handle, ">")) as (crew, consumer):
        add(server, *parts("foreign"), key=key)
        await publish(crew, "good")
        await record.until(1)
        (statistics,) = consumer.statistics()

    assert record.payloads == ["good"]
    assert statistics.streams == 1
    assert server.execute("XINFO", "GROUPS", key) == []


# --- another type in the stream's place ---------------------------------------------


@pytest.mark.key_leaks(reason="a key by hand")
async def test_a_key_of_another_type_disturbs_nobody(server):
    """Other streams go on, there is no loop, and it heals when the key goes."""
    record = Record()
    async with consuming(server, one_handler(record.handle, ">")) as (crew, consumer):
        await publish(crew, "before")
        await record.until(1)
        server.execute("DEL", stream())
        server.execute("SET", stream(), "x")
        reads = consumer.statistics()[0].reads
        with capture_logs() as lines:
            for number in range(5):
                await crew.tenant("globex").events.publish("order.paid", number)
                await record.until(number + 2)
            await asyncio.sleep(0.5)
        assert len(lines) <= 10
        assert consumer.statistics()[0].reads - reads <= 25

        server.execute("DEL", stream())
        await publish(crew, "after")
        await wait_until(lambda: "after" in record.payloads, "it heals", 5)
        assert crew.state is ServiceState.RUNNING


# --- handlers -----------------------------------------------------------------------


async def test_a_handler_that_hangs_is_cancelled_and_its_event_tried_again(server):
    """After `timeout`; the call is free again."""
    counts = []

    async def handle(event):
        counts.append(event.delivery_count)
        if event.delivery_count == 1:
            await asyncio.Event().wait()

    subscriptions = one_handler(handle, timeout=0.2, concurrency=1)
    async with consuming(server, subscriptions) as (crew, consumer):
        await publish(crew, 1)
        await wait_until(lambda: counts == [1, 2], "it is tried again")
        await wait_until(lambda: is_settled(server, stream()), "it is settled")
        (statistics,) = consumer.statistics()

    assert (statistics.timeouts, statistics.failed, statistics.handled) == (1, 1, 1)


async def test_a_batch_handler_that_hangs_is_cancelled_and_all_are_tried_again(server):
    """Each event of the list, once more."""
    lists = []

    async def handle(events):
        lists.append(sorted((one.payload, one.delivery_count) for one in events))
        if any(one.delivery_count == 1 for one in events):
            await asyncio.Event().wait()

    subscriptions = one_handler(handle, timeout=0.2, batch=True, batch_size=10)
    async with consuming(server, subscriptions) as (crew, _):
        await publish(crew, *range(4))
        await wait_until(
            lambda: {n for one in lists for n, c in one if c == 2} == set(range(4)),
            "all are tried again",
        )
        await wait_until(lambda: is_settled(server, stream()), "all is settled")

    assert sum(map(len, lists)) == 8


async def test_a_handler_that_hangs_does_not_break_the_order_of_its_key(server):
    """The next of the key waits for its second attempt."""
    done = []

    async def handle(event):
        if event.payload == 1 and event.delivery_count == 1:
            await asyncio.Event().wait()
        done.append(event.payload)

    subscriptions = one_handler(handle, timeout=0.2, ordering="key")
    async with consuming(server, subscriptions) as (crew, _):
        await publish(crew, *range(4), key="k")
        await wait_until(lambda: len(done) == 4, "all are handled")

    assert done == [0, 1, 2, 3]


async def test_a_handler_that_always_hangs_is_a_dead_letter(server):
    """The reason says so."""

    async def handle(_):
        await asyncio.Event().wait()

    subscriptions = one_handler(handle, timeout=0.1, max_deliveries=2)
    async with consuming(server, subscriptions) as (crew, _):
        await publish(crew, 1)
        (reason,) = await buried(server)

    assert "TimeoutError" in reason


async def test_a_handler_that_swallows_its_cancellation_has_handled(server):
    """It has returned; it is the next one's call that must not suffer."""
    handled = []

    async def handle(event):
        if event.payload == "stubborn":
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.01)
        handled.append(event.payload)

    subscriptions = one_handler(handle, timeout=0.2, concurrency=1)
    async with consuming(server, subscriptions) as (crew, _):
        await publish(crew, "stubborn", *range(5))
        await wait_until(lambda: len(handled) == 6, "all are handled")
        await wait_until(lambda: is_settled(server, stream()), "all is settled")

    assert handled == ["stubborn", *range(5)]


async def test_a_handler_that_uses_timeouts_of_its_own_is_understood(server):
    """Its TimeoutError is an error like others; its cancellations are its own."""
    handled = []

    async def handle(event):
        if event.delivery_count == 1:
            async with asyncio.timeout(0.02):
                await asyncio.Event().wait()
        handled.append(event.payload)

    subscriptions = one_handler(handle, timeout=5.0)
    async with consuming(server, subscriptions) as (crew, consumer):
        await publish(crew, *range(5))
        await wait_until(lambda: len(handled) == 5, "all are handled")
        assert consumer.statistics()[0].timeouts == 0


async def test_a_handler_cancelled_from_within_has_failed(server):
    """The consumer goes on."""
    counts = []

    async def handle(event):
        counts.append(event.delivery_count)
        if event.delivery_count == 1:
            raise asyncio.CancelledError

    async with consuming(server, one_handler(handle)) as (crew, _):
        await publish(crew, 1)
        await wait_until(lambda: counts == [1, 2], "it is tried again")
        await publish(crew, 2)
        await wait_until(lambda: len(counts) == 4, "it goes on")
        assert crew.state is ServiceState.RUNNING


async def test_a_handler_that_cancels_its_own_task_has_failed(server):
    """The consumer goes on: a call is lost, not the service."""
    counts = []

    async def handle(event):
        counts.append(event.delivery_count)
        if event.delivery_count == 1:
            asyncio.current_task().cancel()
            await asyncio.sleep(0)

    async with consuming(server, one_handler(handle, concurrency=2)) as (crew, _):
        for number in range(6):
            await publish(crew, number)
        await wait_until(lambda: len(counts) >= 12, "all are tried again")
        await wait_until(lambda: is_settled(server, stream()), "all is settled")
        assert crew.state is ServiceState.RUNNING


@pytest.mark.parametrize(
    "error",
    [
        ExceptionGroup("e", [ValueError()]),
        StopAsyncIteration(),
        LookupError(),
        RecursionError(),
        MemoryError(),
    ],
)
async def test_any_error_is_a_failure_of_its_event_alone(server, error):
    """Whatever class it is of."""
    counts = []

    async def handle(event):
        counts.append(event.delivery_count)
        if event.delivery_count == 1:
            raise error

    async with consuming(server, one_handler(handle)) as (crew, _):
        await publish(crew, 1)
        await wait_until(lambda: counts == [1, 2], "it is tried again")
        assert crew.state is ServiceState.RUNNING


async def test_an_error_that_cannot_be_shown_is_a_failure_too(server):
    """Its own text raises."""

    class SpitefulError(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    async def handle(_):
        raise SpitefulError

    subscriptions = one_handler(handle, max_deliveries=2)
    async with consuming(server, subscriptions) as (crew, _):
        await publish(crew, 1)
        (reason,) = await buried(server)
        assert crew.state is ServiceState.RUNNING

    assert reason == "SpitefulError"


async def test_a_flood_of_failures_is_no_flood_of_log_lines(server):
    """The first, the second, the fourth, ..."""

    async def handle(_):
        raise Retry(after=60)

    with capture_logs() as lines:
        async with consuming(server, one_handler(handle)) as (crew, consumer):
            await publish(crew, *range(300))
            await wait_until(
                lambda: consumer.statistics()[0].failed >= 300, "all have failed"
            )

    failed = [line for line in lines if line["event"] == "consumer.handler_failed"]
    assert len(failed) == 9
    assert all("reason" not in line for line in failed)


async def test_pending_is_bounded_while_everything_fails(server):
    """What waits for its next attempt takes up no call, and fetching goes on."""

    async def handle(_):
        raise Retry(after=60)

    subscriptions = one_handler(handle, concurrency=2, backoff=SOON)
    async with consuming(server, subscriptions) as (crew, consumer):
        await publish(crew, *range(200))
        await wait_until(lambda: pending_of(server, stream()) == 200, "all were tried")
        await wait_until(lambda: consumer.statistics()[0].held == 0, "none is held")
