"""event_publish.lua: an id is published once, and never against a purge."""

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from mcp_crew_redis._core.scripts import ScriptLoader

STREAM, MARK = b"p:events:{acme}:order.paid:normal", b"p:event:{acme}:mark:e1"
FLOOR = b"p:meta:{acme}:floor"
KEYS = STREAM, MARK, FLOOR
ADDED, DUPLICATE, PURGED = 1, 2, 0

pytestmark = pytest.mark.every_server


@pytest.fixture
async def client(any_server):
    async with redis.asyncio.Redis(**any_server.client_kwargs) as client:
        yield client


@pytest.fixture
def publish(client):
    script = ScriptLoader().load("event_publish")

    async def publish(head=b"m", body=b"d", *, mark_ms=60_000, made_us=0):
        args = (head, body, mark_ms, made_us)
        script.check(KEYS, args)
        return await client.eval(script.source, 3, *KEYS, *args)

    return publish


async def test_an_event_gets_its_fields_and_a_mark(client, publish):
    """The mark says where it stands, and for how long that is known."""
    outcome, place = await publish(b"\x93\x00", b"\xff\x00")

    assert outcome == ADDED
    assert await client.xrange(STREAM) == [
        (place, {b"m": b"\x93\x00", b"d": b"\xff\x00"})
    ]
    assert await client.get(MARK) == place
    assert 59_000 < await client.pttl(MARK) <= 60_000
    assert await client.pttl(STREAM) == -1


async def test_a_repetition_adds_nothing_and_tells_the_first_place(client, publish):
    """Whatever it says, and although the entry has been trimmed."""
    _, place = await publish(b"m", b"first")
    await client.xtrim(STREAM, maxlen=0)

    assert await publish(b"m", b"second") == [DUPLICATE, place]

    assert await client.xlen(STREAM) == 0


async def test_a_repetition_renews_the_mark(client, publish):
    """And so is a write that replicas have to have as well."""
    await publish(mark_ms=5_000)

    await publish(mark_ms=60_000)

    assert await client.pttl(MARK) > 50_000


async def test_an_id_that_waits_for_its_time_is_known(client, publish):
    """Its place is not known yet."""
    await client.set(MARK, b"-", px=60_000)

    assert await publish() == [DUPLICATE, b"-"]


@pytest.mark.parametrize("above", [0, 1])
async def test_what_was_made_before_a_purge_is_refused(client, publish, above):
    """A repetition must not bring it back, not even from the same microsecond."""
    await client.set(FLOOR, 1_000_000 + above)

    assert await publish(made_us=1_000_000) == [PURGED, b"%d" % (1_000_000 + above)]

    assert await client.exists(STREAM, MARK) == 0


async def test_what_was_made_after_a_purge_is_added(client, publish):
    """One microsecond is enough."""
    await client.set(FLOOR, 999_999)

    outcome, _ = await publish(made_us=1_000_000)

    assert outcome == ADDED


async def test_a_live_publish_looks_at_no_floor(client, publish):
    """Its caller is here: it comes after any purge."""
    await client.set(FLOOR, 2**60)

    outcome, _ = await publish(made_us=0)

    assert outcome == ADDED


async def test_another_type_under_the_streams_key_is_left_alone(client, publish):
    """An error, and no mark that would pretend it had been published."""
    await client.set(STREAM, b"x")

    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await publish()

    assert await client.exists(MARK) == 0


async def test_a_server_without_memory_refuses_and_changes_nothing(
    client, exhaust, publish
):
    """OOM is an answer to the caller."""
    exhaust()

    with pytest.raises(ResponseError, match=r"OOM|maxmemory"):
        await publish()

    assert await client.exists(STREAM, MARK) == 0
