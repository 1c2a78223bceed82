"""delete_newer.lua: a tombstone for every key that holds nothing newer."""

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from mcp_crew_redis._core.scripts import ScriptLoader
from mcp_crew_redis._wire.header import seal, seal_tombstone

KEY, OTHER = b"p:state:{acme}:k", b"p:state:{acme}:other"
FLOOR = b"p:meta:{acme}:floor"
STAMP = 1_763_000_000_000_001
NOW_MS = STAMP // 1_000
TOMBSTONE = seal_tombstone(STAMP, NOW_MS + 60_000)
DELETED, NEWER, DUPLICATE, CONFLICT = 1, 0, 2, 3


@pytest.fixture
async def client(any_server):
    async with redis.asyncio.Redis(**any_server.client_kwargs) as client:
        yield client


@pytest.fixture
def bury(client):
    script = ScriptLoader().load("delete_newer")

    async def bury(*keys, tombstone=TOMBSTONE):
        return await script(client, (*keys, FLOOR), (tombstone, 60_000))

    return bury


async def test_a_live_value_is_replaced_and_told(client, bury):
    """What stood is gone, its tombstone expires."""
    await client.set(KEY, seal(STAMP - 1, b"v", NOW_MS + 1), px=60_000)

    assert await bury(KEY) == [DELETED, STAMP, 1]

    assert await client.get(KEY) == TOMBSTONE
    assert 0 < await client.pttl(KEY) <= 60_000


@pytest.mark.parametrize(
    "held",
    [
        None,
        b"foreign",
        seal_tombstone(STAMP - 1),
    ],
    ids=["nothing", "foreign bytes", "a tombstone"],
)
async def test_where_nothing_lives_a_tombstone_is_left_too(client, bury, held):
    """A late older write must find it, whatever stood there."""
    if held is not None:
        await client.set(KEY, held, px=60_000)

    assert await bury(KEY) == [DELETED, STAMP, 0]

    assert await client.get(KEY) == TOMBSTONE


async def test_a_newer_value_stays(client, bury):
    """The delete is the older write; it learns what to be newer than."""
    newer = seal(STAMP + 5, b"new")
    await client.set(KEY, newer, px=60_000)

    assert await bury(KEY) == [NEWER, STAMP + 5, 1]

    assert await client.get(KEY) == newer


async def test_the_same_delete_again_is_a_duplicate(client, bury):
    """A re-sent delete changes nothing."""
    await client.set(KEY, seal(STAMP - 1, b"v"), px=60_000)
    await bury(KEY)

    assert await bury(KEY) == [DUPLICATE, STAMP, 0]


async def test_another_write_under_its_stamp_is_a_conflict(client, bury):
    """Two writers, one stamp: neither is the newer one."""
    value = seal(STAMP, b"v")
    await client.set(KEY, value, px=60_000)

    assert await bury(KEY) == [CONFLICT, STAMP, 1]

    assert await client.get(KEY) == value


async def test_each_key_gets_its_own_answer(client, bury):
    """Answers come flat, three for each key, in order."""
    await client.set(KEY, seal(STAMP + 5, b"new"), px=60_000)
    await client.set(OTHER, seal(STAMP - 5, b"old"), px=60_000)

    assert await bury(KEY, OTHER) == [NEWER, STAMP + 5, 1, DELETED, STAMP, 1]


async def test_an_error_leaves_every_key_as_it_was(client, bury):
    """A value of a newer format stops the script before its first write."""
    value = seal(STAMP - 1, b"v")
    await client.set(KEY, value, px=60_000)
    await client.set(OTHER, b"\xc7\x20" + bytes(20), px=60_000)

    with pytest.raises(ResponseError, match="newer release"):
        await bury(KEY, OTHER)

    assert await client.get(KEY) == value


async def test_a_hash_is_no_value(client, bury):
    """A counter under the key is not replaced."""
    await client.hset(KEY, "v", "1")
    await client.pexpire(KEY, 60_000)

    with pytest.raises(ResponseError, match=r"WRONGTYPE|wrong kind"):
        await bury(KEY)


async def test_a_delete_of_before_the_purge_leaves_nothing(client, bury):
    """Where nothing stands the floor does."""
    await client.set(FLOOR, STAMP)

    assert await bury(KEY) == [NEWER, STAMP, 0]

    assert await client.exists(KEY) == 0


# --- a server without memory ------------------------------------------------------


async def test_a_full_server_still_deletes(client, bury, exhaust):
    """A value makes way for its tombstone; an absent key's comes along."""
    await client.set(OTHER, seal(STAMP - 5, b"old" * 100), px=60_000)
    exhaust()

    assert await bury(KEY, OTHER) == [DELETED, STAMP, 0, DELETED, STAMP, 1]

    for key in (KEY, OTHER):
        assert await client.get(key) == TOMBSTONE
        assert 0 < await client.pttl(key) <= 60_000


@pytest.mark.parametrize("held", [None, seal(STAMP + 5, b"new")], ids=["absent", "new"])
async def test_a_full_server_buries_nothing_where_nothing_makes_way(
    client, bury, exhaust, held
):
    """OOM, and everything is as it was."""
    if held is not None:
        await client.set(OTHER, held, px=60_000)
    exhaust()

    with pytest.raises(ResponseError, match="maxmemory"):
        await bury(KEY, OTHER)

    assert await client.exists(KEY) == 0
    assert await client.get(OTHER) == held
