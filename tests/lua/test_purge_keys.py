"""purge_keys.lua: what is not newer than the floor goes."""

import pytest
import redis.asyncio

from mcp_crew_redis._core.scripts import ScriptLoader
from mcp_crew_redis._wire.header import seal, seal_tombstone

FLOOR = 1_763_000_000_000_000


def key(name):
    return f"p:state:{{acme}}:{name}".encode()


@pytest.fixture
async def client(any_server):
    async with redis.asyncio.Redis(**any_server.client_kwargs) as client:
        yield client


@pytest.fixture
def purge(client):
    script = ScriptLoader().load("purge_keys")

    async def purge(*names):
        return await script(client, [key(name) for name in names], (FLOOR,))

    return purge


async def test_values_up_to_the_floor_go_and_newer_ones_stay(client, purge):
    """The floor itself is old."""
    for name, stamp in (("old", FLOOR - 1), ("same", FLOOR), ("new", FLOOR + 1)):
        await client.set(key(name), seal(stamp, b"v"), ex=60)

    assert await purge("old", "same", "new") == [2, 1]
    assert await client.exists(key("old"), key("same"), key("new")) == 1
    assert await client.exists(key("new")) == 1


async def test_tombstones_go_and_stay_as_values_do(client, purge):
    """A delete after the purge is remembered."""
    await client.set(key("old"), seal_tombstone(FLOOR), ex=60)
    await client.set(key("new"), seal_tombstone(FLOOR + 1), ex=60)

    assert await purge("old", "new") == [1, 1]


async def test_what_has_no_stamp_goes(client, purge):
    """Hashes, short strings, foreign bytes."""
    await client.hset(key("hash"), "f", "v")
    await client.set(key("short"), "v")
    await client.set(key("foreign"), "x" * 40)

    assert await purge("hash", "short", "foreign") == [3, 0]
    assert await client.dbsize() == 0


async def test_what_is_gone_already_counts_as_neither(purge):
    """A purge that is repeated says how much it did."""
    assert await purge("absent") == [0, 0]
    assert await purge() == [0, 0]


async def test_a_full_server_is_emptied(client, purge, exhaust):
    """That is how its memory comes back."""
    await client.set(key("old"), seal(FLOOR, b"v"), ex=60)
    exhaust()

    assert await purge("old") == [1, 0]
