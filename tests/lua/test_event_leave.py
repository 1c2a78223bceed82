"""event_leave.lua: who goes takes nothing along."""

import pytest
import redis.asyncio

from tests.lua.event_group import GROUP, STREAM, Bench

pytestmark = pytest.mark.every_server


@pytest.fixture
async def bench(any_server):
    async with redis.asyncio.Redis(**any_server.client_kwargs) as client:
        yield Bench(client)


@pytest.fixture
def leave(bench):
    async def leave(consumer="me"):
        return await bench.run("event_leave", (STREAM,), GROUP, consumer)

    return leave


async def test_who_has_nothing_pending_goes(bench, leave):
    """The others stay."""
    ids = await bench.fill(1, reader="me")
    await bench.client.xack(STREAM, GROUP, *ids)
    await bench.fill(1, reader="other")

    assert await leave() == 1
    assert await bench.consumers() == {b"other"}


async def test_who_has_something_pending_stays(bench, leave):
    """It would be lost: nobody could claim it."""
    (entry_id,) = await bench.fill(1, reader="me")

    assert await leave() == 0
    assert await bench.consumers() == {b"me"}
    assert list(await bench.pending()) == [entry_id]


async def test_what_was_taken_over_does_not_hold(bench, leave):
    """It is pending under another name."""
    ids = await bench.fill(1, reader="me")
    await bench.deliver("other", *ids)

    assert await leave() == 1
    assert list(await bench.pending()) == ids


async def test_twice_and_of_a_stranger_is_harmless(bench, leave):
    """As if the first call had not been answered."""
    await bench.fill(1)

    assert await leave() == 1
    assert await leave("nobody") == 1
    assert await bench.consumers() == set()


async def test_without_stream_or_group_it_is_gone(bench, leave):
    """And neither is made."""
    assert await leave() == 1
    assert not await bench.client.exists(STREAM)
    await bench.client.xadd(STREAM, {"d": "x"})
    assert await leave() == 1
    assert await bench.client.xinfo_groups(STREAM) == []


async def test_another_type_under_the_key_is_no_group(bench, leave):
    """There is nothing to leave."""
    await bench.client.set(STREAM, "x")

    assert await leave() == 1


async def test_a_server_without_memory_lets_go(bench, exhaust, leave):
    """Nothing is needed for it."""
    await bench.fill(1)
    await bench.client.xgroup_createconsumer(STREAM, GROUP, "me")
    exhaust()

    assert await leave() == 1
    assert await bench.consumers() == set()
