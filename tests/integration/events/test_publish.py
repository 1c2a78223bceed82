"""What is published stands in its stream, with all that was said of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime

import msgpack
import pytest

from mcp_crew_redis import CrewRedis, CrewSettings, redis_manager
from mcp_crew_redis._wire.envelope import unpack_envelope
from mcp_crew_redis._wire.keys import MetaKey
from mcp_crew_redis.errors import (
    CodecError,
    DataError,
    InvalidEventTypeError,
    InvalidIdentifierError,
    InvalidTenantError,
    InvalidTtlError,
    LifecycleError,
    OverloadedError,
    RefusedError,
    ReplicationError,
    ValueTooLargeError,
)
from mcp_crew_redis.events.calls import MAX_SCHEDULED
from mcp_crew_redis.events.event import Event
from mcp_crew_redis.events.kinds import EventPriority, EventType
from mcp_crew_redis.events.line import MAX_PAYLOAD_BYTES, partition_of
from mcp_crew_redis.events.schemas import EventSchema
from mcp_crew_redis.tenant import Tenant
from tests.integration.events.publish_parts import ORDERS, bodies, buses, stream

pytestmark = pytest.mark.every_server

MARK = b"p:event:{acme}:mark:e1"
SCHEDULED = b"p:events:{acme}:scheduled"
TYPES = b"p:meta:{acme}:types"


@dataclass
class Paid:
    order: int


@pytest.fixture
async def bus(any_server):
    schemas = (
        EventSchema(type="order.checked", payload=Paid, version=3),
        EventSchema(type="order.split", partitions=4),
    )
    async with buses(any_server.client_kwargs, *schemas) as bus:
        yield bus


@pytest.fixture
def acme(bus):
    return bus.of("acme")


def envelopes(server, key=ORDERS):
    return [unpack_envelope(fields[b"m"]) for _, fields in stream(server, key)]


async def test_an_event_stands_where_its_receipt_says(any_server, acme):
    """Under the stream of its type and priority, with its payload."""
    receipt = await acme.publish("order.paid", {"order": 7})

    ((place, fields),) = stream(any_server)
    assert receipt.stream_id == place.decode()
    assert not receipt.is_duplicate
    assert msgpack.unpackb(fields[b"d"]) == {"order": 7}
    assert set(fields) == {b"m", b"d"}


@pytest.mark.parametrize("priority", EventPriority)
async def test_a_priority_has_a_lane_of_its_own(any_server, acme, priority):
    """So that it can be read on its own."""
    await acme.publish(EventType.ALERT_RAISED, 1, priority=priority)

    key = f"p:events:{{acme}}:alert.raised:{priority.name.lower()}"
    assert any_server.execute("XLEN", key) == 1


async def test_what_is_said_of_an_event_is_in_its_envelope(any_server, acme):
    """Everything that `Event.new` takes."""
    when = datetime(2026, 1, 2, tzinfo=UTC)
    trace = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
    await acme.publish(
        "order.paid",
        1,
        key="order-7",
        event_id="e1",
        source="till",
        correlation_id="c",
        causation_id="b",
        traceparent=trace,
        tracestate="a=1",
        schema_version=2,
        expires_in=60.0,
        occurred_at=when,
        extensions={"shop": 3},
    )

    (envelope,) = envelopes(any_server)
    assert (envelope.id, envelope.key, envelope.source) == ("e1", "order-7", "till")
    assert (envelope.correlation, envelope.causation) == ("c", "b")
    assert (envelope.schema_version, envelope.extensions) == (2, {"shop": 3})
    assert envelope.occurred_ms == round(when.timestamp() * 1_000)
    assert envelope.expires_ms is not None


async def test_a_schema_checks_and_versions_what_is_published(any_server, acme):
    """The payload is what was agreed on; the version is the catalog's."""
    await acme.publish("order.checked", {"order": "7"})

    key = b"p:events:{acme}:order.checked:normal"
    assert envelopes(any_server, key)[0].schema_version == 3
    assert msgpack.unpackb(bodies(any_server, key)[0])["order"] == 7
    with pytest.raises(CodecError):
        await acme.publish("order.checked", {"order": "many"})
    assert any_server.execute("XLEN", key) == 1


async def test_events_of_one_key_share_a_partition(any_server, acme):
    """By the key; without one, by the id."""
    for number in range(8):
        await acme.publish("order.split", number, key="k")
        await acme.publish("order.split", number, event_id=f"e{number}")

    def length(partition):
        key = f"p:events:{{acme}}:order.split:normal.{partition}"
        return any_server.execute("XLEN", key)

    assert sum(length(each) for each in range(4)) == 16
    assert length(partition_of("k", 4)) >= 8


async def test_tenants_do_not_see_each_other(any_server, bus):
    """The same type, key and id, and two streams."""
    for name in ("acme", "other"):
        await bus.publish("order.paid", name, tenant_id=name, key="k", event_id="e")

    assert msgpack.unpackb(bodies(any_server)[0]) == "acme"
    other = b"p:events:{other}:order.paid:normal"
    assert msgpack.unpackb(bodies(any_server, other)[0]) == "other"


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (InvalidEventTypeError, {"event_type": "Order Paid"}),
        (InvalidEventTypeError, {"event_type": ""}),
        (InvalidIdentifierError, {"event_id": ""}),
        (InvalidIdentifierError, {"key": "k" * 257}),
        (DataError, {"traceparent": "00-x"}),
        (DataError, {"priority": 9}),
        (InvalidTtlError, {"delay": -1.0}),
        (InvalidTtlError, {"expires_in": float("nan")}),
        (DataError, {"delay": 10.0, "expires_in": 5.0}),
        (CodecError, {"payload": object()}),
        (ValueTooLargeError, {"payload": b"x" * (MAX_PAYLOAD_BYTES + 1)}),
    ],
)
async def test_bad_input_is_refused_before_anything_is_sent(
    any_server, acme, error, arguments
):
    """By an error that names it."""
    given = {"event_type": "order.paid", "payload": 1, **arguments}

    with pytest.raises(error):
        await acme.publish(given.pop("event_type"), given.pop("payload"), **given)

    assert any_server.execute("DBSIZE") == 0


async def test_a_payload_may_be_as_large_as_the_limit(any_server, acme):
    """It takes the way of large commands."""
    await acme.publish("order.paid", b"x" * (MAX_PAYLOAD_BYTES - 5))

    assert len(bodies(any_server)[0]) == MAX_PAYLOAD_BYTES


async def test_a_tenants_name_is_checked(bus):
    """Before there is any key."""
    with pytest.raises(InvalidTenantError):
        await bus.publish("order.paid", 1, tenant_id="Not A Tenant")


async def test_one_caller_after_the_other_keeps_the_order(any_server, acme):
    """Of one stream, whatever else is published meanwhile."""

    async def other(number):
        await acme.publish("order.other", number)

    async with asyncio.TaskGroup() as group:
        for number in range(50):
            group.create_task(other(number))
            await acme.publish("order.paid", number)

    told = [msgpack.unpackb(body) for body in bodies(any_server)]
    assert told == list(range(50))


# --- once ---------------------------------------------------------------------------


async def test_an_idempotent_event_is_published_once(any_server, acme):
    """The repetition learns where it stands."""
    first = await acme.publish("order.paid", 1, event_id="e1", idempotent=True)
    second = await acme.publish("order.paid", 2, event_id="e1", idempotent=True)

    assert (first.is_duplicate, second.is_duplicate) == (False, True)
    assert first.stream_id == second.stream_id
    assert len(stream(any_server)) == 1
    assert 86_000_000 < any_server.execute("PTTL", MARK) <= 86_400_000


async def test_a_hundred_at_once_are_one(any_server, acme):
    """Exactly one of them has published it."""

    async def publish():
        return await acme.publish("order.paid", 1, event_id="e1", idempotent=True)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(publish()) for _ in range(100)]

    assert sum(not task.result().is_duplicate for task in tasks) == 1
    assert len(stream(any_server)) == 1


# --- later --------------------------------------------------------------------------


async def test_a_delayed_event_waits_beside_its_stream(any_server, acme):
    """It has no place yet, and expires at last whoever looks."""
    receipt = await acme.publish("order.paid", 1, delay=30.0, event_id="e1")

    assert receipt.stream_id is None
    assert any_server.execute("ZCARD", SCHEDULED) == 1
    assert any_server.execute("PTTL", SCHEDULED) > 7 * 86_400_000
    assert any_server.execute("EXISTS", ORDERS, MARK) == 0


async def test_a_delayed_event_waits_once(any_server, acme):
    """With a mark, it is known when its time has come, too."""
    for _ in range(2):
        receipt = await acme.publish(
            "order.paid", 1, delay=30.0, event_id="e1", idempotent=True
        )
    undelayed = await acme.publish("order.paid", 1, event_id="e1", idempotent=True)

    assert receipt.is_duplicate
    assert undelayed.is_duplicate
    assert undelayed.stream_id is None
    assert any_server.execute("ZCARD", SCHEDULED) == 1


async def test_no_delay_is_now(any_server, acme):
    """Zero seconds are none."""
    assert (await acme.publish("order.paid", 1, delay=0)).stream_id is not None


async def test_delayed_events_are_bounded(any_server, acme):
    """One tenant cannot fill the server with what is to come."""
    script = "for i = 1, tonumber(ARGV[1]) do redis.call('ZADD', KEYS[1], 1, i) end"
    any_server.execute("EVAL", script, 1, SCHEDULED, MAX_SCHEDULED)
    any_server.execute("PEXPIRE", SCHEDULED, 60_000)

    with pytest.raises(OverloadedError, match="wait already"):
        await acme.publish("order.paid", 1, delay=30.0)


# --- with replicas ------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"idempotent": True}, {"delay": 9.0}])
async def test_a_durable_event_says_when_no_replica_has_it(any_server, acme, options):
    """It is published all the same."""
    with pytest.raises(ReplicationError) as caught:
        await acme.publish("order.paid", 1, durable=True, **options)

    assert (caught.value.acknowledged, caught.value.wanted) == (0, 1)
    key = SCHEDULED if "delay" in options else ORDERS
    assert any_server.execute("EXISTS", key) == 1


# --- the tenant's ---------------------------------------------------------------------


async def test_the_registry_knows_the_tenant_and_the_type(any_server, acme):
    """Who listens to all tenants reads it there."""
    await acme.publish("order.paid", 1)

    assert any_server.execute("SMEMBERS", TYPES) in ({b"order.paid"}, [b"order.paid"])
    assert any_server.execute("ZSCORE", "p:tenants", "acme") is not None


async def test_a_purge_takes_the_events_along(any_server, bus, acme):
    """Streams, marks, what is delayed; and the next publish is noted again."""
    await acme.publish("order.paid", 1, event_id="e1", idempotent=True)
    await acme.publish("order.paid", 1, delay=30.0)
    usage = await bus.hub.store.upkeep.usage("acme")
    assert (usage.types["events"].keys, usage.types["event"].keys) == (2, 2)

    await bus.hub.store.purge("acme", None)
    assert any_server.execute("KEYS", "p:event*") == []
    assert any_server.execute("EXISTS", TYPES) == 0

    receipt = await acme.publish("order.paid", 2, event_id="e1", idempotent=True)
    assert not receipt.is_duplicate
    key = bus.hub.keys.tenant("acme").meta(MetaKey.TYPES)
    assert any_server.execute("SCARD", key) == 1


async def test_without_memory_the_caller_is_told(any_server, bus, acme):
    """Waiting would not help it, so nothing is journaled."""
    await acme.publish("order.paid", 0)
    any_server.execute("CONFIG", "SET", "maxmemory", 1)
    try:
        for options in ({}, {"idempotent": True}, {"delay": 9.0}, {"durable": True}):
            with pytest.raises(RefusedError, match="OOM"):
                await acme.publish("order.paid", 1, **options)
    finally:
        any_server.execute("CONFIG", "SET", "maxmemory", 0)

    assert bus.hub.store.journal.depth == 0
    assert len(stream(any_server)) == 1


async def test_a_key_of_another_type_is_an_error(any_server, bus, acme):
    """Nobody of ours wrote that; it is neither overwritten nor journaled."""
    any_server.execute("SET", ORDERS, "x")

    for options in ({}, {"idempotent": True}):
        with pytest.raises(DataError):
            await acme.publish("order.paid", 1, **options)

    assert bus.hub.store.journal.depth == 0


# --- the crew's ---------------------------------------------------------------------


async def test_a_crew_and_its_tenants_publish(server):
    """By the tenant's name, or bound to it; the same stream."""
    async with CrewRedis(CrewSettings(unix_socket=server.unix_socket)) as crew:
        await crew.events.publish("order.paid", 1, tenant_id="acme")
        await crew.tenant("acme").events.publish("order.paid", 2)
        await crew.events.publish_many([Event.new("order.paid", 3)], tenant_id="acme")
        assert crew.tenant("acme").events is crew.events.of("acme")

    assert len(stream(server, ORDERS.replace(b"p:", b"mcp-crew:", 1))) == 3


async def test_outside_of_a_crew_there_are_no_events(bus):
    """The default manager has no services that could see to them."""
    with pytest.raises(LifecycleError):
        CrewRedis(CrewSettings()).events  # noqa: B018
    with pytest.raises(LifecycleError, match="CrewRedis"):
        Tenant.of(bus.hub.store, "acme").events  # noqa: B018
    assert not hasattr(redis_manager, "events")


@pytest.mark.parametrize("event_type", [None, 7, ["order.paid"], b"order.paid", ""])
async def test_what_is_no_type_is_refused_by_name(acme, event_type):
    """Whatever it is."""
    with pytest.raises(InvalidEventTypeError):
        await acme.publish(event_type, 1)


@pytest.mark.parametrize("priority", ["urgent", 9, [], None])
async def test_what_is_no_priority_is_refused(acme, priority):
    """Whatever it is."""
    with pytest.raises(DataError):
        await acme.publish("order.paid", 1, priority=priority)
