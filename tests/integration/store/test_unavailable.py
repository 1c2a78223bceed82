"""While Redis is away, every operation says so, and recovers by itself."""

import asyncio

import pytest

from mcp_crew_redis import CrewRedis, DataType, WriteOutcome
from mcp_crew_redis.errors import CircuitOpenError, LifecycleError, UnavailableError
from mcp_crew_redis.settings import CrewSettings
from tests.rig.waiting import wait_until


def operations(tenant, data_type=DataType.STATE):
    return {
        "set": lambda: tenant.set(data_type, "k", 1),
        "get": lambda: tenant.get(data_type, "k"),
        "get_entry": lambda: tenant.get_entry(data_type, "k"),
        "delete": lambda: tenant.delete(data_type, "k"),
        "exists": lambda: tenant.exists(data_type, "k"),
        "ttl": lambda: tenant.ttl(data_type, "k"),
        "expire": lambda: tenant.expire(data_type, "k", 60),
        "get_many": lambda: tenant.get_many(data_type, ["k"]),
        "set_many": lambda: tenant.set_many(data_type, {"k": 1}),
        "delete_many": lambda: tenant.delete_many(data_type, ["k"]),
    }


async def served(operation):
    """Call until the circuit, which lets calls in step by step, admits this one."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await operation()
            except CircuitOpenError as error:
                await asyncio.sleep(min(error.retry_after, 0.02))


NOT_DEFERRED = {
    DataType.STATE: {"get", "get_entry", "exists", "ttl", "expire", "get_many"},
    DataType.CACHE: {"get_entry", "exists", "ttl", "expire"},
}


@pytest.mark.parametrize("data_type", [DataType.STATE, DataType.CACHE])
async def test_what_cannot_be_deferred_raises_and_recovers(own_server, data_type):
    """Never a fake miss; a cache that cannot be asked has nothing."""
    where = CrewSettings(
        unix_socket=own_server.unix_socket, circuit_breaker_timeout=0.2
    )
    async with CrewRedis(where) as crew:
        tenant = crew.tenant("acme")
        for operation in operations(tenant, data_type).values():
            await operation()
        own_server.kill()

        for name in sorted(NOT_DEFERRED[data_type]):
            with pytest.raises(UnavailableError):
                pytest.fail(f"{name}: {await operations(tenant, data_type)[name]()!r}")
        with pytest.raises(CircuitOpenError):
            await tenant.exists(data_type, "k")

        own_server.start()
        for operation in operations(tenant, data_type).values():
            await served(operation)


async def test_a_cache_that_cannot_be_asked_has_nothing(own_server):
    """A miss: whoever asks computes it anew."""
    where = CrewSettings(unix_socket=own_server.unix_socket)
    async with CrewRedis(where) as crew:
        tenant = crew.tenant("acme")
        await tenant.set(DataType.CACHE, "k", 1)
        own_server.kill()

        assert await tenant.get(DataType.CACHE, "k", default="none") == "none"
        assert await tenant.get_many(DataType.CACHE, ["k"]) == {}


async def test_a_crew_that_started_without_redis_works_when_it_comes(own_server):
    """What it wrote by its own clock is stamped anew by the server's."""
    own_server.kill()
    where = CrewSettings(
        unix_socket=own_server.unix_socket, circuit_breaker_timeout=0.2
    )
    async with CrewRedis(where) as crew:
        tenant = crew.tenant("acme")
        assert await tenant.set(DataType.STATE, "k", 1) is WriteOutcome.DEFERRED
        assert await tenant.get(DataType.STATE, "k") == 1
        own_server.start()

        await wait_until(lambda: own_server.execute("DBSIZE"), "it is synchronised")

        assert await served(lambda: tenant.get(DataType.STATE, "k")) == 1


async def test_outside_the_crew_there_is_no_state(settings):
    """Before the start and after the end."""
    crew = CrewRedis(settings)
    for use in (lambda: crew.manager, lambda: crew.tenant("acme")):
        with pytest.raises(LifecycleError, match="async with crew"):
            use()
    async with crew:
        tenant = crew.tenant("acme")
        assert crew.tenant("acme") is tenant
        assert repr(tenant) == "<Tenant acme>"

    with pytest.raises(LifecycleError, match="async with crew"):
        crew.tenant("acme")
    with pytest.raises((LifecycleError, UnavailableError)):
        await tenant.get(DataType.STATE, "k")
