"""The probe tells what the server is, and refuses what this layer cannot use."""

import pytest
import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, ResponseError

from mcp_crew_redis._core.capabilities import (
    PROBED_COMMANDS,
    probe_capabilities,
)
from mcp_crew_redis.errors import ConfigurationError


def answering(info, commands=(), policy="noeviction"):
    """A canned server: what it says to each of the probe's questions."""

    async def execute(command, *_):
        if command == "INFO":
            reply = info
        elif command == "COMMAND INFO":
            reply = [[n.encode()] if n in commands else None for n in PROBED_COMMANDS]
        else:
            reply = {"maxmemory-policy": policy}
        if isinstance(reply, Exception):
            raise reply
        return reply

    return execute


async def test_each_real_server_is_recognised(any_server):
    """Name, version, mode, run id and policy are the server's own."""
    async with redis.asyncio.Redis(**any_server.client_kwargs) as client:
        found = await probe_capabilities(client.execute_command)

    is_valkey = any_server.name in {"valkey", "clustered"}
    assert found.server == ("valkey" if is_valkey else "redis")
    assert found.version == any_server.version_tuple
    assert found.mode == ("cluster" if any_server.is_cluster else "standalone")
    assert found.run_id == any_server.info("server")["run_id"]
    assert found.maxmemory_policy == "noeviction"
    assert not found.may_evict


async def test_supports_agrees_with_the_server(any_server):
    """What is said to exist can be called, what is not cannot."""
    async with redis.asyncio.Redis(**any_server.client_kwargs) as client:
        found = await probe_capabilities(client.execute_command)
        assert found.supports("CLIENT TRACKING")
        with pytest.raises(ResponseError) as error:
            await client.execute_command("HPEXPIRE")

    is_unknown = "unknown command" in str(error.value).lower()
    assert found.supports("hpexpire") is not is_unknown


@pytest.mark.every_server
async def test_a_user_without_the_right_to_ask_is_no_error(server):
    """What ACL rules hide is unknown, and unknown commands are not used."""
    server.execute("ACL", "SETUSER", "blind", "on", ">pw", "~*", "+get", "+client")
    try:
        async with redis.asyncio.Redis(
            **server.client_kwargs, username="blind", password="pw"
        ) as client:
            found = await probe_capabilities(client.execute_command)
    finally:
        server.execute("ACL", "DELUSER", "blind")

    assert (found.server, found.version, found.mode) == ("unknown", (), "unknown")
    assert found.commands is None
    assert found.maxmemory_policy is None
    assert not found.supports("HPEXPIRE")


@pytest.mark.parametrize(
    ("info", "found"),
    [
        (b"redis_version:6.2.14\r\nredis_mode:standalone\r\n", "found redis 6.2.14"),
        (b"redis_version:7.2.4\r\nvalkey_version:7.1.9\r\n", "found valkey 7.1.9"),
        (b"hello:world\r\n", "not Redis"),
        (ResponseError("unknown command 'INFO'"), "not Redis"),
        ({"redis_version": "5.0.0"}, "found redis 5.0.0"),
    ],
)
async def test_too_old_or_something_else_is_refused(info, found):
    """The error tells what was found and what is required."""
    with pytest.raises(ConfigurationError, match=found) as error:
        await probe_capabilities(answering(info))

    assert "Redis 7.0 or Valkey 7.2" in str(error.value)


async def test_a_sentinel_is_pointed_to_its_setting():
    """A Sentinel answers INFO too, but keeps no data."""
    info = b"redis_version:7.2.4\r\nredis_mode:sentinel\r\n"

    with pytest.raises(ConfigurationError, match="REDIS_CREW_SENTINELS"):
        await probe_capabilities(answering(info))


async def test_an_evicting_server_is_told():
    """A policy other than noeviction may throw away what was acknowledged."""
    info = b"redis_version:7.4.0\r\nredis_mode:standalone\r\n"

    found = await probe_capabilities(answering(info, policy="allkeys-lru"))

    assert found.may_evict


async def test_a_command_that_was_not_probed_is_a_mistake():
    """A silent False would hide the missing line in the table."""
    info = {"redis_version": "8.2.3", "redis_mode": "standalone"}
    found = await probe_capabilities(answering(info, {"HPEXPIRE"}))

    assert found.supports("HPEXPIRE")
    assert not found.supports("VADD")
    with pytest.raises(ValueError, match="GET is not probed"):
        found.supports("GET")


@pytest.mark.parametrize("error", [NoPermissionError("no permissions"), None])
async def test_refused_configuration_is_tolerated(error):
    """CONFIG is closed on managed servers; the rest is still known."""
    info = {"redis_version": "8.2.3", "redis_mode": "standalone"}
    ask = answering(info)

    async def execute(command, *rest):
        if command == "CONFIG GET" and error is not None:
            raise error
        return await ask(command, *rest)

    found = await probe_capabilities(execute)

    assert found.maxmemory_policy == (None if error else "noeviction")
    assert found.version == (8, 2, 3)


async def test_a_lost_connection_is_not_taken_for_an_answer():
    """Only error replies are tolerated."""
    with pytest.raises(RedisConnectionError):
        await probe_capabilities(answering(RedisConnectionError("gone")))
