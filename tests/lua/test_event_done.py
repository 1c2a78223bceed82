"""event_done.lua: acknowledged and remembered are one step."""

import pytest
import redis.asyncio

from tests.lua.event_group import DAY, GROUP, STREAM, Bench

pytestmark = pytest.mark.every_server


@pytest.fixture
async def bench(any_server):
    async with redis.asyncio.Redis(**any_server.client_kwargs) as client:
        yield Bench(client)


def seen(number):
    """Return the key that remembers an event."""
    return b"p:event:{acme}:seen:g:%d" % number


@pytest.fixture
def done(bench):
    async def done(*ids, ttl=DAY):
        keys = (STREAM, *map(seen, range(len(ids))))
        return await bench.run("event_done", keys, GROUP, ttl, *ids)

    return done


async def test_entries_are_acknowledged_and_remembered(bench, done):
    """Each under its own key, for as long as is said."""
    ids = await bench.fill(3, reader="me")

    assert await done(*ids[:2]) == 2

    assert list(await bench.pending()) == ids[2:]
    assert await bench.client.exists(seen(0), seen(1)) == 2
    for number in range(2):
        assert DAY - 60_000 < await bench.client.pttl(seen(number)) <= DAY


async def test_what_was_not_pending_is_remembered_too(bench, done):
    """It was handled, whoever else had it meanwhile."""
    ids = await bench.fill(2, reader="me")
    await bench.client.xack(STREAM, GROUP, ids[0])

    assert await done(*ids) == 1
    assert await bench.client.exists(seen(0), seen(1)) == 2


async def test_twice_is_harmless(bench, done):
    """As if the first call had not been answered; it is remembered from then on."""
    ids = await bench.fill(1, reader="me")
    await done(*ids, ttl=1_000)

    assert await done(*ids) == 0
    assert await bench.client.pttl(seen(0)) > 1_000


async def test_of_a_missing_stream_or_group_it_is_remembered(bench, done):
    """A repetition of the event may come in another stream."""
    assert await done(b"1-0") == 0
    assert await bench.client.exists(seen(0))
    assert not await bench.client.exists(STREAM)


async def test_five_hundred_at_once(bench, done):
    """The most that is asked for."""
    ids = await bench.fill(500, reader="me")

    assert await done(*ids) == 500
    assert await bench.pending() == {}


async def test_another_type_under_the_streams_key_is_an_error(bench, done):
    """And it stays as it is."""
    await bench.client.set(STREAM, "x")

    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        await done(b"1-0")
    assert await bench.client.get(STREAM) == b"x"


async def test_a_server_without_memory_lets_go(bench, exhaust, done):
    """Draining is what it needs."""
    ids = await bench.fill(2, reader="me")
    exhaust()

    assert await done(*ids) == 2
    assert await bench.client.exists(seen(0), seen(1)) == 2
