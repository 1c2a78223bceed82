"""Consumers whose server, path or processes fail: they go on, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import pytest
from structlog.testing import capture_logs

from mcp_crew_redis.errors import CrewRedisError, LifecycleError
from mcp_crew_redis.events.event import Event
from mcp_crew_redis.events.schemas import EventCatalog, EventSchema
from mcp_crew_redis.lifecycle import ServiceState
from mcp_crew_redis.testing import LocalServer
from tests.faults.event_worker import working
from tests.faults.test_bell import bell_id
from tests.integration.events.consuming import (
    Record,
    consuming,
    crew_on,
    is_settled,
    letters,
    one_handler,
    stream,
)
from tests.integration.events.test_consumer_bad_input import parts
from tests.rig.waiting import wait_until

pytestmark = pytest.mark.timeout(60)

CLAIM = 0.5  # seconds, instead of 30


async def publish(crew, *payloads, **options):
    for payload in payloads:
        await crew.tenant("acme").events.publish("order.paid", payload, **options)


async def insist(crew, payload):
    """Publish as soon as that is possible."""

    async def is_published():
        try:
            await publish(crew, payload)
        except CrewRedisError:
            return False
        return True

    await wait_until(is_published, "it is published", 15)


async def settled(server, timeout=15):  # noqa: ASYNC109
    await wait_until(lambda: is_settled(server, stream()), "all is settled", timeout)


# --- processes ----------------------------------------------------------------------


async def test_partitions_of_a_killed_process_are_taken_over_in_order(server, tmp_path):
    """Each key goes on where it was; only what was held is begun again."""
    count, keys = 1_500, 12
    catalog = EventCatalog([EventSchema(type="order.paid", partitions=4)])
    options = {
        "claim_after": CLAIM,
        "ordering": "key",
        "partitions": 4,
        "concurrency": 8,
        "max_deliveries": 10,
    }
    async with (
        crew_on(server, catalog=catalog) as crew,
        working(server, tmp_path, "one", **options) as one,
        working(server, tmp_path, "two", **options) as two,
    ):
        events = [
            Event.new("order.paid", {"n": n, "do": 0.01}, key=f"k{n % keys}")
            for n in range(count)
        ]
        await crew.tenant("acme").events.publish_many(events)
        await one.until("done", 5)
        await two.until("done", 5)
        await one.kill()
        await wait_until(
            lambda: set(one.numbers("done") + two.numbers("done")) == set(range(count)),
            "all are handled",
            30,
        )
        done = sorted(
            one.lines("done") + two.lines("done"), key=lambda line: line["at"]
        )

    by_key = defaultdict(list)
    for line in done:
        if line["n"] not in by_key[line["key"]]:
            by_key[line["key"]].append(line["n"])
    assert by_key == {f"k{k}": list(range(k, count, keys)) for k in range(keys)}
    assert len(done) - count <= 8 + 32  # what the dead one held
    assert letters(server) == []


# --- servers ------------------------------------------------------------------------


async def test_a_server_that_forgets_what_was_acknowledged(tmp_path):
    """As after a power cut or a failover: it comes again, and nothing stays pending."""
    record = Record()
    subscriptions = one_handler(record.handle, claim_after=CLAIM)
    async with LocalServer() as server, consuming(server, subscriptions) as (crew, _):
        await publish(crew, *range(5))
        await record.until(5)
        size = server.aof_size
        await publish(crew, *range(5, 10))
        await record.until(10)
        await server.kill()
        server.truncate_aof(size)
        await server.start()
        await insist(crew, "after")
        await wait_until(lambda: "after" in record.payloads, "it goes on", 15)

        async def is_empty():
            pending = await server.execute("XPENDING", stream(), "g")
            return pending[0] == 0

        await wait_until(is_empty, "nothing is pending", 15)

    assert set(range(10)) <= set(record.payloads)


@pytest.mark.parametrize("fault", ["read-only", "not-saving", "no-script", "denied"])
async def test_a_server_that_refuses_is_waited_for(own_server, fault):
    """No loop of errors; it goes on when the server does."""
    server, record = own_server, Record()
    faults = {
        "read-only": ("REPLICAOF", "127.0.0.1", 1),
        "not-saving": ("CONFIG", "SET", "min-replicas-to-write", 1),
        "no-script": ("SCRIPT", "FLUSH", "SYNC"),
        "denied": ("ACL", "SETUSER", "default", "-xreadgroup"),
    }
    cures = {
        "read-only": ("REPLICAOF", "NO", "ONE"),
        "not-saving": ("CONFIG", "SET", "min-replicas-to-write", 0),
        "no-script": ("PING",),
        "denied": ("ACL", "SETUSER", "default", "+@all"),
    }

    async def handle(event):
        if event.delivery_count == 1 and event.payload == "after":
            raise ValueError
        await record.handle(event)

    subscriptions = one_handler(handle, claim_after=CLAIM)
    async with consuming(server, subscriptions) as (crew, consumer):
        await publish(crew, "before")
        await record.until(1)
        await settled(server)
        reads = consumer.statistics()[0].reads
        server.execute(*faults[fault])
        with capture_logs() as lines:
            if fault == "denied":
                await publish(crew, "meanwhile")
            await asyncio.sleep(1.0)
        assert consumer.statistics()[0].reads - reads < 20
        assert len([one for one in lines if one["event"].startswith("consumer")]) < 20
        assert crew.state is ServiceState.RUNNING
        server.execute(*cures[fault])
        await insist(crew, "after")
        await wait_until(lambda: "after" in record.payloads, "it goes on", 15)
        await settled(server)


async def test_a_stopped_server_is_waited_for(own_server):
    """SIGSTOP: nothing ends, nothing comes; it goes on, and nothing is lost."""
    server, record = own_server, Record()
    subscriptions = one_handler(record.handle, claim_after=CLAIM)
    async with consuming(server, subscriptions, command_timeout=0.3) as (crew, one):
        await publish(crew, *range(20))
        with server.paused():
            reads = one.statistics()[0].reads
            await asyncio.sleep(1.5)
            assert one.statistics()[0].reads - reads < 20
        await insist(crew, "after")
        await wait_until(
            lambda: {*range(20), "after"} <= set(record.payloads), "all are handled", 15
        )
        await settled(server)


async def test_ids_of_the_future_disturb_nobody(server):
    """A clock was wrong: later entries follow them all the same."""
    record = Record()
    async with consuming(server, one_handler(record.handle)) as (crew, _):
        await publish(crew, 0)
        await record.until(1)
        future = 4_000_000_000_000
        server.execute("XADD", stream(), f"{future}-5", *parts(1))
        await publish(crew, 2, 3)
        await record.until(4)
        await settled(server)

    assert sorted(record.payloads) == [0, 1, 2, 3]


# --- the bell -----------------------------------------------------------------------


def has_bell(server):
    """Whether the bell's connection stands."""
    try:
        return bell_id(server) > 0
    except AssertionError:
        return False


async def test_a_bell_that_is_lost_again_and_again_loses_nothing(server):
    """What grew meanwhile is looked for."""
    record = Record()
    async with consuming(server, one_handler(record.handle)) as (crew, _):
        number = 0
        for _ in range(6):
            await wait_until(lambda: has_bell(server), "it listens", 10)
            server.execute("CLIENT", "KILL", "ID", bell_id(server))
            for _ in range(5):
                await publish(crew, number)
                number += 1
            await record.until(number, timeout=10)  # it dials after a pause
        await settled(server)

    assert sorted(record.payloads) == list(range(number))


async def test_without_a_bell_streams_are_polled(own_server):
    """The ACL does not allow tracking: it is slower, and complete."""
    server, record = own_server, Record()
    server.execute("ACL", "SETUSER", "default", "-client|tracking")
    async with (
        crew_on(server) as other,
        consuming(server, one_handler(record.handle, ">")),
    ):
        await publish(other, *range(5))
        await record.until(5, timeout=10)
        await other.tenant("new").events.publish("tool.updated", "new")
        await record.until(6, timeout=10)
        await settled(server)

    assert record.payloads == [*range(5), "new"]


# --- handlers -----------------------------------------------------------------------


@pytest.mark.leaks(reason="its handler does not end, whatever is done")
async def test_a_handler_that_never_ends_does_not_hold_up_the_end(server):
    """It swallows every cancellation; the crew is left in time, with an error."""
    stop, cancelled, ended = asyncio.Event(), [], []

    async def handle(event):
        while not stop.is_set():
            try:
                await stop.wait()
            except asyncio.CancelledError:
                cancelled.append(event)
        ended.append(event)

    loop = asyncio.get_running_loop()
    subscriptions = one_handler(handle, timeout=0.1)
    try:
        consumer = consuming(server, subscriptions, drain_timeout=0.3)
        crew, _ = await consumer.__aenter__()
        await publish(crew, 1)
        await wait_until(lambda: cancelled, "it has taken too long")
        began = loop.time()
        with pytest.raises(LifecycleError, match="ignored its cancellation"):
            await consumer.__aexit__(None, None, None)
        assert loop.time() - began < 6
    finally:
        stop.set()
    await wait_until(lambda: ended, "it ends")
