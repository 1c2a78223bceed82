"""event_park.lua: an entry waits for its next attempt, and no crash loses it."""

import pytest
import redis.asyncio

from tests.lua.event_group import DAY, GROUP, PARKED, STREAM, Bench

pytestmark = pytest.mark.every_server


@pytest.fixture
async def bench(any_server):
    async with redis.asyncio.Redis(**any_server.client_kwargs) as client:
        yield Bench(client)


@pytest.fixture
def park(bench):
    async def park(entry_id, wait_ms=1_000, *, consumer="me"):
        keys = (STREAM, PARKED)
        return await bench.run("event_park", keys, GROUP, consumer, entry_id, wait_ms)

    return park


async def test_an_entry_waits_and_stays_pending(bench, park):
    """Due by the server's clock."""
    (entry_id,) = await bench.fill(1, reader="me")
    before = await bench.now()

    assert await park(entry_id) == 1

    due = await bench.client.zscore(PARKED, bench.member(entry_id))
    assert before + 1_000 <= due <= await bench.now() + 1_000
    pending = await bench.pending()
    assert (pending[entry_id].consumer, pending[entry_id].count) == (b"me", 1)


async def test_parked_twice_the_later_time_counts(bench, park):
    """As if the first call had not been answered."""
    (entry_id,) = await bench.fill(1, reader="me")
    await park(entry_id, 1_000)
    await park(entry_id, 50_000)

    assert await bench.client.zcard(PARKED) == 1
    due = await bench.client.zscore(PARKED, bench.member(entry_id))
    assert due > await bench.now(40_000)


async def test_nobody_elses_entry_is_touched(bench, park):
    """It was taken over: whoever has it decides."""
    (entry_id,) = await bench.fill(1, reader="other")

    assert await park(entry_id) == 0
    assert not await bench.client.exists(PARKED)
    assert (await bench.pending())[entry_id].consumer == b"other"


async def test_what_is_not_pending_does_not_wait(bench, park):
    """Acknowledged, or never delivered."""
    acknowledged, _ = await bench.fill(2, reader="me")
    await bench.client.xack(STREAM, GROUP, acknowledged)
    (undelivered,) = await bench.fill(1)

    assert await park(acknowledged) == 0
    assert await park(undelivered) == 0
    assert not await bench.client.exists(PARKED)


async def test_without_stream_or_group_nothing_waits(bench, park):
    """And neither is made."""
    assert await park(b"1-0") == 0
    await bench.client.xadd(STREAM, {"d": "x"}, id="1-0")
    assert await park(b"1-0") == 0
    assert not await bench.client.exists(PARKED)
    assert await bench.client.xinfo_groups(STREAM) == []


async def test_another_type_under_the_streams_key_is_nobodys(bench, park):
    """There is nothing to wait for."""
    await bench.client.set(STREAM, "x")

    assert await park(b"1-0") == 0


async def test_the_set_outlives_what_waits_longest(bench, park):
    """Seven days and the time until it is due; a shorter one does not shorten it."""
    ids = await bench.fill(2, reader="me")
    await park(ids[0], DAY)
    await park(ids[1], 1_000)

    assert 8 * DAY - 60_000 < await bench.client.pttl(PARKED) <= 8 * DAY


async def test_a_server_without_memory_parks(bench, exhaust, park):
    """Or every call would wait for memory that only handling sets free."""
    (entry_id,) = await bench.fill(1, reader="me")
    exhaust()

    assert await park(entry_id) == 1
    assert await bench.client.zcard(PARKED) == 1
