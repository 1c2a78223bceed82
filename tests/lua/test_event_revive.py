"""event_revive.lua: a dead letter goes back to where it came from, in one step."""

import pytest
import redis.asyncio

from mcp_crew_redis._core.scripts import ScriptLoader

DEAD, STREAMS = b"p:event:{acme}:dead:indexer", b"p:events:{acme}:"
STREAM = STREAMS + b"order.paid:normal"

pytestmark = pytest.mark.every_server


@pytest.fixture
async def client(any_server):
    async with redis.asyncio.Redis(**any_server.client_kwargs) as client:
        yield client


@pytest.fixture
def revive(client):
    script = ScriptLoader().load("event_revive")

    async def revive(*ids):
        script.check((DEAD,), (STREAMS, *ids))
        return await client.eval(script.source, 1, DEAD, STREAMS, *ids)

    return revive


async def bury(client, stream=STREAM, **fields):
    letter = {"m": b"envelope", "d": b"\x00payload", **fields}
    about = {"_s": stream, "_i": "1-1", "_n": 5, "_r": "why", "_t": 1}
    return await client.xadd(DEAD, {**letter, **about})


async def test_it_is_an_entry_of_its_stream_again(client, revive):
    """With the fields it had, and without those about its death."""
    letter = await bury(client)

    assert await revive(letter) == 1

    ((_, fields),) = await client.xrange(STREAM)
    assert fields == {b"m": b"envelope", b"d": b"\x00payload"}
    assert await client.xlen(DEAD) == 0


async def test_the_others_stay(client, revive):
    """Only what was asked for."""
    first, second = await bury(client), await bury(client)

    assert await revive(second) == 1

    assert [entry for entry, _ in await client.xrange(DEAD)] == [first]


async def test_it_goes_back_in_the_order_given(client, revive):
    """The caller's."""
    letters = [await bury(client, d=b"%d" % number) for number in range(4)]

    assert await revive(*letters) == 4

    entries = await client.xrange(STREAM)
    assert [fields[b"d"] for _, fields in entries] == [b"0", b"1", b"2", b"3"]


async def test_twice_is_once(client, revive):
    """What is not there any more is no error."""
    letter = await bury(client)
    await revive(letter)

    assert await revive(letter) == 0
    assert await client.xlen(STREAM) == 1


@pytest.mark.parametrize(
    "stream",
    [
        b"p:events:{globex}:order.paid:normal",
        b"p:event:{acme}:tally:x",
        b"p:events:{acme}:scheduled",
        b"",
    ],
)
async def test_one_that_names_no_stream_of_the_tenant_stays(client, revive, stream):
    """Nobody of ours wrote that."""
    letter = await bury(client, stream)

    assert await revive(letter) == 0
    assert await client.keys() == [DEAD]


async def test_one_without_envelope_or_payload_stays(client, revive):
    """It was no event before either, and would die again."""
    about = {"_s": STREAM, "_r": "foreign entry"}
    letter = await client.xadd(DEAD, {"x": 1, **about})

    assert await revive(letter) == 0
    assert await client.xlen(DEAD) == 1


async def test_a_place_that_is_taken_by_another_type_is_let_be(client, revive):
    """The letter stays."""
    await client.set(STREAM, "x")
    letter = await bury(client)

    assert await revive(letter) == 0
    assert await client.xlen(DEAD) == 1


async def test_a_server_without_memory_takes_it(client, exhaust, revive):
    """No more is needed than is freed."""
    letter = await bury(client)
    exhaust()

    assert await revive(letter) == 1
    assert await client.xlen(STREAM) == 1


async def test_no_letters_at_all(revive):
    """The key may have expired."""
    assert await revive("1-1", "2-2") == 0
