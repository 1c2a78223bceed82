"""The plugin's fixtures; loaded only where pytest-asyncio can run them."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

if TYPE_CHECKING:
    from mcp_crew_redis._core.embedded import EmbeddedServer
    from mcp_crew_redis.crew import CrewRedis
    from mcp_crew_redis.settings import CrewSettings

__all__ = ["crew_redis", "crew_redis_server"]


@pytest.fixture(scope="session")
def crew_redis_server() -> Iterator[EmbeddedServer]:
    """An embedded server for the whole session; needs the `embedded` extra.

    A plain fixture, so that it works in every asyncio mode and loop scope: the server
    belongs to no event loop.
    """
    from mcp_crew_redis._core.embedded import EmbeddedServer

    server = EmbeddedServer()
    _run(server.start())
    try:
        yield server
    finally:
        _run(server.stop())


@pytest_asyncio.fixture
async def crew_redis(crew_redis_server: EmbeddedServer) -> AsyncIterator[CrewRedis]:
    """A started `CrewRedis` on the session's server, with a key prefix of its own.

    `REDIS_CREW_...` variables of the environment are not read. The keys of other tests
    stay on the server, out of sight behind their own prefixes.
    """
    from mcp_crew_redis.crew import CrewRedis

    async with CrewRedis(_settings(crew_redis_server.unix_socket)) as crew:
        yield crew


def _settings(path: str) -> CrewSettings:
    """Return settings for the server at `path`, whatever the environment says."""
    from mcp_crew_redis.settings import CrewSettings

    prefix = f"test-{uuid.uuid4().hex}:"
    with pytest.MonkeyPatch.context() as patch:
        for name in tuple(os.environ):
            if name.upper().startswith(("REDIS_CREW_", "REDIS_CIRCUIT_BREAKER_")):
                patch.delenv(name)
        return CrewSettings(unix_socket=Path(path), prefix=prefix)


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run on a loop of its own; asyncio.run would take the thread's current one."""
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(work)
    finally:
        loop.close()
