"""set_newer_many.lua: every pair is judged as set_newer.lua judges one."""

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from mcp_crew_redis._core.scripts import ScriptLoader
from mcp_crew_redis._wire.header import seal

KEYS = [f"p:state:{{acme}}:{n}".encode() for n in range(4)]
FLOOR = b"p:meta:{acme}:floor"
STAMP = 1_763_000_000_000_001
NEWER, STORED, DUPLICATE, CONFLICT = 0, 1, 2, 3


@pytest.fixture
async def client(any_server):
    async with redis.asyncio.Redis(**any_server.client_kwargs) as client:
        yield client


@pytest.fixture
def write(client):
    script = ScriptLoader().load("set_newer_many")

    async def write(pairs):
        args = [argument for value in pairs.values() for argument in (value, 60_000)]
        return await script(client, [*pairs, FLOOR], args)

    return write


async def test_each_key_is_judged_by_its_own_stamp(client, write):
    """One newer, one stored, one the same, one in conflict."""
    newer, same, other = seal(STAMP + 9, b"n"), seal(STAMP, b"s"), seal(STAMP, b"o")
    for key, held in zip(KEYS, (newer, None, same, other), strict=True):
        if held is not None:
            await client.set(key, held, px=60_000)
    mine = [seal(STAMP, b"m"), seal(STAMP, b"m"), same, seal(STAMP, b"m")]

    answer = await write(dict(zip(KEYS, mine, strict=True)))

    assert answer[::2] == [NEWER, STORED, DUPLICATE, CONFLICT]
    assert answer[1::2] == [STAMP + 9, STAMP, STAMP, STAMP]
    assert await client.mget(KEYS) == [newer, mine[1], same, other]


async def test_what_is_stored_expires(client, write):
    """Each with the time of its own pair."""
    await write({KEYS[0]: seal(STAMP, b"v")})

    assert 0 < await client.pttl(KEYS[0]) <= 60_000


async def test_foreign_bytes_count_as_absent(client, write):
    """What has no stamp stands in nobody's way."""
    await client.set(KEYS[0], b"foreign", px=60_000)

    assert await write({KEYS[0]: seal(STAMP, b"v")}) == [STORED, STAMP]


async def test_an_error_leaves_every_key_as_it_was(client, write):
    """All headers are read before the first write."""
    await client.set(KEYS[1], b"\xc7\x20" + bytes(20), px=60_000)

    with pytest.raises(ResponseError, match="newer release"):
        await write({KEYS[0]: seal(STAMP, b"v"), KEYS[1]: seal(STAMP, b"v")})

    assert await client.get(KEYS[0]) is None


async def test_what_was_purged_does_not_come_back(client, write):
    """Where nothing stands the floor does; other keys are not concerned."""
    await client.set(FLOOR, STAMP)
    await client.set(KEYS[1], seal(STAMP + 1, b"v"), px=60_000)

    pairs = {KEYS[0]: STAMP, KEYS[1]: STAMP + 2, KEYS[2]: STAMP + 1}
    answer = await write({key: seal(stamp, b"v") for key, stamp in pairs.items()})

    assert answer == [NEWER, STAMP, STORED, STAMP + 2, STORED, STAMP + 1]
    assert await client.exists(KEYS[0]) == 0


async def test_a_full_server_changes_nothing(client, write, exhaust):
    """OOM; not one of the pairs is stored."""
    held = seal(STAMP - 1, b"old")
    await client.set(KEYS[1], held, px=60_000)
    exhaust()

    with pytest.raises(ResponseError, match="maxmemory"):
        await write(dict.fromkeys(KEYS, seal(STAMP, b"v")))

    assert await client.mget(KEYS) == [None, held, None, None]
