"""What the tests of refusing answers share: servers of each kind, a port, a watch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from mcp_crew_redis._core.port import Port
from mcp_crew_redis._core.scripts import ScriptLoader
from mcp_crew_redis.testing import LocalServer
from tests.integration.core.bench import outcome, wire
from tests.rig.binaries import find_binary

__all__ = [
    "IN_TIME",
    "KINDS",
    "PATIENT",
    "Answer",
    "calls_of",
    "hard_failures",
    "server_of",
    "timed",
    "wired",
]

#: Each kind of server that can be refusing alone; a cluster answers as Valkey does.
KINDS = ("valkey", "redis8", "debian")

#: A command timeout that a busy server on a busy machine keeps.
PATIENT = 2.0

#: Seconds after which nobody waits any more: one and a half of the longest timeout.
IN_TIME = PATIENT * 1.5


@asynccontextmanager
async def server_of(kind: str, **keywords: Any) -> AsyncIterator[LocalServer]:
    """Give a private server of that kind; skip the test where it cannot run."""
    if (binary := find_binary(kind)) is None:
        pytest.skip(f"no {kind} server on this machine")
    async with LocalServer(binary=binary, **keywords) as server:
        yield server


@asynccontextmanager
async def wired(server: LocalServer, **limits: Any) -> AsyncIterator[Port]:
    """Give a port whose connection stands."""
    async with wire(server.client_kwargs, **limits) as client:
        await client.connect()
        yield Port(client, ScriptLoader())


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a call, and after how many seconds."""

    value: Any
    seconds: float

    @property
    def code(self) -> str | None:
        """The server's word, where it refused."""
        return getattr(self.value, "code", None)


async def timed(call: Awaitable[Any]) -> Answer:
    """Await a call and look at the clock."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    value = await outcome(call)
    return Answer(value, loop.time() - start)


def hard_failures(port: Port) -> int:
    """Return how many hard failures the circuit has counted."""
    return port.client.statistics().circuit.hard


async def calls_of(server: LocalServer, command: str) -> int:
    """Return how often the server got a command, refused ones included."""
    stats = await server.execute("INFO", "commandstats")
    assert isinstance(stats, bytes)
    for line in stats.decode().splitlines():
        name, _, fields = line.partition(":")
        if name == f"cmdstat_{command}":
            figures = dict(each.split("=") for each in fields.split(","))
            return int(figures["calls"]) + int(figures["rejected_calls"])
    return 0
