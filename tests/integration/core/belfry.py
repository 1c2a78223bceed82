"""What the tests of the bell share: a running bell, and a listener that remembers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import anyio

from mcp_crew_redis._core.bell import Bell, BellListener
from mcp_crew_redis._core.client import PipelinedRedis
from tests.integration.core.bench import wire
from tests.rig.servers import RealServer
from tests.rig.waiting import wait_until

__all__ = ["PREFIX", "Ear", "put", "ringing", "running"]

PREFIX = b"mcp-crew:knowledge:"


class Ear(BellListener):
    """Remembers what it was told, in order."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.keys: list[bytes] = []
        self.ticks = 0

    def on_keys(self, keys: Sequence[bytes]) -> None:
        self.keys += keys

    def on_flushed(self) -> None:
        self.told.append("flushed")

    def on_lost(self) -> None:
        self.told.append("lost")

    def on_healthy(self) -> None:
        self.told.append("healthy")

    def on_tick(self) -> None:
        self.ticks += 1

    async def until(self, *told: str) -> None:
        """Wait until it was told exactly this."""
        await wait_until(
            lambda: self.told == [*told], f"{told} is told, not {self.told}"
        )

    async def until_rung(self, *keys: bytes) -> None:
        """Wait until it has heard of all these keys."""
        await wait_until(
            lambda: set(keys) <= set(self.keys), f"{keys} ring, not {self.keys}"
        )


def put(server: RealServer, key: bytes | str) -> None:
    """Change a key, from a connection of its own."""
    server.execute("SET", key, "1", "PX", 60_000)


@asynccontextmanager
async def running(
    client: PipelinedRedis, *, bell: Bell | None = None
) -> AsyncIterator[Bell]:
    """Run a bell of this client for the length of a block; drain it at the end."""
    bell = bell or Bell(client, random=Random(7))
    async with anyio.create_task_group() as group:
        await group.start(lambda *, task_status: bell.run(task_status=task_status))
        try:
            yield bell
        finally:
            bell.drain()


@asynccontextmanager
async def ringing(
    kwargs: dict[str, Any], prefix: bytes = PREFIX, **limits: float
) -> AsyncIterator[tuple[Bell, Ear, PipelinedRedis]]:
    """Give a healthy bell, an ear at `prefix`, and their client."""
    async with wire(kwargs, **limits) as client, running(client) as bell:
        ear = Ear()
        bell.listen(prefix, ear)
        await ear.until("healthy")
        yield bell, ear, client
