"""Replay: everything retained that is meant, once, in the order of its publishing."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import pytest

from mcp_crew_redis import CrewRedis, CrewSettings
from mcp_crew_redis._wire.streams import stream_key
from mcp_crew_redis.errors import DataError, InvalidEventTypeError, UnavailableError
from mcp_crew_redis.events.kinds import EventPriority
from mcp_crew_redis.events.schemas import EventCatalog, EventSchema
from mcp_crew_redis.testing import FaultProxy

EPOCH = datetime(2020, 1, 1, tzinfo=UTC)
SINCE = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("REDIS_CREW_", "REDIS_CIRCUIT_BREAKER_")):
            monkeypatch.delenv(name)


CATALOG = EventCatalog(
    [
        EventSchema(type="order.split", partitions=3),
        EventSchema(type="order.old", version=1),
    ]
)


@pytest.fixture
async def crew(server):
    settings = CrewSettings(unix_socket=server.unix_socket)
    async with CrewRedis(settings, event_catalog=CATALOG) as crew:
        yield crew


@pytest.fixture
def acme(crew):
    return crew.tenant("acme").events


def at(second):
    """Return a point in time after SINCE."""
    return SINCE + timedelta(seconds=second)


@pytest.fixture
def put(server, acme):
    """Return a function that puts an event into a stream at a time of its own."""

    def put(event_type, second, payload, *, lane=2, partition=None, **attributes):
        line = acme._lines.line(event_type, EventPriority(lane))
        draft = line.draft(payload, None, attributes)
        key = stream_key(acme.keys, event_type, lane, partition)
        milliseconds = round(at(second).timestamp() * 1_000)
        server.execute("SADD", "mcp-crew:meta:{acme}:types", event_type)
        server.execute(
            *("XADD", key, f"{milliseconds}-*", "m", draft.head, "d", draft.body)
        )

    return put


async def payloads(replay):
    """Return what it gives."""
    return [event.payload async for event in replay]


@pytest.mark.every_server
async def test_events_come_in_the_order_of_their_publishing(acme):
    """Whatever their type and lane; each page is small."""
    for number in range(60):
        await acme.publish(
            f"order.t{number % 3}", number, priority=EventPriority(number % 4)
        )

    replay = acme.replay("order.*", since=EPOCH, batch=2)
    events = [event async for event in replay]

    assert sorted(event.payload for event in events) == list(range(60))
    places = [tuple(map(int, event.stream_id.split("-"))) for event in events]
    assert [place[0] for place in places] == sorted(place[0] for place in places)
    for lane in range(4):
        for kind in range(3):
            mine = [
                event.payload
                for event in events
                if event.priority == lane and event.type == f"order.t{kind}"
            ]
            assert mine == sorted(mine)


async def test_streams_are_merged_by_time(acme, put):
    """Not read one after the other."""
    for second in (5, 3, 1):
        put(f"order.t{second}", second, second)
        put(f"order.t{second}", second + 10, second + 10, lane=0)

    assert await payloads(acme.replay(">", since=EPOCH)) == [1, 3, 5, 11, 13, 15]


async def test_since_is_included_and_until_is_not(acme, put):
    """Bounds of the time of publishing."""
    for second in range(6):
        put("order.t", second, second)

    replay = acme.replay("order.t", since=at(1), until=at(4))
    assert await payloads(replay) == [1, 2, 3]
    assert await payloads(acme.replay("order.t", since=at(4), until=at(4))) == []
    assert await payloads(acme.replay("order.t", since=at(4))) == [4, 5]
    assert await payloads(acme.replay("order.t", since=at(4), until=at(99))) == [4, 5]


async def test_only_types_that_are_meant_come(crew, acme, put):
    """And only the tenant's own."""
    put("order.t", 1, "mine")
    put("alert.t", 1, "other type")
    await crew.tenant("globex").events.publish("order.t", "other tenant")

    assert await payloads(acme.replay("order.*", since=EPOCH)) == ["mine"]


async def test_partitions_and_what_was_there_before_them_come(acme, put):
    """A type may have been divided since."""
    put("order.split", 1, "whole")
    for partition in range(3):
        put("order.split", 2 + partition, partition, partition=partition)

    assert await payloads(acme.replay(">", since=EPOCH)) == ["whole", 0, 1, 2]


async def test_what_is_over_comes_only_on_request(acme, put):
    """`expires_in` counts from the event's making."""
    put("order.t", 1, "over", expires_in=0.001)
    put("order.t", 2, "good", expires_in=3_600)

    assert await payloads(acme.replay(">", since=EPOCH)) == ["good"]
    replay = acme.replay(">", since=EPOCH, include_expired=True)
    assert await payloads(replay) == ["over", "good"]


async def test_what_cannot_be_decoded_is_counted(server, acme, put):
    """Foreign entries, newer schemas; the others come."""
    put("order.old", 1, "newer", schema_version=2)
    put("order.old", 2, "good")
    server.execute("XADD", "mcp-crew:events:{acme}:order.old:normal", "*", "a", "b")

    replay = acme.replay(">", since=EPOCH)

    assert await payloads(replay) == ["good"]
    assert replay.skipped == 2


async def test_it_ends_with_what_stood_there_at_its_beginning(acme):
    """However many are published meanwhile."""
    await acme.publish("order.t", 0)
    seen = []
    async for event in acme.replay(">", since=EPOCH, batch=1):
        seen.append(event.payload)
        await acme.publish("order.t", event.payload + 1)

    assert seen == [0]


async def test_nothing_is_retained_of_nobody(acme):
    """It ends at once."""
    assert await payloads(acme.replay(">", since=EPOCH)) == []


async def test_a_key_of_another_type_is_no_stream(server, acme, put):
    """The others are read."""
    put("order.t", 1, "good")
    server.execute("SET", "mcp-crew:events:{acme}:order.t:high", "x", "PX", 60_000)

    assert await payloads(acme.replay(">", since=EPOCH)) == ["good"]


async def test_it_goes_on_after_an_outage_where_it_was(server):
    """The error is told; iterating again loses and repeats nothing."""
    async with FaultProxy(server.unix_socket) as proxy:
        settings = CrewSettings(
            unix_socket=proxy.unix_socket, circuit_breaker_timeout=0.05
        )
        async with CrewRedis(settings) as crew:
            acme = crew.tenant("acme").events
            for number in range(40):
                await acme.publish("order.t", number)
            replay = acme.replay(">", since=EPOCH, batch=8)
            seen, errors = [], 0
            while len(seen) < 40:
                try:
                    seen.append((await anext(replay)).payload)
                except UnavailableError:
                    errors += 1
                    proxy.heal()
                    await proxy.accept()
                if len(seen) == 8 and not errors:
                    proxy.refuse()
                    proxy.cut()

    assert seen == list(range(40))
    assert errors


@pytest.mark.parametrize(
    "arguments",
    [
        {"since": datetime(2026, 1, 1)},  # noqa: DTZ001 - it is to be refused
        {"since": 5},
        {"since": EPOCH, "until": datetime(2026, 1, 1)},  # noqa: DTZ001 - likewise
        {"since": EPOCH, "batch": 0},
        {"since": EPOCH, "batch": True},
        {"since": EPOCH, "batch": 10_001},
    ],
)
async def test_wrong_arguments_are_told_at_once(acme, arguments):
    """Not at the first step."""
    with pytest.raises(DataError):
        acme.replay(">", **arguments)


async def test_a_wrong_pattern_is_told_at_once(acme):
    """As everywhere."""
    with pytest.raises(InvalidEventTypeError):
        acme.replay("A*", since=EPOCH)
