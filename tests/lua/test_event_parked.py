"""event_parked.lua: what is due, and when the next will be."""

import pytest
import redis.asyncio

from tests.lua.event_group import PARKED, Bench

pytestmark = pytest.mark.every_server


@pytest.fixture
async def bench(any_server):
    async with redis.asyncio.Redis(**any_server.client_kwargs) as client:
        yield Bench(client)


@pytest.fixture
def parked(bench):
    async def parked(count=64):
        return await bench.run("event_parked", (PARKED,), count)

    return parked


async def test_nothing_waits(parked):
    """And nothing will."""
    assert await parked() == [[], -1]


async def test_what_is_due_is_given_oldest_first(bench, parked):
    """And stays where it is: `event_take` takes it."""
    await bench.park(b"2-0", -1_000)
    await bench.park(b"1-0", -2_000)
    await bench.park(b"3-0", 0)

    members, wait_ms = await parked()

    assert members == [bench.member(name) for name in (b"1-0", b"2-0", b"3-0")]
    assert wait_ms == -1
    assert await bench.client.zcard(PARKED) == 3


async def test_what_is_not_due_tells_how_long_it_takes(bench, parked):
    """In milliseconds of the server."""
    await bench.park(b"1-0", 60_000)
    await bench.park(b"2-0", 90_000)

    members, wait_ms = await parked()

    assert members == []
    assert 50_000 < wait_ms <= 60_000


async def test_both_at_once(bench, parked):
    """The first that is not due counts, whatever is."""
    await bench.park(b"1-0", -1)
    await bench.park(b"2-0", 60_000)

    members, wait_ms = await parked()

    assert members == [bench.member(b"1-0")]
    assert 50_000 < wait_ms <= 60_000


async def test_no_more_than_asked_for(bench, parked):
    """The others come with the next call."""
    for number in range(5):
        await bench.park(b"%d-0" % number, -5 + number)

    members, wait_ms = await parked(count=2)

    assert members == [bench.member(b"0-0"), bench.member(b"1-0")]
    assert wait_ms == -1


async def test_another_type_under_the_key_is_an_error(bench, parked):
    """Told as what it is."""
    await bench.client.set(PARKED, "x")

    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        await parked()
