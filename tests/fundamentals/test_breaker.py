"""The breaker: while Redis is away, calls fail at once, and come back by themselves.

The tutorial's tier: one concept per test, the public API only, a real server.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from redis.exceptions import ResponseError

from mcp_crew_redis import (
    CircuitOpenError,
    CircuitState,
    CrewRedis,
    CrewSettings,
    UnavailableError,
)
from tests.rig.waiting import wait_until


@pytest.fixture
async def crew(own_server):
    settings = CrewSettings(
        unix_socket=Path(own_server.unix_socket), command_timeout=0.2
    )
    async with CrewRedis(settings) as crew:
        yield crew


async def open_circuit(crew, server):
    """Kill the server and call until the circuit has noticed."""
    server.kill()
    with pytest.raises(UnavailableError):
        await crew.redis.get("breaker:key")
    await wait_until(lambda: not is_closed(crew), "the circuit opens")


def is_closed(crew):
    return crew.redis.circuit_state is CircuitState.CLOSED


async def test_a_dead_server_opens_the_circuit(crew, own_server):
    """From then on nothing is sent; the error says when to come back, and why."""
    await open_circuit(crew, own_server)

    with pytest.raises(CircuitOpenError) as caught:
        await crew.redis.get("breaker:key")

    assert 0 < caught.value.retry_after <= 2.0
    assert caught.value.cause
    assert caught.value.since >= 0


async def test_a_silent_server_costs_one_timeout(crew, own_server):
    """Connections stand and nothing answers: the first timeout opens the circuit."""
    with own_server.paused():
        with pytest.raises(TimeoutError):
            await crew.redis.get("breaker:key")

        with pytest.raises(CircuitOpenError):
            await crew.redis.get("breaker:key")


async def test_an_open_circuit_is_an_outage_by_either_name(crew, own_server):
    """Our code catches UnavailableError, a library redis-py's ConnectionError."""
    await open_circuit(crew, own_server)

    with pytest.raises(UnavailableError):
        await crew.redis.get("breaker:key")
    with pytest.raises(redis.exceptions.ConnectionError):
        await crew.redis.get("breaker:key")


async def test_the_circuit_closes_by_itself(crew, own_server):
    """Probes run in the background: nobody has to call for the way back."""
    await open_circuit(crew, own_server)

    own_server.start()

    await wait_until(lambda: is_closed(crew), "the circuit closes")


async def test_health_is_degraded_while_the_circuit_is_open(crew, own_server):
    """Redis being away is no reason to restart, nor to send work elsewhere."""
    await open_circuit(crew, own_server)

    report = await crew.health()

    assert (report.is_live, report.is_ready, report.is_degraded) == (True, True, True)


async def test_an_error_reply_does_not_open_the_circuit(crew):
    """A Redis that complains is alive, however often it does."""
    await crew.redis.set("breaker:text", "x")

    for _ in range(20):
        with pytest.raises(ResponseError):
            await crew.redis.lpush("breaker:text", 1)

    assert is_closed(crew)
