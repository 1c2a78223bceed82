"""event_due.lua: what is due gets into its stream, once and in order."""

import msgpack
import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from mcp_crew_redis._core.scripts import ScriptLoader

SCHEDULED, BODIES = b"p:events:{acme}:scheduled", b"p:event:{acme}:scheduled"
TALLY, STREAMS = b"p:event:{acme}:tally:-", b"p:events:{acme}:"
STREAM = STREAMS + b"order.paid:normal"

pytestmark = pytest.mark.every_server


def pack(value):
    """As cmsgpack does: it knows no type for bytes of its own."""
    return msgpack.packb(value, use_bin_type=False)


@pytest.fixture
async def client(any_server):
    async with redis.asyncio.Redis(**any_server.client_kwargs) as client:
        yield client


@pytest.fixture
def move(client):
    script = ScriptLoader().load("event_due")

    async def move(limit=100):
        keys, args = (SCHEDULED, BODIES, TALLY), (STREAMS, limit)
        script.check(keys, args)
        return await client.eval(script.source, 3, *keys, *args)

    return move


@pytest.fixture
def delay(client):
    async def delay(name, due_in_ms, body=None, stream=STREAM):
        seconds, micros = await client.time()
        due = seconds * 1_000 + micros // 1_000 + due_in_ms
        if body is None:
            body = pack([stream, b"m-" + name, b"\xc4d" + name])
        await client.zadd(SCHEDULED, {name: due})
        await client.hset(BODIES, name, body)

    return delay


async def test_what_is_due_is_moved_whole(client, move, delay):
    """Envelope and payload byte for byte; nothing of it stays behind."""
    await delay(b"a", -1)

    assert await move() == [1, 0, -1]

    ((_, fields),) = await client.xrange(STREAM)
    assert fields == {b"m": b"m-a", b"d": b"\xc4da"}
    assert not await client.exists(SCHEDULED, BODIES)


async def test_it_moves_in_the_order_of_due_times(client, move, delay):
    """Whatever their order of arrival or their names."""
    for name, due in ((b"a", -10_000), (b"c", -30_000), (b"b", -20_000)):
        await delay(name, due)

    assert (await move())[0] == 3

    entries = await client.xrange(STREAM)
    assert [fields[b"m"] for _, fields in entries] == [b"m-c", b"m-b", b"m-a"]


async def test_what_is_not_due_stays_and_is_announced(client, move, delay):
    """The timer is set by it."""
    await delay(b"a", 60_000)

    moved, dropped, next_ms = await move()

    assert (moved, dropped) == (0, 0)
    assert 55_000 < next_ms <= 60_000
    assert not await client.exists(STREAM)


async def test_a_batch_has_a_limit(move, delay):
    """The rest is due now."""
    for number in range(5):
        await delay(b"%d" % number, -1)

    assert await move(limit=3) == [3, 0, 0]
    assert await move(limit=3) == [2, 0, -1]
    assert await move(limit=3) == [0, 0, -1]


async def test_nothing_scheduled_is_no_error(move):
    """The key may have expired."""
    assert await move() == [0, 0, -1]


@pytest.mark.parametrize(
    "body",
    [
        b"nonsense",
        pack([b"p:events:{globex}:order.paid:normal", b"m", b"d"]),
        pack([b"p:event:{acme}:tally:x", b"m", b"d"]),
        pack([SCHEDULED, b"m", b"d"]),
        pack([STREAM, b"m"]),
        pack([STREAM, 1, 2]),
        pack({"a": 1}),
        pack(7),
        b"",
    ],
)
async def test_foreign_bodies_are_dropped_and_counted(client, move, delay, body):
    """No other tenant's stream is written to, and nothing is due for ever."""
    await delay(b"bad", -2, body)
    await delay(b"good", -1)

    assert await move() == [1, 1, -1]

    assert await client.hget(TALLY, "lost") == b"1"
    assert await client.pttl(TALLY) > 29 * 86_400_000
    assert set(await client.keys()) == {STREAM, TALLY}


async def test_one_without_a_body_is_counted(client, move, delay):
    """Somebody has removed it."""
    await delay(b"a", -1)
    await client.delete(BODIES)

    assert await move() == [0, 1, -1]


async def test_another_type_in_the_place_of_the_stream_is_counted(client, move, delay):
    """It cannot be written, now or later."""
    await client.set(STREAM, "x")
    await delay(b"a", -1)

    assert await move() == [0, 1, -1]
    assert await client.get(STREAM) == b"x"


async def test_a_server_without_memory_moves_what_is_due(client, exhaust, move, delay):
    """It takes no more memory than it frees."""
    await delay(b"a", -1)
    exhaust()

    assert await move() == [1, 0, -1]
    assert await client.xlen(STREAM) == 1


async def test_another_type_of_the_set_is_left_alone(client, move):
    """An error, and nothing changed."""
    await client.set(SCHEDULED, "x")

    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await move()
