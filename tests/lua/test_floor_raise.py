"""floor_raise.lua: a floor that a server lost stands again, and no higher."""

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from mcp_crew_redis._core.scripts import ScriptLoader

FLOOR = b"p:meta:{acme}:floor"
STAMP = 1_763_000_000_000_001

pytestmark = pytest.mark.every_server


@pytest.fixture
async def client(any_server):
    async with redis.asyncio.Redis(**any_server.client_kwargs) as client:
        yield client


@pytest.fixture
def restore(client):
    script = ScriptLoader().load("floor_raise")

    async def restore(stamp):
        script.check((FLOOR,), (stamp,))
        return await client.eval(script.source, 1, FLOOR, stamp)

    return restore


async def test_a_lost_floor_stands_again(client, restore):
    """As it was, to the microsecond, and for good."""
    assert await restore(STAMP) == STAMP

    assert await client.get(FLOOR) == b"%d" % STAMP
    assert await client.ttl(FLOOR) == -1


async def test_a_higher_floor_stays(client, restore):
    """A later purge counts."""
    await client.set(FLOOR, STAMP + 1)

    assert await restore(STAMP) == STAMP + 1

    assert await client.get(FLOOR) == b"%d" % (STAMP + 1)


async def test_a_lower_floor_is_raised(client, restore):
    """What the purge before the lost one had left."""
    await client.set(FLOOR, STAMP - 1)

    assert await restore(STAMP) == STAMP

    assert await client.get(FLOOR) == b"%d" % STAMP


async def test_twice_is_as_once(client, restore):
    """A repetition changes nothing."""
    await restore(STAMP)

    assert await restore(STAMP) == STAMP

    assert await client.get(FLOOR) == b"%d" % STAMP


async def test_it_purges_nothing_new(client, restore):
    """Unlike a purge it does not look at the time: writes since then stay valid."""
    await restore(5)

    assert await client.get(FLOOR) == b"5"


async def test_what_is_no_floor_is_replaced(client, restore):
    """Nobody of ours wrote that."""
    await client.set(FLOOR, b"nonsense")

    assert await restore(STAMP) == STAMP

    assert await client.get(FLOOR) == b"%d" % STAMP


async def test_another_type_under_the_key_is_left_alone(client, restore):
    """An error, and nothing changed."""
    await client.rpush(FLOOR, b"x")

    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await restore(STAMP)

    assert await client.lrange(FLOOR, 0, -1) == [b"x"]


async def test_the_largest_stamp_is_exact(client, restore):
    """No digit gets lost in Lua."""
    largest = 2**53 - 1

    await restore(largest)

    assert await client.get(FLOOR) == b"%d" % largest


async def test_a_server_without_memory_takes_a_floor(client, exhaust, restore):
    """As the purge itself was taken: a purged tenant must not come back."""
    exhaust()

    assert await restore(STAMP) == STAMP

    assert await client.get(FLOOR) == b"%d" % STAMP
