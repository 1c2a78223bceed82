"""Counters: exact, whoever counts and whatever the network does.

The tutorial's tier: one concept per test, the public API only, a real server.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mcp_crew_redis import CrewRedis, CrewSettings, DataError, DataType, Tenant
from mcp_crew_redis.testing import FaultProxy
from tests.rig.servers import RealServer


@pytest.fixture
def acme(crew_redis: CrewRedis) -> Tenant:
    return crew_redis.tenant("acme")


async def test_an_increment_returns_the_new_value(acme: Tenant) -> None:
    """A counter begins at zero; amounts may be negative; zero reads it."""
    assert await acme.increment(DataType.COUNTER, "calls") == 1
    assert await acme.increment(DataType.COUNTER, "calls", 9) == 10
    assert await acme.increment(DataType.COUNTER, "calls", -3) == 7
    assert await acme.increment(DataType.COUNTER, "calls", 0) == 7


async def test_callers_at_once_each_get_a_value_of_their_own(acme: Tenant) -> None:
    """Together they take a few round trips, and nobody's result is another's."""
    async with asyncio.TaskGroup() as callers:
        calls = [
            callers.create_task(acme.increment(DataType.COUNTER, "calls"))
            for _ in range(200)
        ]

    assert sorted(call.result() for call in calls) == list(range(1, 201))


async def test_a_counter_expires_and_can_be_deleted(acme: Tenant) -> None:
    """A day after its last use, unless the caller says otherwise."""
    await acme.increment(DataType.COUNTER, "daily")
    await acme.increment(DataType.COUNTER, "hourly", ttl=3_600)

    assert await acme.ttl(DataType.COUNTER, "daily") == pytest.approx(86_400, rel=0.06)
    assert await acme.ttl(DataType.COUNTER, "hourly") == pytest.approx(3_600, abs=5)

    await acme.delete(DataType.COUNTER, "daily")
    assert not await acme.exists(DataType.COUNTER, "daily")
    assert await acme.increment(DataType.COUNTER, "daily") == 1


async def test_a_counter_is_not_a_value(acme: Tenant) -> None:
    """`get` and `set` refuse it: they would lose what others are counting."""
    await acme.increment(DataType.COUNTER, "calls")

    with pytest.raises(DataError, match="increment"):
        await acme.set(DataType.COUNTER, "calls", 5)
    with pytest.raises(DataError, match="increment"):
        await acme.get(DataType.COUNTER, "calls")


async def test_a_lost_reply_is_not_counted_twice(own_server: RealServer) -> None:
    """The increment arrives, its reply does not; asking again adds nothing."""
    async with FaultProxy(own_server.unix_socket) as proxy:
        settings = CrewSettings(unix_socket=Path(proxy.unix_socket))
        async with CrewRedis(settings) as crew:
            acme = crew.tenant("acme")
            assert await acme.increment(DataType.COUNTER, "calls") == 1

            proxy.drop_reply_to(b"counter:{acme}:calls")

            assert await acme.increment(DataType.COUNTER, "calls") == 2
            assert await acme.increment(DataType.COUNTER, "calls", 0) == 2
