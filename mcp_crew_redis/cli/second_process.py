"""Start the demo's second process, hear what it tells, end it.

It ends at the end of its standard input, so it does not outlive us, however we end.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from subprocess import PIPE
from typing import Any, TextIO

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from mcp_crew_redis.cli.agents import Work
from mcp_crew_redis.cli.dialogue import Assignment, Order, Readings, Ring, readings_of
from mcp_crew_redis.cli.failure import DemoError, last_line

__all__ = ["SecondProcess", "second_process"]

_MAX_LINE = 8 << 20
_END_TIMEOUT = 5.0
_MODULE = "mcp_crew_redis.cli.reader"


class SecondProcess:
    """The other process, seen from here.

    Attributes:
        pid: Its id.
    """

    def __init__(self, process: Process, log: TextIO) -> None:
        assert process.stdout is not None
        assert process.stdin is not None
        self.pid = process.pid
        self._lines = BufferedByteReceiveStream(process.stdout)
        self._orders = process.stdin
        self._log = log

    async def readings(self) -> Readings:
        """Wait for all that it has read.

        Raises:
            DemoError: It ended before; says what it said last.
        """
        return readings_of(await self._hear("read"))

    async def ring(self) -> Ring:
        """Wait for the next change that the bell told it.

        Raises:
            DemoError: It ended before; says what it said last.
        """
        return Ring(**(await self._hear("rung"))["rung"])

    async def obey(self, order: Order) -> Work:
        """Have an order carried out; return what it tells of it.

        Raises:
            DemoError: It ended before; says what it said last.
        """
        await self.tell(order)
        return await self.done()

    async def tell(self, order: Order) -> None:
        """Give an order and go on; `done` waits for it. Raises as `obey`."""
        try:
            await self._orders.send(f"{order}\n".encode())
        except anyio.BrokenResourceError as error:
            raise self._gone() from error

    async def done(self) -> Work:
        """Wait until the order has been carried out. Raises as `obey`."""
        return Work.of((await self._hear("done"))["done"])

    async def _hear(self, wanted: str) -> dict[str, Any]:
        """Return the next message of that kind; others tell what nobody asks now."""
        while True:
            try:
                line = await self._lines.receive_until(b"\n", _MAX_LINE)
            except (
                anyio.EndOfStream,
                anyio.IncompleteRead,
                anyio.DelimiterNotFound,
            ) as error:
                raise self._gone() from error
            heard: dict[str, Any] = json.loads(line)
            if wanted in heard:
                return heard

    def _gone(self) -> DemoError:
        said = last_line(self._log) or "it said nothing"
        return DemoError(f"the second process does not go on: {said}")


@asynccontextmanager
async def second_process(task: Assignment) -> AsyncGenerator[SecondProcess, None]:
    """Run it for as long as the body; it has 5 s to end by itself.

    Raises:
        DemoError: It did not end well by itself.
    """
    # A session of its own: Ctrl-C is for us, and it ends with its standard input.
    # The application's settings are not for it either.
    env = {k: v for k, v in os.environ.items() if not k.startswith("REDIS_")}
    command = [sys.executable, "-m", _MODULE, task.to_json()]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        async with await anyio.open_process(
            command,
            stdin=PIPE,
            stdout=PIPE,
            stderr=log,
            env=env,
            start_new_session=True,
        ) as process:
            yield SecondProcess(process, log)
            await _end(process, log)


async def _end(process: Process, log: TextIO) -> None:
    assert process.stdin is not None
    await process.stdin.aclose()
    with anyio.move_on_after(_END_TIMEOUT):
        code = await process.wait()
        if code != 0:
            raise DemoError(f"the second process ended with {code}: {last_line(log)}")
        return
    process.kill()
    raise DemoError(f"the second process did not end within {_END_TIMEOUT:g} s")
