"""What the tests of the wire share: clients with short timeouts, paths that split."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from mcp_crew_redis._core.breaker import BreakerSettings
from mcp_crew_redis._core.client import PipelinedRedis
from mcp_crew_redis._core.wire_settings import WireSettings
from mcp_crew_redis.errors import UnavailableError
from mcp_crew_redis.testing import FaultProxy
from mcp_crew_redis.testing.path import Path
from tests.rig.servers import RealServer
from tests.rig.waiting import wait_until

__all__ = [
    "CT",
    "QUICK",
    "eventually",
    "failed_logins",
    "is_alive_after",
    "landed",
    "outcome",
    "split",
    "wire",
]

#: The command timeout of these tests, in seconds.
CT = 0.4

#: A circuit that probes soon and comes back without a ramp.
QUICK = BreakerSettings(probe_base=0.05, probe_cap=0.1, ramp=0.0)


@asynccontextmanager
async def wire(
    kwargs: dict[str, Any],
    *,
    breaker: BreakerSettings = QUICK,
    options: dict[str, Any] | None = None,
    **limits: float,
) -> AsyncIterator[PipelinedRedis]:
    """Give a client for the connection `kwargs`, closed at the end."""
    quick = {"command_timeout": CT, "connect_timeout": 1.0, "dedicated_timeout": 0.3}
    client = PipelinedRedis(
        wire=WireSettings(**{**quick, **limits}),  # type: ignore[arg-type] # ints too
        breaker=breaker,
        random=Random(7),
        **kwargs,
        **(options or {}),
    )
    try:
        yield client
    finally:
        await client.aclose()


async def outcome(awaitable: Awaitable[Any]) -> Any:
    """Return the result of `awaitable`, or the exception it raised."""
    try:
        return await awaitable
    except Exception as error:  # noqa: BLE001 - it is looked at by the caller
        return error


async def eventually(
    call: Callable[[], Awaitable[Any]],
    what: str,
    timeout: float = 5.0,  # noqa: ASYNC109
) -> Any:
    """Repeat `call` while Redis is unavailable; return its first result."""
    results: list[Any] = []

    async def works() -> bool:
        try:
            results.append(await call())
        except UnavailableError:
            return False
        return True

    await wait_until(works, what, timeout)
    return results[0]


def split(proxy: FaultProxy) -> Path:
    """Give later connections a path of their own; return that of those there are."""
    old, proxy.requests = proxy.requests, Path()
    return old


async def landed(path: Path, server: RealServer, key: str) -> Any:
    """Let `path` wake, wait until the server has read all of it, and return `key`."""
    path.release()
    await wait_until(lambda: path.held_count == 0, "the old path is empty")
    for _ in range(3):  # what was readable before these is executed before them
        await asyncio.sleep(0.01)
        server.execute("PING")
    return server.execute("GET", key)


def failed_logins(server: RealServer) -> int:
    """Return how many AUTH or HELLO commands the server has refused."""
    stats = server.info("commandstats")
    names = ("cmdstat_hello", "cmdstat_auth")
    return sum(stats.get(name, {}).get("failed_calls", 0) for name in names)


async def is_alive_after(client: PipelinedRedis) -> bool:
    """Whether an ordinary command works now."""
    return await outcome(client.ping()) is True
