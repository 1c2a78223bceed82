"""What the sections of `events.py` share: the peers, full streams, stop watches."""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peers import redis_arguments
from rig import Address, cores, median, place

if TYPE_CHECKING:
    import redis.asyncio
    from faststream.redis import RedisBroker

    from mcp_crew_redis import CrewRedis

__all__ = [
    "EVENT_TYPE",
    "GROUP",
    "HERE",
    "PAYLOAD",
    "SEEDS",
    "STREAM",
    "TENANT",
    "Cell",
    "Lap",
    "StopWatch",
    "check_acknowledged",
    "faststream_broker",
    "multiply",
    "open_crew",
    "percentile",
    "quiet",
    "raw_client",
    "sole_stream",
]

HERE = Path(__file__).resolve().parent
TENANT, EVENT_TYPE, GROUP, STREAM = "acme", "tool.called", "bench", "tool.called"
PAYLOAD: dict[str, Any] = {
    "tool": "search.web",
    "server": "mcp-search",
    "took_ms": 41,
    "ok": True,
    "query": "redis streams consumer groups",
    "results": 12,
}
SEEDS = 1_000  # distinct entries; the rest of a backlog repeats them
STALLED_S = 60.0
SETTLED_S = 3.0

# Copies what a stream holds to its end, ARGV[1] times: a backlog of any format, made
# where it belongs, so that no client pays for it.
_MULTIPLY = """
local entries = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', ARGV[2])
for _ = 1, tonumber(ARGV[1]) do
  for _, entry in ipairs(entries) do
    redis.call('XADD', KEYS[1], '*', unpack(entry[2]))
  end
end
return redis.call('XLEN', KEYS[1])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lap:
    """What a stop watch says of one run."""

    events: int
    wall_s: float
    cpu_s: float

    @property
    def per_second(self) -> float:
        """Events per second of wall time."""
        return self.events / self.wall_s

    @property
    def cpu_us(self) -> float:
        """Microseconds of this process's CPU time per event."""
        return self.cpu_s / self.events * 1e6


@dataclass(slots=True)
class Cell:
    """The laps or samples of one contender."""

    laps: list[Any] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        """Median events per second."""
        return median([lap.per_second for lap in self.laps])

    @property
    def cpu_us(self) -> float:
        """Median microseconds of CPU per event."""
        return median([lap.cpu_us for lap in self.laps])


# --- the peers ----------------------------------------------------------------------


def raw_client(address: Address, *, most: int = 10) -> redis.asyncio.Redis:
    """Return redis-py with its defaults and as many connections as callers."""
    import redis.asyncio

    return redis.asyncio.Redis(**redis_arguments(address), max_connections=most)


def faststream_broker(address: Address) -> RedisBroker:
    """Return a broker, tuned as its documentation says.

    `logger=None` spares two log lines per message, `apply_types=False` the validation
    of a payload that asks for none, and orjson is used because it is installed. The
    binary message format is its default.
    """
    from faststream.redis import RedisBroker

    return RedisBroker(
        f"redis://127.0.0.1:{address.port}", logger=None, apply_types=False
    )


def open_crew(address: Address, *services: object) -> CrewRedis:
    """Return a crew with its defaults, to be entered."""
    from mcp_crew_redis import CrewRedis, CrewSettings

    settings = CrewSettings(host="127.0.0.1", port=address.port)
    return CrewRedis(settings, services=services)


# --- streams ------------------------------------------------------------------------


async def sole_stream(raw: redis.asyncio.Redis) -> bytes:
    """Return the key of the only stream there is."""
    found = [key async for key in raw.scan_iter(count=1_000, _type="stream")]
    if len(found) != 1:
        raise SystemExit(f"one stream was expected, there are {len(found)}: {found}")
    return found[0]


async def multiply(raw: redis.asyncio.Redis, key: bytes, wanted: int) -> int:
    """Repeat the first `SEEDS` entries of a stream until it holds `wanted`."""
    length = await raw.xlen(key)
    while length < wanted:
        times = min(10, -(-(wanted - length) // SEEDS))
        length = await raw.eval(_MULTIPLY, 1, key, times, SEEDS)
    return length


async def check_acknowledged(raw: redis.asyncio.Redis, key: bytes) -> None:
    """Wait until nothing of the stream is pending or unread in its group.

    Raises:
        SystemExit: Something still was after some seconds: a figure would be false.
    """
    deadline = time.perf_counter() + SETTLED_S
    while True:
        (group,) = await raw.xinfo_groups(key)
        length = await raw.xlen(key)
        if group["pending"] == 0 and group["entries-read"] == length:
            return
        if time.perf_counter() > deadline:
            raise SystemExit(f"not all was acknowledged: {group}, {length} entries")
        await asyncio.sleep(0.01)


# --- measuring ----------------------------------------------------------------------


class StopWatch:
    """Counts handled events; times those between the first `warm` and the last.

    Starting, connecting and creating the group fall into the warm-up, for everyone.
    """

    def __init__(self, warm: int, total: int) -> None:
        self._warm, self._total = warm, total
        self._began = self._cpu = 0.0
        self._lap: Lap | None = None
        self.seen = 0
        self.done = asyncio.Event()

    def count(self, events: int = 1) -> None:
        """Note that some more have been handled."""
        before = self.seen
        self.seen = seen = before + events
        if before < self._warm <= seen:
            self._warm = seen
            self._began, self._cpu = time.perf_counter(), time.process_time()
        elif seen >= self._total and not self.done.is_set():
            wall_s = time.perf_counter() - self._began
            cpu_s = time.process_time() - self._cpu
            self._lap = Lap(events=seen - self._warm, wall_s=wall_s, cpu_s=cpu_s)
            self.done.set()

    async def lap(self) -> Lap:
        """Wait for the last event; return the figures.

        Raises:
            SystemExit: It did not come.
        """
        try:
            async with asyncio.timeout(STALLED_S):
                await self.done.wait()
        except TimeoutError:
            raise SystemExit(
                f"stalled after {self.seen:,} of {self._total:,} events"
            ) from None
        assert self._lap
        return self._lap


def quiet() -> None:
    """Put this process on the client's core, with a fresh heap."""
    place(cores()[0])
    gc.collect()


def percentile(values: list[float], share: float) -> float:
    """Return the value below which `share` of the others lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
