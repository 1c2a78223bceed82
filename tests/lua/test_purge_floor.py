"""purge_floor.lua: the floor rises to now, and never falls."""

import pytest
import redis.asyncio

from mcp_crew_redis._core.scripts import ScriptLoader

KEY = b"p:meta:{acme}:floor"


@pytest.fixture
async def client(any_server):
    async with redis.asyncio.Redis(**any_server.client_kwargs) as client:
        yield client


@pytest.fixture
def raise_floor(client):
    script = ScriptLoader().load("purge_floor")

    async def raise_floor(stamp=0):
        return await script(client, (KEY,), (stamp,))

    return raise_floor


async def now(client):
    seconds, micros = await client.time()
    return seconds * 1_000_000 + micros


async def test_the_floor_is_the_servers_time(client, raise_floor):
    """Microseconds since 1970, as stamps are; digits under a key that stays."""
    before = await now(client)
    floor = await raise_floor()

    assert before <= floor <= await now(client)
    assert await client.get(KEY) == str(floor).encode()
    assert await client.ttl(KEY) == -1


async def test_the_floor_is_no_lower_than_the_callers_newest_stamp(client, raise_floor):
    """What the caller wrote goes too, although its clock is ahead."""
    ahead = await now(client) + 3_000_000

    assert await raise_floor(ahead) == ahead


async def test_the_floor_never_falls(client, raise_floor):
    """Not even if the server's clock went back."""
    ahead = await now(client) + 60_000_000
    await client.set(KEY, ahead)

    assert await raise_floor() == ahead


async def test_a_floor_that_is_no_number_is_replaced(client, raise_floor):
    """Whatever somebody put there."""
    await client.set(KEY, "text")

    assert await raise_floor() > 0


async def test_a_full_server_still_raises_the_floor(client, raise_floor, exhaust):
    """A purge is what frees its memory."""
    exhaust()

    floor = await raise_floor()

    assert await client.get(KEY) == str(floor).encode()


async def test_a_floor_that_expires_stays(client, raise_floor):
    """Somebody gave it a time to live: it is permanent again."""
    await client.set(KEY, 1, px=60_000)
    await raise_floor()

    assert await client.ttl(KEY) == -1
