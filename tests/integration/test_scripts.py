"""Scripts on real servers: by digest, reloaded where they are missing."""

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from mcp_crew_redis._core.scripts import Script, ScriptLoader

ECHO = """\
-- Return what was given.
-- KEYS[1] key     any
-- ARGV[1+] rest   any number
-- Returns {key, rest...}
-- Expiry: read only
return {KEYS[1], unpack(ARGV)}
"""


@pytest.fixture
async def client(any_server):
    async with redis.asyncio.Redis(**any_server.client_kwargs) as client:
        yield client


async def test_a_script_survives_a_script_flush(client):
    """Missing at first and after SCRIPT FLUSH, it is sent again, and only then."""
    echo = Script("echo", ECHO)
    for _ in range(2):
        assert await echo(client, ["k"], ["a"]) == [b"k", b"a"]
        assert await client.script_exists(echo.sha) == [True]
        assert await echo(client, ["k"], []) == [b"k"]
        await client.script_flush("SYNC")

    calls = await client.info("commandstats")
    assert calls["cmdstat_eval"]["calls"] == 2
    assert calls["cmdstat_evalsha"]["calls"] == 4


async def test_every_shipped_script_compiles_everywhere(client):
    """Each file's source is accepted and known under our digest."""
    loader = ScriptLoader()
    for name in loader.names():
        script = loader.load(name)
        sha = await client.script_load(script.source)
        assert (sha.decode() if isinstance(sha, bytes) else sha) == script.sha


async def test_an_error_inside_a_script_is_an_answer(client):
    """A runtime error reaches the caller as the server's error."""
    broken = Script("broken", ECHO.replace("return {", "return nosuch {"))

    with pytest.raises(ResponseError):
        await broken(client, ["k"], [])
