"""event_take.lua: what is due is taken once, by whoever asks first."""

import pytest
import redis.asyncio

from tests.lua.event_group import DAY, GROUP, PARKED, STREAM, TALLY, Bench

pytestmark = pytest.mark.every_server


@pytest.fixture
async def bench(any_server):
    async with redis.asyncio.Redis(**any_server.client_kwargs) as client:
        yield Bench(client)


@pytest.fixture
def take(bench):
    async def take(*ids, consumer="new"):
        keys = (STREAM, PARKED, TALLY)
        entries, lost = await bench.run(
            "event_take", keys, GROUP, consumer, b" ".join(ids)
        )
        return entries, lost

    return take


async def test_what_waited_is_taken_and_counted(bench, take):
    """It is the new one's, delivered once more, and waits no longer."""
    ids = await bench.fill(2, reader="old")
    for entry_id in ids:
        await bench.park(entry_id, 0)

    entries, lost = await take(*ids)

    assert entries == [
        [ids[0], [b"m", b"m0", b"d", b"d0"], 2],
        [ids[1], [b"m", b"m1", b"d", b"d1"], 2],
    ]
    assert lost == 0
    pending = await bench.pending()
    assert {(one.consumer, one.count) for one in pending.values()} == {(b"new", 2)}
    assert not await bench.client.exists(PARKED)
    assert await bench.tally() == {b"redelivered": 2}


async def test_the_second_who_asks_gets_nothing(bench, take):
    """Not even what the first has by now."""
    (entry_id,) = await bench.fill(1, reader="old")
    await bench.park(entry_id, 0)
    await take(entry_id, consumer="first")

    assert await take(entry_id, consumer="second") == ([], 0)
    assert (await bench.pending())[entry_id].consumer == b"first"


async def test_what_does_not_wait_is_not_taken(bench, take):
    """It is somebody's work."""
    ids = await bench.fill(2, reader="old")
    await bench.park(ids[0], 0)

    entries, _ = await take(*ids)

    assert [entry[0] for entry in entries] == ids[:1]
    assert (await bench.pending())[ids[1]].consumer == b"old"


async def test_what_was_acknowledged_meanwhile_is_dropped(bench, take):
    """By a handler that had lost it: it has been done all the same."""
    (entry_id,) = await bench.fill(1, reader="old")
    await bench.park(entry_id, 0)
    await bench.client.xack(STREAM, GROUP, entry_id)

    assert await take(entry_id) == ([], 0)
    assert not await bench.client.exists(PARKED)
    assert await bench.tally() == {}


async def test_what_was_trimmed_is_lost_and_leaves_the_group(bench, take):
    """Counted once."""
    ids = await bench.fill(2, reader="old")
    for entry_id in ids:
        await bench.park(entry_id, 0)
    await bench.client.xdel(STREAM, ids[0])

    entries, lost = await take(*ids)

    assert ([entry[0] for entry in entries], lost) == (ids[1:], 1)
    assert list(await bench.pending()) == ids[1:]
    assert await bench.tally() == {b"lost": 1, b"redelivered": 1}


async def test_without_stream_or_group_the_set_is_cleared(bench, take):
    """They were deleted; neither comes back."""
    (entry_id,) = await bench.fill(1, reader="old")
    await bench.park(entry_id, 0)
    await bench.client.xgroup_destroy(STREAM, GROUP)
    assert await take(entry_id) == ([], 0)

    await bench.park(entry_id, 0)
    await bench.client.delete(STREAM)
    assert await take(entry_id) == ([], 0)
    assert not await bench.client.exists(PARKED, STREAM)


async def test_another_type_under_the_streams_key_is_nothing(bench, take):
    """What waited for it cannot come any more."""
    await bench.park(b"1-0", 0)
    await bench.client.set(STREAM, "x")

    assert await take(b"1-0") == ([], 0)
    assert not await bench.client.exists(PARKED)


async def test_the_tally_expires(bench, take):
    """After 30 days."""
    (entry_id,) = await bench.fill(1, reader="old")
    await bench.park(entry_id, 0)
    await take(entry_id)

    assert 30 * DAY - 60_000 < await bench.client.pttl(TALLY) <= 30 * DAY


async def test_a_thousand_at_once(bench, take):
    """The most that is asked for."""
    ids = await bench.fill(1_000, reader="old")
    await bench.client.zadd(PARKED, {bench.member(entry_id): 0 for entry_id in ids})

    entries, lost = await take(*ids)

    assert (len(entries), lost) == (1_000, 0)


async def test_a_server_without_memory_gives_what_is_due(bench, exhaust, take):
    """Draining is what it needs."""
    (entry_id,) = await bench.fill(1, reader="old")
    await bench.park(entry_id, 0)
    exhaust()

    entries, _ = await take(entry_id)

    assert [entry[0] for entry in entries] == [entry_id]
