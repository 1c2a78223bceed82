"""One process that consumes events and writes down what it does; and how to run it.

The argument is one JSON object: `socket` of the server, `log` to write, `options` of
the subscription. What its handler does with an event the payload says: `{"n": 1, "do":
"exit"}` ends the process, `"hang"` waits for ever, a number waits for so many seconds,
`"fail"` and `"reject"` wait a little and raise. Ends with its standard input. Its lines
tell when they were written, by the clock that all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from mcp_crew_redis import CrewRedis
from mcp_crew_redis._core.backoff import Backoff
from mcp_crew_redis.clock import SystemClock
from mcp_crew_redis.events.outcomes import Reject
from mcp_crew_redis.events.schemas import EventCatalog, EventSchema
from mcp_crew_redis.events.subscriptions import Subscriptions
from mcp_crew_redis.services import EventConsumer
from mcp_crew_redis.testing.given_settings import GivenSettings
from tests.rig.waiting import wait_until

__all__ = ["Worker", "working"]


class Worker:
    """A worker process as its test sees it."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def has_ended(self) -> bool:
        """Whether it is no more."""
        return self._process.returncode is not None

    def lines(self, what: str) -> list[dict[str, Any]]:
        """Return what it has written of one kind: ready, begun, done or left."""
        if not self._log.exists():
            return []
        text = self._log.read_text()
        whole = text[: text.rfind("\n") + 1]
        return [
            line for line in map(json.loads, whole.splitlines()) if line["what"] == what
        ]

    def numbers(self, what: str) -> list[int]:
        """Return the numbers of the events in those lines."""
        return [line["n"] for line in self.lines(what)]

    async def until(self, what: str, count: int = 1, timeout: float = 20.0) -> None:  # noqa: ASYNC109
        """Wait until it has written so many of them."""
        await wait_until(
            lambda: len(self.lines(what)) >= count, f"{count} are {what}", timeout
        )

    async def kill(self) -> None:
        """End it by SIGKILL."""
        self._process.kill()
        await self._process.wait()

    async def wait(self) -> int:
        """Wait until it has ended by itself; return how."""
        async with asyncio.timeout(20):
            return await self._process.wait()

    def pause(self) -> None:
        """Stop its clock."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    async def end(self) -> None:
        """Have it drain, and wait for its end."""
        if self._process.returncode is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            await self.wait()

    async def aclose(self) -> None:
        """End it whatever it does."""
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()


@asynccontextmanager
async def working(
    server: Any, folder: Path, name: str, **options: Any
) -> AsyncIterator[Worker]:
    """Run a worker that is ready to consume; it is gone at the end."""
    log = folder / f"{name}.jsonl"
    config = {"socket": server.unix_socket, "log": str(log), "options": options}
    with (folder / f"{name}.err").open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            __file__,
            json.dumps(config),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=errors,
        )
    worker = Worker(process, log)
    try:
        await worker.until("ready", timeout=30)
        yield worker
    finally:
        await worker.aclose()


class _Log:
    """Lines that stand in the file before anything else happens."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._now = SystemClock().monotonic

    def line(self, what: str, **about: Any) -> None:
        line = {"what": what, "at": self._now(), **about}
        os.write(self._file, json.dumps(line).encode() + b"\n")


async def _act(what: Any) -> None:
    if what == "exit":
        os._exit(1)
    elif what == "hang":
        await asyncio.Event().wait()
    elif what in ("fail", "reject"):
        await asyncio.sleep(0.3)
        raise ValueError if what == "fail" else Reject
    elif what is not None:
        await asyncio.sleep(what)


def _subscriptions(log: _Log, options: dict[str, Any]) -> Subscriptions:
    subscriptions = Subscriptions()
    options = {"pattern": "order.paid", "group": "g", **options}
    backoff = Backoff(base=0.05, factor=1.0, maximum=0.05, jitter=False)

    @subscriptions.on(options.pop("pattern"), backoff=backoff, **options)
    async def handle(event: Any) -> None:
        number, count = event.payload["n"], event.delivery_count
        about = {"n": number, "count": count, "key": event.key}
        log.line("begun", **about)
        await _act(event.payload.get("do"))
        log.line("done", **about)

    return subscriptions


async def _main(config: dict[str, Any]) -> None:
    log = _Log(config["log"])
    partitions = config["options"].pop("partitions", 1)
    catalog = EventCatalog([EventSchema(type="order.paid", partitions=partitions)])
    consumer = EventConsumer(_subscriptions(log, config["options"]))
    settings = GivenSettings(unix_socket=config["socket"], drain_timeout=3.0)
    async with CrewRedis(settings, services=[consumer], event_catalog=catalog):
        log.line("ready")
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        await reader.read()
        transport.close()
    (statistics,) = consumer.statistics()
    log.line("left", taken_away=statistics.taken_away, dead=statistics.dead)


if __name__ == "__main__":
    asyncio.run(_main(json.loads(sys.argv[1])))
