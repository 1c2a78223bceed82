"""`redis_manager`: a manager for whoever imports it, connected by its first use.

One instance for the process, on the environment's settings. It has the wire, its
circuit and a journal in memory; no services, no bell, no files. Each event loop and
each forked process gets a client of its own:

    new loop    the client of the loop before was closed when that loop ended, and is
                forgotten
    fork        the child closes its copies of the parent's sockets without a byte on
                them, and never touches the parent's loop
"""

from __future__ import annotations

import asyncio
import os
from asyncio import AbstractEventLoop
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from mcp_crew_redis._core.client import PipelinedRedis
from mcp_crew_redis.crew import parts
from mcp_crew_redis.crew.state import make_store
from mcp_crew_redis.errors import ConfigurationError
from mcp_crew_redis.settings import CrewSettings
from mcp_crew_redis.store.journal.journal import Journal
from mcp_crew_redis.store.manager import RedisManager
from mcp_crew_redis.store.store import Store

__all__ = ["DefaultManager", "redis_manager"]


@dataclass(frozen=True, slots=True)
class _Connected:
    """A store, and what it may be used by."""

    store: Store
    client: PipelinedRedis
    loop: AbstractEventLoop
    pid: int
    end: AsyncGenerator[None]  # closing it closes the client


class DefaultManager(RedisManager):
    """A manager that makes its own client with its first use in a loop.

    Making one neither reads the environment nor connects. Use it from coroutines;
    several loops in several threads at once need a `CrewRedis` each.

    Args:
        make_settings: Called when it connects.
    """

    def __init__(
        self, make_settings: Callable[[], CrewSettings] = CrewSettings
    ) -> None:
        self._make_settings = make_settings
        self._connected: _Connected | None = None
        # What a fork has left here belongs to the parent. It is kept: collected, it
        # would reach for the parent's loop. One entry for each fork down to here.
        self._inherited: list[_Connected] = []
        self._journal = Journal()  # outlives loops
        self._journal_pid = os.getpid()

    def __repr__(self) -> str:
        state = "not connected" if self._connected is None else "in use"
        return f"<DefaultManager {state}>"

    def _open(self) -> Store:
        connected = self._connected
        loop = asyncio.get_running_loop()
        if (
            connected is None
            or connected.loop is not loop
            or connected.pid != os.getpid()
        ):
            connected = self._connect(loop)
        return connected.store

    async def aclose(self) -> None:
        """Close the connections of this loop. The next use makes new ones."""
        connected, self._connected = self._connected, None
        if connected is None:
            return
        if connected.pid != os.getpid():
            self._disown(connected)
        elif connected.loop is asyncio.get_running_loop():
            await connected.end.aclose()

    def _connect(self, loop: AbstractEventLoop) -> _Connected:
        if self._connected is not None and self._connected.pid != os.getpid():
            self._disown(self._connected)
        self._connected = None
        if self._journal_pid != os.getpid():  # the parent synchronises its own
            self._journal, self._journal_pid = Journal(), os.getpid()
        settings = self._make_settings()
        parts.refuse_what_is_not_built(settings)
        if settings.embedded:
            raise ConfigurationError(
                "REDIS_CREW_EMBEDDED: redis_manager runs no server; use CrewRedis"
            )
        client = parts.make_client(settings, None)
        store = make_store(settings, client, journal=self._journal)
        end = _close_at_the_end(store, client)
        self._connected = connected = _Connected(store, client, loop, os.getpid(), end)
        _run_to_its_yield(end)
        store.sync.kick()  # what another loop has left
        return connected

    def _disown(self, parents: _Connected) -> None:
        """Close this process's copies of its parent's sockets, and nothing else."""
        self._inherited.append(parents)
        null = os.open(os.devnull, os.O_RDWR)
        try:
            for lane in (parents.client.node.interactive, parents.client.node.bulk):
                if (number := lane.fileno) is not None:
                    # Not close(): the socket object still believes in its number.
                    os.dup2(null, number)
        finally:
            os.close(null)


async def _close_at_the_end(
    store: Store, client: PipelinedRedis
) -> AsyncGenerator[None]:
    """Wait for the end of the loop, which closes its generators; close the client."""
    try:
        yield
    finally:
        await store.aclose()
        await parts.close(client)


def _run_to_its_yield(end: AsyncGenerator[None]) -> None:
    """Let the running loop know the generator: loops close what they have seen."""
    try:
        end.__anext__().send(None)
    except StopIteration:
        return


redis_manager = DefaultManager()
