"""counter_add.lua: a writer's sequence is added once."""

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from mcp_crew_redis._core.scripts import ScriptLoader

KEY = b"p:counter:{acme}:k"
FLOOR = b"p:meta:{acme}:floor"
MAX, MIN = 2**63 - 1, -(2**63)


@pytest.fixture
async def client(any_server):
    async with redis.asyncio.Redis(**any_server.client_kwargs) as client:
        yield client


@pytest.fixture
def add(client):
    script = ScriptLoader().load("counter_add")

    async def add(sequence, delta, *, writer="a", ttl_ms=60_000, made_us=0):
        return await script(
            client, (KEY, FLOOR), (writer, sequence, delta, ttl_ms, made_us)
        )

    return add


async def test_the_first_addition_makes_a_counter_that_expires(client, add):
    """The value, a record of the writer, and a time to live."""
    assert await add(1, 5) == [1, b"5"]

    assert await client.hget(KEY, "v") == b"5"
    assert (await client.hget(KEY, "w:a")).startswith(b"1 5 ")
    assert 0 < await client.pttl(KEY) <= 60_000


async def test_a_repetition_adds_nothing_and_answers_the_same(client, add):
    """What others have added since does not show in the answer."""
    await add(1, 5)
    await add(1, 100, writer="b")

    assert await add(1, 5) == [2, b"5"]
    assert await client.hget(KEY, "v") == b"105"


async def test_an_older_sequence_changes_nothing(client, add):
    """It is on a connection that slept: nobody waits for it."""
    await add(7, 1)

    assert await add(6, 1) == [-1]
    assert await client.hget(KEY, "v") == b"1"


async def test_each_addition_renews_the_time_to_live(client, add):
    """The last one decides."""
    await add(1, 1)
    await add(2, 1, ttl_ms=5_000)

    assert await client.pttl(KEY) <= 5_000


@pytest.mark.parametrize(("start", "delta"), [(MAX, 1), (MIN, -1), (MAX - 5, MAX)])
async def test_an_overflow_changes_nothing(client, add, start, delta):
    """Neither value, record nor time to live."""
    await add(1, start)
    before = await client.hgetall(KEY)

    assert await add(2, delta, ttl_ms=1_000) == [0]

    assert await client.hgetall(KEY) == before
    assert await client.pttl(KEY) > 1_000


@pytest.mark.parametrize("value", [MAX, MIN, 2**53 + 1, -(2**53) - 1, 2**53 - 1, 0])
async def test_large_values_are_exact(add, value):
    """No number passes through Lua's doubles unharmed beyond 2^53."""
    assert await add(1, value) == [1, str(value).encode()]
    assert await add(1, value) == [2, str(value).encode()]


async def test_a_hash_that_is_no_counter_is_left_alone(client, add):
    """A value that is no integer, a record of another form, too many fields."""
    for foreign in ({"v": "text"}, {"w:a": "?"}, {str(at): 1 for at in range(70)}):
        await client.delete(KEY)
        await client.hset(KEY, mapping=foreign)
        await client.expire(KEY, 60)
        before = await client.hgetall(KEY)

        assert await add(1, 1) == [-2]
        assert await client.hgetall(KEY) == before


async def test_another_type_is_an_error(client, add):
    """A string under the key stays."""
    await client.set(KEY, "text", ex=60)

    with pytest.raises(ResponseError, match=r"WRONGTYPE|wrong kind"):
        await add(1, 1)

    assert await client.get(KEY) == b"text"


async def test_what_is_older_than_the_floor_is_refused(client, add):
    """A purged tenant does not come back; the caller learns the floor."""
    await client.set(FLOOR, 1_000)

    assert await add(1, 1, made_us=1_000) == [-3, b"1000"]
    assert await client.exists(KEY) == 0
    assert await add(1, 1, made_us=1_001) == [1, b"1"]
    assert await add(2, 1) == [1, b"2"]


async def test_what_was_added_is_told_although_older_than_the_floor(client, add):
    """The record is looked at first."""
    await add(1, 5)
    await client.set(FLOOR, 1_000)

    assert await add(1, 5, made_us=999) == [2, b"5"]


async def test_at_most_64_writers_are_remembered(client, add):
    """The one that was idle longest goes, then the next."""
    for at in range(64):
        await add(1, 1, writer=f"w{at}")
    now = int((await client.time())[0])
    await client.hset(KEY, "w:w9", f"1 10 {now - 50}")
    await client.hset(KEY, "w:w8", f"1 9 {now - 40}")

    assert await add(1, 1, writer="x") == [1, b"65"]
    assert await add(1, 1, writer="y") == [1, b"66"]

    fields = await client.hkeys(KEY)
    assert len(fields) == 65
    assert b"w:w9" not in fields
    assert b"w:w8" not in fields
    assert {b"w:x", b"w:y", b"w:w10"} <= set(fields)


async def test_writers_idle_for_a_day_go_when_one_joins(client, add):
    """All of them at once; those that are present are never looked at."""
    await add(1, 1)
    now = int((await client.time())[0])
    for at in range(10):
        await client.hset(KEY, f"w:old{at}", f"1 1 {now - 86_401}")
    await client.hset(KEY, "w:young", f"1 1 {now - 86_000}")

    await add(2, 1)
    assert await client.hlen(KEY) == 13
    await add(1, 1, writer="b")
    assert set(await client.hkeys(KEY)) == {b"v", b"w:a", b"w:b", b"w:young"}


async def test_a_full_server_changes_nothing(client, add, exhaust):
    """OOM; the idle writers' records stay too, and a repetition is answered."""
    await add(1, 5)
    await client.hset(KEY, mapping={"w:idle": "1 5 1", "w:other": "1 5 1"})
    before = await client.hgetall(KEY)
    exhaust()

    with pytest.raises(ResponseError, match="maxmemory"):
        await add(1, 1, writer="b")

    assert await client.hgetall(KEY) == before
    assert await add(1, 5) == [2, b"5"]
