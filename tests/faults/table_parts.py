"""What the tests of the failure table share: both kinds of socket, and stopwatches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from statistics import median
from typing import Any

from mcp_crew_redis._core.breaker import CircuitState
from mcp_crew_redis._core.client import PipelinedRedis
from mcp_crew_redis.errors import CircuitOpenError
from mcp_crew_redis.testing import FaultProxy
from tests.integration.core.bench import outcome
from tests.rig.servers import RealServer
from tests.rig.waiting import wait_until

__all__ = [
    "KINDS",
    "LARGE",
    "NOISE",
    "all_timed",
    "assert_answers_at_once",
    "is_closed",
    "is_open",
    "proxied",
    "timed",
]

LARGE = b"x" * 100_000  # over bulk_bytes: its first use dials the bulk lane
NOISE = 2.0  # a busy machine may take this many times as long

#: One call of each kind: on a lane, and on a connection of its own.
KINDS: dict[str, Callable[[PipelinedRedis], Awaitable[object]]] = {
    "lane": lambda client: client.incr("n"),
    "pipeline": lambda client: client.pipeline(transaction=False).incr("n").execute(),
    "blocking": lambda client: client.blpop(["l"], 0.02),
    "transaction": lambda client: client.pipeline().incr("n").execute(),
}


@asynccontextmanager
async def proxied(server: RealServer, way: dict[str, Any]) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(server.unix_socket, tcp="port" in way) as proxy:
        yield proxy


async def timed(call: Any) -> tuple[float, Any]:
    """Return the seconds that `call` took, and its outcome."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    result = await outcome(call)
    return loop.time() - begun, result


async def all_timed(calls: Any) -> list[tuple[float, Any]]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(timed(call)) for call in calls]
    return [task.result() for task in tasks]


async def is_open(client: PipelinedRedis) -> None:
    await wait_until(
        lambda: client.circuit_state is not CircuitState.CLOSED, "the circuit opens"
    )


async def is_closed(client: PipelinedRedis) -> None:
    await wait_until(
        lambda: client.circuit_state is CircuitState.CLOSED, "it closes by itself", 8.0
    )


async def assert_answers_at_once(client: PipelinedRedis) -> None:
    """Every call is refused by the circuit; in microseconds, 5 ms on a bad day."""
    calls = [await timed(client.get("k")) for _ in range(200)]
    assert all(isinstance(error, CircuitOpenError) for _, error in calls)
    assert median(seconds for seconds, _ in calls) < 0.005
