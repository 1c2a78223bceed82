"""event_rewind.lua: a group goes on elsewhere, and whoever listens looks."""

import asyncio

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from mcp_crew_redis._core.scripts import ScriptLoader

STREAM = b"p:events:{acme}:order.paid:normal"

pytestmark = pytest.mark.every_server


@pytest.fixture
async def client(any_server):
    async with redis.asyncio.Redis(**any_server.client_kwargs) as client:
        yield client


@pytest.fixture
def rewind(client):
    script = ScriptLoader().load("event_rewind")

    async def rewind(place, read=-1, group="g"):
        script.check((STREAM,), (group, place, read))
        return await client.eval(script.source, 1, STREAM, group, place, read)

    return rewind


@pytest.fixture
async def ids(client):
    """Three entries, all read by the group, the first acknowledged."""
    ids = [await client.xadd(STREAM, {"d": number}) for number in range(3)]
    await client.xgroup_create(STREAM, "g", id="0")
    await client.xreadgroup("g", "c", {STREAM: ">"})
    await client.xack(STREAM, "g", ids[0])
    return ids


async def unread(client):
    found = await client.xreadgroup("g", "other", {STREAM: ">"})
    return [entry for page in found.values() for entry, _ in page[0]]


async def test_what_comes_after_the_place_is_delivered_again(client, rewind, ids):
    """In order."""
    assert await rewind(ids[0]) == 1

    assert await unread(client) == ids[1:]


async def test_from_the_beginning_the_lag_is_known(client, rewind, ids):
    """Nothing comes before it."""
    assert await rewind("0-0", 0) == 1

    (info,) = await client.xinfo_groups(STREAM)
    assert info["lag"] == 3


async def test_to_the_end_nothing_is_delivered(client, rewind, ids):
    """Only what comes from then on."""
    await rewind("0-0", 0)

    assert await rewind("$") == 1

    assert await unread(client) == []


async def test_what_is_pending_stays_pending(client, rewind, ids):
    """Somebody is working on it."""
    await rewind("$")

    assert (await client.xpending(STREAM, "g"))["pending"] == 2


async def test_the_stream_has_no_time_to_live_afterwards(client, rewind, ids):
    """It had one for as long as the script ran."""
    await rewind("0-0")

    assert await client.pttl(STREAM) == -1


async def test_the_bell_rings(any_server, rewind, ids):
    """XGROUP SETID alone would not be heard."""
    heard = []
    async with redis.asyncio.Redis(
        **any_server.client_kwargs, single_connection_client=True
    ) as ear:
        await ear.initialize()
        parser = ear.connection._parser
        parser.set_invalidation_push_handler(lambda push: heard.append(push[1]))
        prefix = b"p:events:"
        await ear.execute_command("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", prefix)
        await rewind("0-0")
        for _ in range(20):
            await ear.ping()
            if heard:
                break
            await asyncio.sleep(0.005)

    assert heard[0] == [STREAM]


async def test_a_missing_stream_or_group_is_told(client, rewind):
    """There is nothing to do."""
    assert await rewind("0-0") == 0
    await client.xadd(STREAM, {"d": 1})

    assert await rewind("0-0") == 0
    assert await client.pttl(STREAM) == -1


async def test_another_type_under_the_key_is_an_error(client, rewind):
    """Nothing is changed."""
    await client.set(STREAM, "x")

    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await rewind("0-0")

    assert await client.get(STREAM) == b"x"
    assert await client.ttl(STREAM) == -1


async def test_a_server_without_memory_rewinds(client, exhaust, rewind, ids):
    """Reading again needs none."""
    exhaust()

    assert await rewind("0-0", 0) == 1
