"""What the outage runs share: processes that call, and what stands in the end."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from mcp_crew_redis._wire.codec import MsgpackCodec
from mcp_crew_redis._wire.header import unseal
from tests.faults.outage_history import Final, History, Key
from tests.faults.outage_log import read_report
from tests.rig.servers import RealServer
from tests.rig.waiting import wait_until

__all__ = ["Fleet", "number_from", "problems_on"]

WORKER = Path(__file__).with_name("outage_worker.py")
PATIENCE = 60.0
"""Seconds for a process to begin or to end on a busy machine."""
CHUNK = 500


def number_from(variable: str, default: float) -> float:
    """Return how much of a run is wanted: little in the suite, all by `make faults`."""
    return float(os.environ.get(variable, default))


class Fleet:
    """Processes that call a crew each, and their logs. Whatever is left is killed.

    Args:
        folder: For the logs.
        settings: Of every crew; `CrewSettings` says which there are.
    """

    def __init__(self, folder: Path, **settings: object) -> None:
        self._folder = folder
        self._settings = {"circuit_breaker_timeout": 0.3, **settings}
        self._processes: dict[str, asyncio.subprocess.Process] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name in list(self._processes):
            await self.kill(name)

    async def start(
        self, name: str, socket: str, *, callers: int = 3, pause: float = 0.01
    ) -> None:
        """Start a process; `ready` tells when it calls."""
        config = {
            "log": str(self._log(name)),
            "seed": name,
            "callers": callers,
            "pause": pause,
            "settings": {**self._settings, "unix_socket": socket},
        }
        output = self._log(name).with_suffix(".out")
        with output.open("ab") as file:
            self._processes[name] = await asyncio.create_subprocess_exec(
                *(sys.executable, str(WORKER), json.dumps(config)),
                stdin=asyncio.subprocess.PIPE,
                stdout=file,
                stderr=file,
            )

    async def ready(self) -> None:
        """Return once all of them call."""
        for name in self._processes:
            await self._written(name, 1, "is ready")

    async def called(self, bytes_each: int = 20_000) -> None:
        """Return once each has written so much more of its calls; 300 bytes a call."""
        wanted = {name: self._size(name) + bytes_each for name in self._processes}
        for name, size in wanted.items():
            await self._written(name, size, "has called")

    async def _written(self, name: str, size: int, what: str) -> None:
        def is_written() -> bool:
            if self._processes[name].returncode is not None:
                raise AssertionError(f"{name} has ended:\n{self._output(name)}")
            return self._size(name) >= size

        await wait_until(is_written, f"{name} {what}", PATIENCE)

    async def kill(self, name: str) -> None:
        """SIGKILL one of them."""
        process = self._processes.pop(name)
        with suppress(ProcessLookupError):
            process.kill()
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()

    async def finish(self) -> None:
        """Let all of them end by themselves: they drain first."""
        for process in self._processes.values():
            assert process.stdin is not None
            process.stdin.close()
        for name in list(self._processes):
            async with asyncio.timeout(PATIENCE):
                code = await self._processes[name].wait()
            self._processes.pop(name)
            assert code == 0, self._output(name)

    def history(self) -> History:
        """Return what all of them, dead or alive, have written down."""
        logs = sorted(self._folder.glob("*.log"))
        return History([read_report(log) for log in logs])

    def _output(self, name: str) -> str:
        return self._log(name).with_suffix(".out").read_text()[-4_000:]

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _size(self, name: str) -> int:
        log = self._log(name)
        return log.stat().st_size if log.exists() else 0


def problems_on(server: RealServer, history: History) -> list[str]:
    """Compare what stands on a server with what must stand there."""
    keys = list(history.writes)
    finals = dict(zip(keys, _finals(server, keys), strict=True))
    totals = {
        (tenant, name): int(server.execute("HGET", _name("counter", tenant, name), "v"))
        for tenant, name in history.counters
        if server.execute("EXISTS", _name("counter", tenant, name))
    }
    return history.problems(finals, totals)


def _finals(server: RealServer, keys: list[Key]) -> Iterable[Final | None]:
    codec = MsgpackCodec()
    for start in range(0, len(keys), CHUNK):
        names = [_name("state", *key) for key in keys[start : start + CHUNK]]
        for data in server.execute("MGET", *names):
            if data is None:
                yield None
                continue
            sealed = unseal(data)
            mark = None if sealed.is_tombstone else codec.decode(sealed.payload, str)
            yield Final(sealed.stamp, mark)


def _name(namespace: str, tenant: str, name: str) -> str:
    return f"mcp-crew:{namespace}:{{{tenant}}}:{name}"
