"""Power cuts for a server that logs what it does: SIGKILL, and the log cut short."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.rig.servers import RealServer

__all__ = ["LOSS", "PowerSupply"]

LOSS = 1.0
"""Seconds of the log that a cut takes: what `appendfsync everysec` may lose."""
INTERVAL = 0.02


class PowerSupply:
    """Watches how a server's log grows, to know how long it was a second ago.

    Args:
        server: Whose log; it must not rewrite it.
    """

    def __init__(self, server: RealServer) -> None:
        self._server = server
        self._lengths: deque[tuple[float, int]] = deque(maxlen=round(4 / INTERVAL))
        self._group = asyncio.TaskGroup()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._look()
        self._task = self._group.create_task(self._watch())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await self._group.__aexit__(kind, error, trace)

    def cut(self) -> int:
        """Kill the server, cut its log, and return the bytes that were lost."""
        self._server.kill()
        until = asyncio.get_running_loop().time() - LOSS
        log = self._log()
        before = log.stat().st_size
        kept = max(
            (length for time, length in self._lengths if time <= until),
            default=self._lengths[0][1],
        )
        os.truncate(log, kept)
        # What it was before must not be taken for what it will be.
        self._lengths.clear()
        self._look()
        return before - kept

    async def saved(self) -> None:
        """Return when a cut would leave all that was logged so far."""
        await asyncio.sleep(LOSS + 2 * INTERVAL)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            self._look()

    def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        self._lengths.append((now, self._log().stat().st_size))

    def _log(self) -> Path:
        (log,) = (self._server.folder / "appendonlydir").glob("*.incr.aof")
        return log
