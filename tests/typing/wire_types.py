"""What type checkers make of the client: checked by mypy and pyright, never run."""

from __future__ import annotations

from typing import Any, assert_type

import redis.asyncio

from mcp_crew_redis import (
    BreakerSettings,
    CircuitOpenError,
    CircuitState,
    OperationTimeoutError,
    OverloadedError,
    PipelinedRedis,
    UnavailableError,
    WireSettings,
)


def takes_redis_pys(client: redis.asyncio.Redis) -> None:
    """Any library's function that wants redis-py's client."""


async def use(client: PipelinedRedis) -> None:
    """It is redis-py's client, with redis-py's types."""
    takes_redis_pys(client)

    assert_type(await client.dbsize(), int)
    assert_type(client.circuit_state, CircuitState)
    assert_type(client.statistics().dials, int)
    assert_type(client.statistics().circuit.state, CircuitState)
    assert_type(client.statistics().interactive.pending, int)
    greeting = await client.connect()
    assert_type(greeting.server, str)
    assert_type(greeting.version, str)
    async with client.pipeline(transaction=False) as pipe:
        pipe.set("key", 1)
        assert_type(await pipe.execute(), list[Any])


def make() -> None:
    """Ours by keyword, redis-py's own options besides."""
    client = PipelinedRedis(
        wire=WireSettings(pool_size=20, command_timeout=0.5),
        breaker=BreakerSettings(threshold=3),
        host="localhost",
        port=6380,
    )
    assert_type(client, PipelinedRedis)
    assert_type(PipelinedRedis.from_url("redis://localhost:6380/0"), PipelinedRedis)


def errors(error: UnavailableError) -> None:
    """Typed attributes: nobody parses messages."""
    if isinstance(error, CircuitOpenError):
        assert_type(error.retry_after, float)
        assert_type(error.cause, str)
    if isinstance(error, OverloadedError):
        assert_type(error.retry_after, float)
    if isinstance(error, OperationTimeoutError):
        assert_type(error.sent, bool)
