"""event_hold.lua: signs of life, and how entries are let go."""

import pytest
import redis.asyncio

from tests.lua.event_group import GROUP, STREAM, Bench

pytestmark = pytest.mark.every_server

MINUTE = 60_000


@pytest.fixture
async def bench(any_server):
    async with redis.asyncio.Redis(**any_server.client_kwargs) as client:
        yield Bench(client)


@pytest.fixture
def hold(bench):
    async def hold(*ids, idle=0, bump=0, consumer="me"):
        args = (GROUP, consumer, idle, bump, b" ".join(ids))
        return await bench.run("event_hold", (STREAM,), *args)

    return hold


async def age(bench, *ids, idle=MINUTE):
    """Make entries look as if they had been left alone, and uncounted."""
    await bench.client.xclaim(
        STREAM, GROUP, "me", 0, list(ids), idle=idle, retrycount=1, justid=True
    )


async def test_a_sign_of_life_makes_young(bench, hold):
    """Nobody takes it over; no delivery is counted."""
    ids = await bench.fill(2, reader="me")
    await age(bench, *ids)

    assert await hold(*ids) == []

    for one in (await bench.pending()).values():
        assert one.idle < MINUTE / 2
        assert (one.consumer, one.count) == (b"me", 1)


async def test_an_entry_can_be_let_go(bench, hold):
    """As old as others wait for: they may have it at once."""
    (entry_id,) = await bench.fill(1, reader="me")

    assert await hold(entry_id, idle=MINUTE) == []
    assert (await bench.pending())[entry_id].idle >= MINUTE


@pytest.mark.parametrize(("bump", "count"), [(1, 2), (0, 1), (-1, 0)])
async def test_deliveries_are_changed_by_what_is_said(bench, hold, bump, count):
    """One more, as they were, or one fewer."""
    (entry_id,) = await bench.fill(1, reader="me")

    assert await hold(entry_id, bump=bump) == []
    assert (await bench.pending())[entry_id].count == count


async def test_deliveries_are_never_below_zero(bench, hold):
    """Given back twice, as if the first call had not been answered."""
    (entry_id,) = await bench.fill(1, reader="me")
    await hold(entry_id, bump=-1)
    await hold(entry_id, bump=-1)

    assert (await bench.pending())[entry_id].count == 0


async def test_what_was_taken_over_is_told_and_left_alone(bench, hold):
    """The new owner's time and count stay as they are."""
    mine, theirs = await bench.fill(2, reader="me")
    await bench.client.xclaim(STREAM, GROUP, "other", 0, [theirs], idle=MINUTE)

    assert await hold(mine, theirs, bump=1) == [theirs]

    pending = await bench.pending()
    assert (pending[theirs].consumer, pending[theirs].count) == (b"other", 2)
    assert pending[theirs].idle >= MINUTE
    assert pending[mine].count == 2


async def test_what_was_acknowledged_is_told(bench, hold):
    """And it does not come back."""
    (entry_id,) = await bench.fill(1, reader="me")
    await bench.client.xack(STREAM, GROUP, entry_id)

    assert await hold(entry_id) == [entry_id]
    assert await bench.pending() == {}


async def test_without_stream_or_group_everything_is_gone(bench, hold):
    """And neither is made."""
    assert await hold(b"1-0", b"2-0") == [b"1-0", b"2-0"]
    await bench.client.xadd(STREAM, {"d": "x"})
    assert await hold(b"1-0") == [b"1-0"]
    assert await bench.client.xinfo_groups(STREAM) == []


async def test_another_type_under_the_key_is_gone_too(bench, hold):
    """An owner has nothing there."""
    await bench.client.set(STREAM, "x")

    assert await hold(b"1-0") == [b"1-0"]


async def test_a_thousand_at_once(bench, hold):
    """The most that is asked for."""
    ids = await bench.fill(1_000, reader="me")

    assert await hold(*ids, bump=1) == []
    assert {one.count for one in (await bench.pending()).values()} == {2}


async def test_a_server_without_memory_lets_hold(bench, exhaust, hold):
    """Or others would take over what is worked on."""
    (entry_id,) = await bench.fill(1, reader="me")
    exhaust()

    assert await hold(entry_id) == []
