"""sync_merge.lua: what waited lands unless something newer stands, or did."""

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from mcp_crew_redis._core.scripts import ScriptLoader
from mcp_crew_redis._wire.header import MAX_STAMP, seal, seal_tombstone
from mcp_crew_redis.store.landing import (
    APPLIED,
    DUPLICATE,
    FORGOTTEN,
    NEWER,
    OTHER,
    OVER,
    PURGED,
)

KEY, FLOOR = b"p:state:{acme}:k", b"p:meta:{acme}:floor"
HOUR = 3_600_000_000
DAY = 24 * HOUR

pytestmark = pytest.mark.every_server


@pytest.fixture
async def client(any_server):
    async with redis.asyncio.Redis(**any_server.client_kwargs) as client:
        yield client


@pytest.fixture
async def now(client):
    """The server's time in microseconds."""
    seconds, fraction = await client.time()
    return seconds * 1_000_000 + fraction


@pytest.fixture
def merge(client, now):
    script = ScriptLoader().load("sync_merge")

    async def merge(value, *, ends_us=None, memory_us=DAY):
        ends_ms = (now + HOUR if ends_us is None else ends_us) // 1_000
        args = (value, ends_ms, memory_us)
        script.check((KEY, FLOOR), args)
        return await client.eval(script.source, 2, KEY, FLOOR, *args)

    return merge


async def test_what_waited_lands_where_nothing_stands(client, now, merge):
    """With the end that it had from the beginning, not one counted from now."""
    value = seal(now - HOUR, b"v")

    assert await merge(value, ends_us=now + 5_000_000) == [APPLIED, now - HOUR]

    assert await client.get(KEY) == value
    assert 4_000 < await client.pttl(KEY) <= 5_000


async def test_what_waited_replaces_what_is_older(client, now, merge):
    """One microsecond later is later."""
    await client.set(KEY, seal(now - 1, b"old"))

    assert await merge(seal(now, b"new")) == [APPLIED, now]

    assert (await client.get(KEY)).endswith(b"new")
    assert await client.pttl(KEY) > 0


async def test_what_is_newer_stays(client, now, merge):
    """Whoever wrote later elsewhere is kept, and its stamp told."""
    newer = seal(now, b"theirs")
    await client.set(KEY, newer, px=60_000)

    assert await merge(seal(now - 1, b"ours")) == [NEWER, now]

    assert await client.get(KEY) == newer


async def test_a_newer_tombstone_stays(client, now, merge):
    """What was deleted since does not come back."""
    grave = seal_tombstone(now, 9)
    await client.set(KEY, grave, px=60_000)

    assert await merge(seal(now - 1, b"ours")) == [NEWER, now]

    assert await client.get(KEY) == grave


async def test_a_tombstone_lands_over_what_is_older(client, now, merge):
    """A delete is a write."""
    await client.set(KEY, seal(now - 1, b"old"), px=60_000)
    grave = seal_tombstone(now, now // 1_000 + 60_000)

    assert await merge(grave) == [APPLIED, now]

    assert await client.get(KEY) == grave


async def test_the_same_again_changes_nothing(client, now, merge):
    """Neither bytes nor the time to live: only the answer had been lost."""
    value = seal(now, b"v")
    await merge(value, ends_us=now + 5_000_000)

    assert await merge(value) == [DUPLICATE, now]

    assert await client.pttl(KEY) <= 5_000


async def test_other_bytes_under_the_same_stamp_stay(client, now, merge):
    """Two writers made one stamp: what stands, stands."""
    theirs = seal(now, b"theirs")
    await client.set(KEY, theirs, px=60_000)

    assert await merge(seal(now, b"ours")) == [OTHER, now]

    assert await client.get(KEY) == theirs


async def test_what_is_over_is_not_written(client, now, merge):
    """A value whose own time has passed must not live again for a moment."""
    assert await merge(seal(now - HOUR, b"v"), ends_us=now - 1_000) == [
        OVER,
        now - HOUR,
    ]

    assert await client.exists(KEY) == 0


async def test_what_is_over_removes_nothing(client, now, merge):
    """What is older and still lives was to be replaced, by something that is over."""
    older = seal(now - 2 * HOUR, b"older")
    await client.set(KEY, older, px=60_000)

    outcome, _ = await merge(seal(now - HOUR, b"v"), ends_us=now - 1_000)

    assert outcome == OVER
    assert await client.get(KEY) == older


async def test_a_duplicate_that_is_over_is_a_duplicate(client, now, merge):
    """It had landed: that is the better news."""
    value = seal(now - HOUR, b"v")
    await client.set(KEY, value, px=60_000)

    assert await merge(value, ends_us=now - 1_000) == [DUPLICATE, now - HOUR]


@pytest.mark.parametrize("above", [0, 1])
async def test_a_purged_tenant_does_not_come_back(client, now, merge, above):
    """Not even over something older, and not at the floor itself."""
    await client.set(FLOOR, now + above)
    await client.set(KEY, seal(now - 1, b"left"), px=60_000)

    assert await merge(seal(now, b"v")) == [PURGED, now + above]

    assert (await client.get(KEY)).endswith(b"left")


async def test_what_was_written_after_a_purge_lands(client, now, merge):
    """One microsecond above the floor is enough."""
    await client.set(FLOOR, now - 1)

    assert await merge(seal(now, b"v")) == [APPLIED, now]


async def test_what_is_too_old_to_tell_is_left_to_its_owner(client, now, merge):
    """Nothing stands, and a tombstone would be gone by now."""
    value = seal(now - DAY - 1_000_000, b"v")

    assert await merge(value) == [FORGOTTEN, now - DAY - 1_000_000]

    assert await client.exists(KEY) == 0


async def test_old_age_does_not_matter_where_something_stands(client, now, merge):
    """An older value was not deleted since: no tombstone can be missing."""
    await client.set(KEY, seal(now - 3 * DAY, b"older"), px=60_000)

    outcome, _ = await merge(seal(now - 2 * DAY, b"v"))

    assert outcome == APPLIED


async def test_an_owner_can_insist(client, now, merge):
    """With a memory beyond all time."""
    outcome, _ = await merge(seal(now - 30 * DAY, b"v"), memory_us=MAX_STAMP)

    assert outcome == APPLIED


@pytest.mark.parametrize("foreign", [b"", b"x", b"nothing of ours at all"])
async def test_foreign_bytes_count_as_absent(client, now, merge, foreign):
    """As in set_newer.lua."""
    await client.set(KEY, foreign)

    assert await merge(seal(now, b"v")) == [APPLIED, now]


async def test_a_newer_format_is_left_alone(client, now, merge):
    """A newer release knows what that means."""
    newer = bytearray(seal(now - 1, b"v"))
    newer[1] |= 0x20
    await client.set(KEY, bytes(newer), px=60_000)

    with pytest.raises(ResponseError, match="NEWERFORMAT"):
        await merge(seal(now, b"v"))

    assert await client.get(KEY) == bytes(newer)


async def test_another_type_under_the_key_is_left_alone(client, now, merge):
    """An error, and nothing changed."""
    await client.rpush(KEY, b"x")

    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await merge(seal(now, b"v"))

    assert await client.lrange(KEY, 0, -1) == [b"x"]


async def test_a_server_without_memory_refuses_and_changes_nothing(
    client, now, exhaust, merge
):
    """It waits on: OOM is no decision about the entry."""
    older = seal(now - 1, b"old")
    await client.set(KEY, older, px=60_000)
    exhaust()

    with pytest.raises(ResponseError, match=r"OOM|maxmemory"):
        await merge(seal(now, b"new"))

    assert await client.get(KEY) == older


async def test_stamps_are_exact_to_the_last_bit(client, now, merge):
    """The largest stamp and its neighbour are told apart."""
    await client.set(KEY, seal(MAX_STAMP, b"v"), px=60_000)

    assert await merge(seal(MAX_STAMP - 1, b"v")) == [NEWER, MAX_STAMP]
