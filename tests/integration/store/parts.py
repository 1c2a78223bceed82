"""What the tests of the store's parts share: a context on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from mcp_crew_redis._core.port import Port
from mcp_crew_redis._core.scripts import ScriptLoader
from mcp_crew_redis._wire.codec import MsgpackCodec
from mcp_crew_redis._wire.keys import KeySpace
from mcp_crew_redis._wire.ttl import TtlPolicy
from mcp_crew_redis.clock import Clock, SystemClock
from mcp_crew_redis.store.context import StoreContext
from mcp_crew_redis.store.stamps import StampSource
from tests.integration.core.bench import outcome, wire

__all__ = ["PREFIX", "all_of", "store"]

PREFIX = "p:"


@asynccontextmanager
async def store(
    kwargs: dict[str, Any], *, clock: Clock | None = None, **limits: float
) -> AsyncIterator[StoreContext]:
    """Give a context on the connection `kwargs`; its client is closed at the end."""
    quick = {"command_timeout": 1.0, **limits}
    async with wire(kwargs, **quick) as client:
        port, clock = Port(client, ScriptLoader()), clock or SystemClock()
        stamps = StampSource(port, clock)
        yield StoreContext(
            port=port,
            stamps=stamps,
            keys=KeySpace(PREFIX),
            codec=MsgpackCodec(),
            ttl=TtlPolicy(random=Random(7)),
            clock=clock,
            max_value_bytes=8 * 1024 * 1024,
            tombstone_ttl=86_400.0,
        )
        await stamps.aclose()


async def all_of(calls: Iterable[Awaitable[Any]]) -> list[Any]:
    """Run `calls` side by side; return results and errors in their order."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(outcome(call)) for call in calls]
    return [task.result() for task in tasks]
