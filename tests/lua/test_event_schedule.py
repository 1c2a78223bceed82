"""event_schedule.lua: a delayed event waits once, bounded, and with what it needs."""

import msgpack
import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from mcp_crew_redis._core.scripts import ScriptLoader

SCHEDULED, BODIES = b"p:events:{acme}:scheduled", b"p:event:{acme}:scheduled"
MARK, FLOOR = b"p:event:{acme}:mark:e1", b"p:meta:{acme}:floor"
STREAM = b"p:events:{acme}:order.paid:normal"
KEYS = SCHEDULED, BODIES, MARK, FLOOR, STREAM
ADDED, DUPLICATE, PURGED, FULL = 1, 2, 0, 3
WEEK = 7 * 86_400_000

pytestmark = pytest.mark.every_server


@pytest.fixture
async def client(any_server):
    async with redis.asyncio.Redis(**any_server.client_kwargs) as client:
        yield client


@pytest.fixture
async def now_ms(client):
    seconds, fraction = await client.time()
    return seconds * 1_000 + fraction // 1_000


@pytest.fixture
def schedule(client):
    script = ScriptLoader().load("event_schedule")

    async def schedule(
        name=b"e1", delay_ms=10_000, *, body=b"d", limit=100, mark_ms=0, made_us=0
    ):
        args = (name, b"m\x00", body, delay_ms, limit, mark_ms, made_us)
        script.check(KEYS, args)
        return await client.eval(script.source, len(KEYS), *KEYS, *args)

    return schedule


async def test_an_event_waits_for_the_servers_time(client, now_ms, schedule):
    """By its id, due that many milliseconds from now."""
    outcome, due = await schedule(delay_ms=10_000)

    assert outcome == ADDED
    assert now_ms + 10_000 <= due <= now_ms + 15_000
    assert await client.zscore(SCHEDULED, b"e1") == due


async def test_its_body_holds_all_that_an_entry_needs(client, schedule):
    """Key of the stream, envelope and payload, byte for byte."""
    body = bytes(range(256)) * 300
    await schedule(body=body)

    raw = await client.hget(BODIES, b"e1")
    stored = msgpack.unpackb(raw, raw=True)

    assert stored == [STREAM, b"m\x00", body]


async def test_what_waits_expires_a_week_after_the_last_due_time(client, schedule):
    """An earlier one that comes later does not shorten that."""
    await schedule(b"late", delay_ms=1_000_000)
    await schedule(b"soon", delay_ms=1_000)

    for key in (SCHEDULED, BODIES):
        assert WEEK + 990_000 < await client.pttl(key) <= WEEK + 1_000_000


async def test_an_id_waits_once(client, schedule):
    """The first one stays, with its time."""
    _, due = await schedule(delay_ms=10_000, body=b"first")

    assert await schedule(delay_ms=99_000, body=b"second") == [DUPLICATE, b"-"]

    assert await client.zscore(SCHEDULED, b"e1") == due
    assert b"first" in await client.hget(BODIES, b"e1")


async def test_without_a_mark_nothing_is_remembered(client, schedule):
    """Whoever asks for one gets one that outlives the delay."""
    await schedule(b"e1", mark_ms=0)
    assert await client.exists(MARK) == 0

    await schedule(b"e2", delay_ms=10_000, mark_ms=60_000)

    assert await client.get(MARK) == b"-"
    assert 69_000 < await client.pttl(MARK) <= 70_000


async def test_a_marked_id_is_known_after_its_time(client, schedule):
    """The mark tells where it was published, as far as that is known."""
    await client.set(MARK, b"17-0", px=60_000)

    assert await schedule(mark_ms=1_000) == [DUPLICATE, b"17-0"]

    assert await client.pttl(MARK) > 50_000  # never shortened
    assert await client.exists(SCHEDULED, BODIES) == 0


async def test_as_many_wait_as_may(client, schedule):
    """One more changes nothing; a known one is told apart from it."""
    await schedule(b"e1", limit=2)
    await schedule(b"e2", limit=2)

    assert await schedule(b"e3", limit=2, mark_ms=60_000) == [FULL, 2]
    assert await schedule(b"e2", limit=2) == [DUPLICATE, b"-"]

    assert await client.zcard(SCHEDULED) == await client.hlen(BODIES) == 2
    assert await client.exists(MARK) == 0


async def test_the_delay_counts_from_when_it_was_made(client, now_ms, schedule):
    """Also where it arrives late: then it is due at once."""
    made_us = (now_ms - 60_000) * 1_000 + 999

    outcome, due = await schedule(delay_ms=10_000, made_us=made_us)

    assert (outcome, due) == (ADDED, now_ms - 50_000)


async def test_what_was_made_before_a_purge_is_refused(client, now_ms, schedule):
    """It must not come back."""
    await client.set(FLOOR, now_ms * 1_000)

    reply = await schedule(made_us=now_ms * 1_000)

    assert reply == [PURGED, b"%d" % (now_ms * 1_000)]
    assert await client.exists(SCHEDULED, BODIES, MARK) == 0


async def test_a_live_one_looks_at_no_floor(client, schedule):
    """Its caller is here."""
    await client.set(FLOOR, 2**60)

    assert (await schedule())[0] == ADDED


async def test_a_server_without_memory_refuses_and_changes_nothing(
    client, exhaust, schedule
):
    """OOM is an answer to the caller."""
    exhaust()

    with pytest.raises(ResponseError, match=r"OOM|maxmemory"):
        await schedule(mark_ms=1_000)

    assert await client.exists(SCHEDULED, BODIES, MARK) == 0
