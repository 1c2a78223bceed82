"""What a caller of the store waits for, and what is left when it does not."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from mcp_crew_redis import CrewRedis, CrewSettings, DataType
from mcp_crew_redis._core.breaker import BreakerSettings
from mcp_crew_redis.crew.default import DefaultManager
from mcp_crew_redis.errors import CrewRedisError, LifecycleError, UnavailableError
from mcp_crew_redis.store.store import Store
from mcp_crew_redis.tenant import Tenant
from mcp_crew_redis.testing import FaultProxy
from tests.integration.core.bench import outcome
from tests.integration.store.parts import all_of, store
from tests.rig.waiting import wait_until

STATE, COUNTER = DataType.STATE, DataType.COUNTER
TIMEOUT = 0.3
CALM = BreakerSettings(threshold=10_000, minimum_calls=10_000)


@pytest.fixture
async def proxy(server):
    async with FaultProxy(server.unix_socket) as proxy:
        yield proxy


async def timed(call):
    """Return the outcome, and after how many seconds it came."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    return await outcome(call), loop.time() - start


@pytest.mark.parametrize("operation", ["set", "set_many", "delete", "increment"])
async def test_a_hung_server_costs_each_first_write_one_timeout(server, operation):
    """The first writes of a process wait for the clock together, not in turn."""
    kwargs = {**server.client_kwargs}
    async with store(kwargs, command_timeout=TIMEOUT, breaker=CALM) as context:
        await context.port.send("PING")
        rooms = Store(context)
        tenant = Tenant.of(rooms, "acme")
        calls = {
            "set": lambda: tenant.set(STATE, "k", 1),
            "set_many": lambda: tenant.set_many(STATE, {"k": 1}),
            "delete": lambda: tenant.delete(STATE, "k"),
            "increment": lambda: tenant.increment(COUNTER, "k"),
        }
        with server.paused():
            took = await all_of(timed(calls[operation]()) for _ in range(6))
        await rooms.sync.settled()
        await rooms.aclose()

    if operation == "increment":
        assert sorted(answer for answer, _ in took) == [1, 2, 3, 4, 5, 6]
    else:
        assert {answer for answer, _ in took} == {"deferred"}
    assert max(seconds for _, seconds in took) < 2.5 * TIMEOUT


async def test_an_increment_cancelled_before_it_was_sent_is_not_added(server, proxy):
    """It waits for a connection that is still being made; nothing has left."""
    kwargs = proxy.client_kwargs
    async with store(kwargs, command_timeout=5.0, breaker=CALM) as context:
        tenant = Tenant.of(Store(context), "acme")
        assert await tenant.increment(COUNTER, "n") == 1
        proxy.replies.stall()
        before = proxy.connection_count
        proxy.cut()
        lane = context.port.client.node.interactive
        await wait_until(lambda: not lane.is_alive, "the cut is noticed")
        async with asyncio.TaskGroup() as group:
            task = group.create_task(tenant.increment(COUNTER, "n", 5))
            await wait_until(lambda: proxy.connection_count > before, "it dials")
            task.cancel()
        assert proxy.requests.count(b"\r\n$1\r\n5\r\n") == 0
        proxy.heal()

        assert await tenant.increment(COUNTER, "n", 1) == 2


async def test_a_clock_that_fell_behind_writes_no_value_that_is_over(server):
    """After a suspend the local clock has stood still: what is stored then is there."""
    where = CrewSettings(unix_socket=server.unix_socket)
    async with CrewRedis(where) as one, CrewRedis(where) as two:
        sleeper, reader = one.tenant("acme"), two.tenant("acme")
        for tenant in (sleeper, reader):
            await tenant.set(STATE, "warm", 1)
        stamps = one._state.store.context.stamps
        stamps.hybrid._offset_us -= 600_000_000  # ten minutes asleep
        stamps.hybrid._last -= 600_000_000
        stamps._due -= 600_000_000

        await sleeper.set(STATE, "k", "stored", ttl=60)
        await sleeper.set(DataType.CACHE, "k", "stored", ttl=60)

        assert await reader.get(STATE, "k") == "stored"
        assert await reader.get(DataType.CACHE, "k") == "stored"


@pytest.mark.parametrize("end", ["crew", "default"])
async def test_whoever_is_under_way_at_the_end_hears_of_it(server, end):
    """Each call returns or raises one of our errors, in time."""
    where = CrewSettings(unix_socket=server.unix_socket)
    crew = CrewRedis(where) if end == "crew" else None
    default = DefaultManager(lambda: where)
    if crew is not None:
        await crew.__aenter__()
    manager = default if crew is None else crew.manager

    async def write(number):
        await manager.set(
            tenant_id="acme", data_type=STATE, identifier=f"k{number}", value=number
        )

    await write(0)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        tasks = [group.create_task(outcome(write(number))) for number in range(200)]
        await asyncio.sleep(0)
        if crew is None:
            await default.aclose()
        else:
            await crew.__aexit__(None, None, None)
    answers = [task.result() for task in tasks]
    await default.aclose()

    assert all(it is None or isinstance(it, CrewRedisError) for it in answers)


async def test_a_tenant_kept_beyond_its_crew_says_so(server):
    """No hang, no bare error, no new connection."""
    async with CrewRedis(CrewSettings(unix_socket=server.unix_socket)) as crew:
        tenant = crew.tenant("acme")
        await tenant.set(STATE, "k", 1)

    for call in (
        tenant.set(STATE, "k", 2),
        tenant.get(STATE, "k"),
        tenant.get_many(STATE, ["k"]),
        tenant.set_many(STATE, {"k": 2}),
        tenant.delete(STATE, "k"),
        tenant.increment(COUNTER, "k"),
        tenant.usage(),
        tenant.purge(),
    ):
        async with asyncio.timeout(2):
            assert isinstance(await outcome(call), LifecycleError | UnavailableError)


async def test_more_tenants_than_are_kept_are_served(server, monkeypatch):
    """What is forgotten of one while it is in use is found again."""
    monkeypatch.setattr("mcp_crew_redis.crew.state.MAX_TENANTS_KEPT", 3)
    monkeypatch.setattr("mcp_crew_redis._wire.keys._MAX_TENANTS_KEPT", 3)
    monkeypatch.setattr("mcp_crew_redis.store.ordered._MAX_NOTED", 3)
    monkeypatch.setattr("mcp_crew_redis.store.registry.MAX_NOTED", 3)
    async with CrewRedis(CrewSettings(unix_socket=server.unix_socket)) as crew:
        held = crew.tenant("t0")

        async def use(number):
            tenant = crew.tenant(f"t{number % 20}")
            await tenant.set(STATE, f"k{number}", number)
            assert await tenant.increment(COUNTER, f"k{number}") == 1
            assert await tenant.get(STATE, f"k{number}") == number

        async with asyncio.TaskGroup() as group:
            for number in range(400):
                group.create_task(use(number))

        registry = crew._state.store.registry
        assert len([name async for name in registry.tenants()]) == 20
        assert await held.get(STATE, "k20") == 20


async def test_a_registry_that_does_not_answer_is_not_waited_for_twice(server, proxy):
    """Of many first writes of a tenant one notes it; all go on without it."""
    async with store(
        proxy.client_kwargs, command_timeout=TIMEOUT, breaker=CALM
    ) as context:
        rooms = Store(replace(context))
        await Tenant.of(rooms, "warm").set(STATE, "k", 1)
        proxy.replies.stall()
        tenant = Tenant.of(rooms, "acme")
        took = await all_of(
            timed(tenant.set(STATE, f"k{number}", 1)) for number in range(6)
        )
        proxy.heal()
        await rooms.sync.settled()
        await rooms.aclose()

    assert {answer for answer, _ in took} == {"deferred"}
    assert max(seconds for _, seconds in took) < 2.5 * TIMEOUT
