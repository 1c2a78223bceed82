"""Stats: what waits, for how long, and what went wrong; rewind: what comes again."""

from datetime import UTC, datetime, timedelta

import pytest

from mcp_crew_redis import DataError
from mcp_crew_redis.errors import InvalidEventTypeError, InvalidIdentifierError
from mcp_crew_redis.events.kinds import EventPriority
from mcp_crew_redis.events.outcomes import Reject
from mcp_crew_redis.events.schemas import EventCatalog, EventSchema
from tests.integration.events.consuming import (
    Record,
    consuming,
    crew_on,
    groups_of,
    is_settled,
    one_handler,
    stream,
)
from tests.rig.waiting import wait_until

pytestmark = pytest.mark.every_server


@pytest.fixture
async def events(server):
    async with crew_on(server) as crew:
        yield crew.tenant("acme").events


def read(server, count, *, ack=0, group="g", key=None):
    """Have a group read entries; it is made if need be."""
    key = key or stream()
    if group not in [info["name"] for info in groups_of(server, key)]:
        server.execute("XGROUP", "CREATE", key, group, "0")
    command = ("XREADGROUP", "GROUP", group, "c", "COUNT", count, "STREAMS", key)
    found = server.execute(*command, ">")
    ids = [entry for entry, _ in found[0][1]] if found else []
    if ack:
        server.execute("XACK", key, group, *ids[:ack])
    return ids


async def fill(events, count=5, event_type="order.paid", **options):
    return [
        await events.publish(event_type, number, **options) for number in range(count)
    ]


async def test_what_waits_is_told(server, events):
    """Length, pending, lag and consumers of a group in a stream."""
    await fill(events)
    read(server, 3, ack=1)

    (stats,) = await events.stats()

    assert (stats.group, stats.event_type) == ("g", "order.paid")
    assert (stats.priority, stats.partition) == (EventPriority.NORMAL, None)
    assert (stats.length, stats.pending, stats.lag) == (5, 2, 2)
    assert stats.consumers == 1
    counted = stats.redelivered, stats.dead, stats.lost, stats.expired, stats.duplicates
    assert counted == (0, 0, 0, 0, 0)


async def test_the_oldest_is_the_first_that_is_not_acknowledged(server, events):
    """Pending or never delivered."""
    seconds = int(server.execute("TIME")[0])
    await fill(events, 1)  # the registry knows the type
    server.execute("DEL", stream())
    for age in (300, 200, 100):
        at = (seconds - age) * 1_000
        server.execute("XADD", stream(), f"{at}-0", "m", "m", "d", "d")
    read(server, 0 + 2, ack=1)
    read(server, 3, ack=3, group="quick")
    read(server, 1, ack=1, group="slow")

    stats = {each.group: each.oldest_age for each in await events.stats()}

    assert stats["quick"] == 0.0
    assert 199 <= stats["g"] <= 205
    assert 199 <= stats["slow"] <= 205


async def test_a_lag_that_redis_does_not_know_is_none(server, events):
    """After a deletion it is not known; that nothing waits is known anyway."""
    receipts = await fill(events)
    read(server, 1, ack=1)
    server.execute("XDEL", stream(), receipts[3].stream_id)

    (stats,) = await events.stats()
    assert stats.lag in (None, 3)
    read(server, 10, ack=10)
    (stats,) = await events.stats()
    assert stats.lag == 0


async def test_a_lag_after_a_trim_is_no_lie(server, events):
    """Two entries wait: 0 would be wrong."""
    await fill(events)
    server.execute("XGROUP", "CREATE", stream(), "g", "0")
    server.execute("XTRIM", stream(), "MAXLEN", "=", 2)

    (stats,) = await events.stats()

    assert stats.lag in (None, 2)


async def test_each_stream_of_a_group_has_a_row(server):
    """By type, priority and partition; sorted."""
    catalog = EventCatalog([EventSchema(type="order.sent", partitions=2)])
    async with crew_on(server, catalog=catalog) as crew:
        events = crew.tenant("acme").events
        await fill(events, 2)
        await fill(events, 2, priority=EventPriority.LOW)
        for number in range(9):  # some go here, some there
            await events.publish("order.sent", number, key=str(number))
        for key in (
            *(stream(), stream(lane=3)),
            *(stream(event_type="order.sent", partition=at) for at in (0, 1)),
        ):
            read(server, 10, key=key)

        rows = [
            (each.event_type, each.priority, each.partition)
            for each in await events.stats("g")
        ]

    assert rows == [
        ("order.paid", EventPriority.NORMAL, None),
        ("order.paid", EventPriority.LOW, None),
        ("order.sent", EventPriority.NORMAL, 0),
        ("order.sent", EventPriority.NORMAL, 1),
    ]


async def test_one_group_can_be_asked_for(server, events):
    """The others are left out."""
    await fill(events)
    for group in ("a", "b"):
        read(server, 1, group=group)

    assert [each.group for each in await events.stats()] == ["a", "b"]
    assert [each.group for each in await events.stats("b")] == ["b"]
    assert await events.stats("c") == []


async def test_without_events_there_are_no_rows(events):
    """Nor errors."""
    assert await events.stats() == []


async def test_what_was_counted_is_told(server):
    """Redeliveries and dead letters, as the consumer has counted them."""

    async def fail(event):
        if event.payload == 0:
            raise Reject("never")
        if event.delivery_count < 2:
            raise ValueError("not yet")

    async with consuming(server, one_handler(fail)) as (crew, _):
        events = crew.tenant("acme").events
        await fill(events, 2)
        await wait_until(lambda: is_settled(server, stream()), "all is handled")

        (stats,) = await events.stats("g")

    assert (stats.dead, stats.redelivered) == (1, 1)


async def test_two_tenants_have_stats_of_their_own(server):
    """Under the same type and group."""
    async with crew_on(server) as crew:
        await fill(crew.tenant("acme").events, 3)
        await fill(crew.tenant("globex").events, 1)
        for tenant in ("acme", "globex"):
            read(server, 5, key=stream(tenant))

        (stats,) = await crew.tenant("globex").events.stats()

    assert stats.pending == 1


async def test_foreign_keys_and_groups_are_left_out(server, events):
    """They are not ours to tell of."""
    await fill(events)
    read(server, 1, group="a b")
    await fill(events, 1, "order.sent")
    other = stream(event_type="order.sent")
    server.execute("DEL", other)
    server.execute("SET", other, "x", "EX", 60)

    assert await events.stats() == []


async def test_a_group_that_is_none_is_refused(events):
    """Before anything is sent."""
    with pytest.raises(InvalidIdentifierError):
        await events.stats("a b")


# --- rewind -------------------------------------------------------------------------


def unread(server, key=None):
    return [entry.decode() for entry in read(server, 100, key=key)]


async def test_rewinding_to_the_earliest_delivers_everything_again(server, events):
    """What is retained."""
    receipts = await fill(events)
    read(server, 5, ack=5)

    assert await events.rewind("g", "order.*", "earliest") == 1

    assert unread(server) == [receipt.stream_id for receipt in receipts]


async def test_rewinding_to_an_event_delivers_it_and_what_follows(server, events):
    """Not what came before."""
    receipts = await fill(events)
    read(server, 5, ack=5)

    await events.rewind("g", "order.paid", receipts[2].stream_id)

    assert unread(server) == [receipt.stream_id for receipt in receipts[2:]]


async def test_rewinding_to_a_time_delivers_from_then_on(server, events):
    """To the millisecond, that one included."""
    at = datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC)
    ms = round(at.timestamp() * 1_000)
    await fill(events, 1)
    server.execute("DEL", stream())
    for offset in (-1, 0, 1):
        server.execute("XADD", stream(), f"{ms + offset}-5", "m", "m", "d", "d")
    read(server, 3, ack=3)

    await events.rewind("g", ">", at)

    assert unread(server) == [f"{ms}-5", f"{ms + 1}-5"]


async def test_rewinding_to_the_latest_skips_what_waits(server, events):
    """Only what comes from then on."""
    await fill(events)
    read(server, 1)
    await events.rewind("g", "order.paid", "latest")
    (receipt,) = await fill(events, 1)

    assert unread(server) == [receipt.stream_id]


async def test_rewinding_leaves_other_types_groups_and_tenants_alone(server):
    """Only what is meant."""
    async with crew_on(server) as crew:
        acme, globex = crew.tenant("acme").events, crew.tenant("globex").events
        await fill(acme, 2)
        await fill(acme, 2, "tool.found")
        await fill(globex, 2)
        others = [stream(event_type="tool.found"), stream("globex")]
        for key in (stream(), *others):
            read(server, 2, ack=2, key=key)
        read(server, 2, ack=2, group="other")

        assert await acme.rewind("g", "order.>", "earliest") == 1

    assert len(unread(server)) == 2
    assert [unread(server, key) for key in others] == [[], []]
    assert read(server, 5, group="other") == []


async def test_a_running_consumer_handles_them_again(server):
    """Without another event having to come."""
    record = Record()
    async with consuming(server, one_handler(record.handle)) as (crew, _):
        events = crew.tenant("acme").events
        await fill(events, 3)
        await record.until(3)
        await wait_until(lambda: is_settled(server, stream()), "all is handled")

        assert await events.rewind("g", "order.paid", "earliest") == 1

        await record.until(6)
    assert record.payloads == [0, 1, 2, 0, 1, 2]


async def test_a_group_that_has_read_nothing_is_not_moved(events):
    """It is told: none."""
    await fill(events)

    assert await events.rewind("g", ">", "earliest") == 0


@pytest.mark.parametrize(
    "to",
    ["", "now", "1", "5-x", "-1-1", datetime(2026, 1, 1), timedelta(1), 7, None],  # noqa: DTZ001
)
async def test_a_place_that_is_none_is_refused(events, to):
    """Nothing is moved on a guess."""
    with pytest.raises(DataError):
        await events.rewind("g", ">", to)


async def test_a_pattern_or_group_that_is_none_is_refused(events):
    """Before anything is sent."""
    with pytest.raises(InvalidEventTypeError):
        await events.rewind("g", "order..", "earliest")
    with pytest.raises(InvalidIdentifierError):
        await events.rewind("a b", ">", "earliest")
