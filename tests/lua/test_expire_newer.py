"""expire_newer.lua: another time to live is a write like any other."""

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from mcp_crew_redis._core.scripts import ScriptLoader
from mcp_crew_redis._wire.header import seal, seal_tombstone

KEY, FLOOR = b"p:state:{acme}:k", b"p:meta:{acme}:floor"
STAMP = 1_763_000_000_000_001
NOW_MS = STAMP // 1_000
HEADER = seal(STAMP, b"", NOW_MS + 5_000)
DONE, NEWER, DUPLICATE, CONFLICT, ABSENT, FOREIGN = 1, 0, 2, 3, 4, 5


@pytest.fixture
async def client(any_server):
    async with redis.asyncio.Redis(**any_server.client_kwargs) as client:
        yield client


@pytest.fixture
def expire(client):
    script = ScriptLoader().load("expire_newer")

    async def expire():
        return await script(client, (KEY, FLOOR), (HEADER, 5_000))

    return expire


async def test_header_and_time_to_live_change_together(client, expire):
    """The payload stays, the header tells the new expiry."""
    await client.set(KEY, seal(STAMP - 1, b"payload", NOW_MS + 1), px=60_000)

    assert await expire() == [DONE, STAMP]

    assert await client.get(KEY) == HEADER + b"payload"
    assert 0 < await client.pttl(KEY) <= 5_000


async def test_the_same_again_is_a_duplicate(client, expire):
    """A re-sent call changes nothing."""
    await client.set(KEY, seal(STAMP - 1, b"v"), px=60_000)
    await expire()

    assert await expire() == [DUPLICATE, STAMP]


async def test_a_tombstone_stays_as_it_is(client, expire):
    """Nothing is brought back by giving it more time."""
    held = seal_tombstone(STAMP - 1)
    await client.set(KEY, held, px=60_000)

    assert await expire() == [ABSENT, STAMP - 1]

    assert await client.get(KEY) == held


async def test_an_absent_key_stays_absent(client, expire):
    """No value, no key."""
    assert await expire() == [ABSENT, 0]

    assert await client.exists(KEY) == 0


@pytest.mark.parametrize("held", [b"short", b"a plain value of sixteen or more"])
async def test_foreign_bytes_are_not_touched(client, expire, held):
    """Sixteen bytes written into them would destroy them."""
    await client.set(KEY, held, px=60_000)

    assert await expire() == [FOREIGN, 0]

    assert await client.get(KEY) == held


@pytest.mark.parametrize(("stamp", "outcome"), [(STAMP + 1, NEWER), (STAMP, CONFLICT)])
async def test_a_value_that_is_not_older_stays(client, expire, stamp, outcome):
    """The caller learns what to be newer than."""
    held = seal(stamp, b"v")
    await client.set(KEY, held, px=60_000)

    assert await expire() == [outcome, stamp]

    assert await client.get(KEY) == held


async def test_a_value_of_a_newer_format_is_left_alone(client, expire):
    """Its header may be longer than ours."""
    await client.set(KEY, b"\xc7\x20" + bytes(20), px=60_000)

    with pytest.raises(ResponseError, match="newer release"):
        await expire()


async def test_what_is_to_be_purged_is_absent(client, expire):
    """A newer header would take it out of the purge's way."""
    value = seal(STAMP - 2, b"v")
    await client.set(KEY, value, px=60_000)
    await client.set(FLOOR, STAMP - 1)

    assert await expire() == [ABSENT, STAMP - 2]

    assert await client.get(KEY) == value


async def test_a_full_server_still_gives_another_time(client, expire, exhaust):
    """A shorter life is what a full server needs; header and time change together."""
    await client.set(KEY, seal(STAMP - 1, b"payload", NOW_MS + 1), px=60_000)
    exhaust()

    assert await expire() == [DONE, STAMP]

    assert await client.get(KEY) == HEADER + b"payload"
    assert 0 < await client.pttl(KEY) <= 5_000
