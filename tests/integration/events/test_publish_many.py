"""Many events at a time: in order, in few round trips, each with its own outcome."""

from __future__ import annotations

import asyncio

import msgpack
import pytest

from mcp_crew_redis._wire.envelope import unpack_envelope
from mcp_crew_redis.errors import CodecError, DataError, ReplicationError
from mcp_crew_redis.events.event import Event
from mcp_crew_redis.events.kinds import EventPriority
from mcp_crew_redis.events.many import CHUNK, PublishManyError
from mcp_crew_redis.events.schemas import EventSchema
from mcp_crew_redis.testing import FaultProxy
from tests.integration.events.publish_parts import ORDERS, bodies, buses, stream
from tests.rig.waiting import wait_until

SENT = ORDERS.replace(b"paid", b"sent")


@pytest.fixture
async def bus(any_server):
    schemas = (EventSchema(type="order.checked", payload=int, version=3),)
    async with buses(any_server.client_kwargs, *schemas) as bus:
        yield bus


@pytest.fixture
def acme(bus):
    return bus.of("acme")


def told(server, key=ORDERS):
    return [msgpack.unpackb(body) for body in bodies(server, key)]


@pytest.mark.every_server
@pytest.mark.parametrize("idempotent", [False, True])
async def test_many_events_stand_in_their_order(any_server, acme, idempotent):
    """More than one chunk of them, on two streams."""
    events = [
        Event.new("order.paid" if number % 3 else "order.sent", number)
        for number in range(2 * CHUNK + 1)
    ]

    receipts = await acme.publish_many(events, idempotent=idempotent)

    places = {
        unpack_envelope(fields[b"m"]).id: place.decode()
        for key in (ORDERS, SENT)
        for place, fields in stream(any_server, key)
    }
    told_places = [places[event.envelope.id] for event in events]
    assert [receipt.stream_id for receipt in receipts] == told_places
    assert [receipt.event_id for receipt in receipts] == [one.id for one in events]
    assert told(any_server) == [n for n in range(2 * CHUNK + 1) if n % 3]
    assert told(any_server, SENT) == [n for n in range(2 * CHUNK + 1) if not n % 3]


async def test_no_events_are_no_round_trip(any_server, acme):
    """An empty list is published at once."""
    assert await acme.publish_many([]) == []
    assert any_server.execute("DBSIZE") == 0


async def test_what_was_published_is_told_apart(acme):
    """Each has an answer of its own; one twice in the list, too."""
    events = [Event.new("order.paid", n, event_id=f"e{n % 3}") for n in range(5)]
    await acme.publish("order.paid", 0, event_id="e1", idempotent=True)

    receipts = await acme.publish_many(events, idempotent=True)

    assert [one.is_duplicate for one in receipts] == [False, True, False, True, True]
    assert receipts[0].stream_id == receipts[3].stream_id


async def test_all_are_checked_before_the_first_is_sent(any_server, acme):
    """By their schemas, too; their version is the catalog's."""
    good = Event.new("order.checked", 1, priority=EventPriority.LOW)
    with pytest.raises(CodecError):
        await acme.publish_many([good, Event.new("order.checked", "no number")])
    assert any_server.execute("DBSIZE") == 0

    await acme.publish_many([good])

    ((_, fields),) = stream(any_server, b"p:events:{acme}:order.checked:low")
    assert unpack_envelope(fields[b"m"]).schema_version == 3


async def test_large_events_leave_in_chunks_of_bytes(any_server, acme):
    """Ten times half a MiB, in order."""
    events = [Event.new("order.paid", bytes([n]) * 500_000) for n in range(10)]

    await acme.publish_many(events)

    assert [body[:1] for body in told(any_server)] == [bytes([n]) for n in range(10)]


async def test_one_bad_stream_does_not_stop_the_others(any_server, acme):
    """The error has the receipts of all that went well."""
    any_server.execute("SET", SENT, "x", "PX", 60_000)
    events = [Event.new("order.paid", 1), Event.new("order.sent", 2)] * 2

    with pytest.raises(PublishManyError) as caught:
        await acme.publish_many(events)

    assert set(caught.value.errors) == {1, 3}
    assert isinstance(caught.value.__cause__, DataError)
    assert [one is None for one in caught.value.receipts] == [False, True, False, True]
    assert "2 of 4" in str(caught.value)
    assert told(any_server) == [1, 1]


@pytest.mark.parametrize("idempotent", [False, True])
async def test_a_cancelled_call_leaves_the_lane_in_order(own_server, idempotent):
    """What was sent may stand; whoever comes later gets his own replies."""
    events = [Event.new("order.paid", number) for number in range(500)]
    async with (
        FaultProxy(own_server.unix_socket) as proxy,
        buses(proxy.client_kwargs) as bus,
    ):
        acme = bus.of("acme")
        await acme.publish("order.paid", "first", idempotent=True)
        proxy.replies.stall()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(acme.publish_many(events, idempotent=idempotent))
            await proxy.wait_for_request(b"EVALSHA" if idempotent else b"XADD")
            task.cancel()
        proxy.heal()
        receipt = await acme.publish("order.last", "last")

        assert task.cancelled()
        ((place, _),) = stream(own_server, b"p:events:{acme}:order.last:normal")
        assert receipt.stream_id == place.decode()
        assert len(stream(own_server)) in range(1, 502)


# --- replicas -------------------------------------------------------------------------


@pytest.fixture
def replica(make_server):
    """A server with one replica that follows it."""
    master = make_server("valkey", "--repl-diskless-sync-delay", "0", tcp=True)
    follower = make_server("valkey")
    follower.execute("REPLICAOF", "127.0.0.1", master.tcp_port)
    return master, follower


@pytest.mark.parametrize("idempotent", [False, True])
async def test_what_is_durable_stands_on_a_replica(replica, idempotent):
    """One event, many, and a repetition: by the time that the call returns."""
    master, follower = replica
    await wait_until(lambda: _follows(follower), "it follows")
    async with buses(master.client_kwargs, command_timeout=0.7) as bus:
        acme = bus.of("acme")
        options = {"durable": True, "idempotent": idempotent}

        await acme.publish("order.paid", 1, event_id="e1", **options)
        assert told(follower) == [1]
        await acme.publish_many([Event.new("order.paid", n) for n in (2, 3)], **options)
        assert told(follower) == [1, 2, 3]
        await acme.publish("order.late", 4, delay=60.0, **options)
        assert follower.execute("ZCARD", "p:events:{acme}:scheduled") == 1

        follower.pause()
        try:
            with pytest.raises(ReplicationError):
                await acme.publish("order.paid", 1, event_id="e1", **options)
            with pytest.raises(ReplicationError):
                await acme.publish_many([Event.new("order.paid", 5)], **options)
        finally:
            follower.resume()
    assert told(master)[-1] == 5


def _follows(server):
    return server.info("replication").get("master_link_status") == "up"
