"""read_ttl.lua: header and time to live of one moment."""

import pytest
import redis.asyncio

from mcp_crew_redis._core.scripts import ScriptLoader
from mcp_crew_redis._wire.header import HEADER_BYTES, seal

KEY = b"p:state:{acme}:k"


@pytest.fixture
async def client(any_server):
    async with redis.asyncio.Redis(**any_server.client_kwargs) as client:
        yield client


@pytest.fixture
def read(client):
    script = ScriptLoader().load("read_ttl")

    async def read():
        return await script(client, (KEY,))

    return read


async def test_a_value_tells_its_header_and_its_time(client, read):
    """The payload does not travel."""
    value = seal(7, b"payload" * 100)
    await client.set(KEY, value, px=60_000)

    header, pttl = await read()

    assert header == value[:HEADER_BYTES]
    assert 0 < pttl <= 60_000


async def test_an_absent_key_has_neither(read):
    """As PTTL says it."""
    assert await read() == [b"", -2]


async def test_a_key_without_expiry_says_so(client, read):
    """Nobody here wrote it, but it may stand."""
    await client.set(KEY, b"short")

    assert await read() == [b"short", -1]
    await client.delete(KEY)
