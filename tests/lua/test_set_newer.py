"""set_newer.lua: an older write never replaces a newer one."""

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from mcp_crew_redis._core.scripts import (
    NewerOutcome,
    NewerResult,
    ScriptLoader,
    set_newer,
)
from mcp_crew_redis._wire.header import MAX_STAMP, seal, seal_tombstone

KEY, FLOOR = b"p:state:{acme}:k", b"p:meta:{acme}:floor"
STAMP = 1_763_000_000_000_001


@pytest.fixture
async def client(any_server):
    async with redis.asyncio.Redis(**any_server.client_kwargs) as client:
        yield client


@pytest.fixture
def write(client):
    loader = ScriptLoader()

    async def write(value, ttl_ms=60_000):
        return await set_newer(client, loader, KEY, value, ttl_ms=ttl_ms, floor=FLOOR)

    return write


async def test_a_first_write_is_stored_with_its_ttl(client, write):
    """An absent key takes the value and expires."""
    value = seal(STAMP, b"v")

    assert await write(value) == NewerResult(NewerOutcome.STORED, STAMP)

    assert await client.get(KEY) == value
    assert 0 < await client.pttl(KEY) <= 60_000


async def test_a_newer_write_replaces_value_and_ttl(client, write):
    """One microsecond later is later."""
    await write(seal(STAMP, b"old"))

    result = await write(seal(STAMP + 1, b"new"), ttl_ms=5_000)

    assert result == NewerResult(NewerOutcome.STORED, STAMP + 1)
    assert (await client.get(KEY)).endswith(b"new")
    assert await client.pttl(KEY) <= 5_000


async def test_an_older_write_is_refused_and_told_the_newer_stamp(client, write):
    """What stands stays, and the caller learns what to be newer than."""
    newer = seal(STAMP, b"new")
    await write(newer)

    result = await write(seal(STAMP - 1, b"late"))

    assert result == NewerResult(NewerOutcome.NEWER_STANDS, STAMP)
    assert await client.get(KEY) == newer


async def test_the_same_write_again_is_a_duplicate(client, write):
    """A re-sent write changes nothing, not even the time to live."""
    value = seal(STAMP, b"v")
    await write(value, ttl_ms=5_000)

    assert await write(value) == NewerResult(NewerOutcome.DUPLICATE, STAMP)

    assert await client.pttl(KEY) <= 5_000


async def test_other_bytes_under_the_same_stamp_are_a_conflict(client, write):
    """Two writers made the same stamp: the first one stands."""
    first = seal(STAMP, b"first")
    await write(first)

    assert await write(seal(STAMP, b"other")) == (NewerOutcome.CONFLICT, STAMP)

    assert await client.get(KEY) == first


async def test_stamps_are_exact_to_the_last_bit(write):
    """The largest stamp and its neighbour are told apart."""
    await write(seal(MAX_STAMP - 1, b"v"))

    assert await write(seal(MAX_STAMP, b"v")) == (NewerOutcome.STORED, MAX_STAMP)
    refused = await write(seal(MAX_STAMP - 1, b"v"))
    assert refused == (NewerOutcome.NEWER_STANDS, MAX_STAMP)


async def test_a_tombstone_stops_an_older_write(write):
    """A deleted value does not come back by an older write."""
    await write(seal_tombstone(STAMP))

    assert (await write(seal(STAMP - 1, b"v"))).outcome is NewerOutcome.NEWER_STANDS
    assert (await write(seal(STAMP + 1, b"v"))).outcome is NewerOutcome.STORED


@pytest.mark.parametrize(
    "foreign", [b"", b"short", b"a plain value of sixteen or more"]
)
async def test_a_value_without_our_header_counts_as_absent(client, write, foreign):
    """What was never written by this layer has no stamp to respect."""
    await client.set(KEY, foreign)

    assert (await write(seal(STAMP, b"v"))).outcome is NewerOutcome.STORED


async def test_a_value_of_a_newer_format_is_left_alone(client, write):
    """A release that does not understand the header does not write over it."""
    future = b"\xc7\x20" + bytes(20)
    await client.set(KEY, future)

    with pytest.raises(ResponseError, match="newer release"):
        await write(seal(STAMP, b"v"))

    assert await client.get(KEY) == future


async def test_a_key_of_another_type_is_an_error(client, write):
    """A hash under the key is not replaced by a value."""
    await client.hset(KEY, "f", "v")

    with pytest.raises(ResponseError, match=r"WRONGTYPE|wrong kind"):
        await write(seal(STAMP, b"v"))


@pytest.mark.parametrize("ttl_ms", [0, -1])
async def test_a_write_that_does_not_expire_is_refused(client, write, ttl_ms):
    """No time to live, no write."""
    with pytest.raises(ResponseError, match="invalid expire"):
        await write(seal(STAMP, b"v"), ttl_ms=ttl_ms)

    assert await client.exists(KEY) == 0


@pytest.mark.parametrize("behind", [0, 1])
async def test_what_was_purged_does_not_come_back(client, write, behind):
    """Where nothing stands the floor does; what is above it is stored."""
    await client.set(FLOOR, STAMP)

    refused = await write(seal(STAMP - behind, b"late"))

    assert refused == NewerResult(NewerOutcome.NEWER_STANDS, STAMP)
    assert await client.exists(KEY) == 0
    assert (await write(seal(STAMP + 1, b"v"))).outcome is NewerOutcome.STORED


async def test_a_full_server_changes_nothing(client, write, exhaust):
    """OOM; what stood stands."""
    held = seal(STAMP - 1, b"old")
    await client.set(KEY, held, px=60_000)
    exhaust()

    with pytest.raises(ResponseError, match="maxmemory"):
        await write(seal(STAMP, b"v"))

    assert await client.get(KEY) == held
