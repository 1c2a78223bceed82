"""What the tests of the consumers' scripts share: one group of one stream."""

from __future__ import annotations

from typing import Any, NamedTuple

import redis.asyncio

from mcp_crew_redis._core.scripts import ScriptLoader

__all__ = ["DAY", "DEAD", "GROUP", "PARKED", "STREAM", "TALLY", "Bench", "Pending"]

STREAM = b"p:events:{acme}:order.paid:normal"
DEAD, PARKED = b"p:event:{acme}:dead:g", b"p:event:{acme}:parked:g"
TALLY = b"p:event:{acme}:tally:g"
GROUP = "g"
DAY = 86_400_000  # milliseconds


class Pending(NamedTuple):
    """One line of XPENDING."""

    consumer: bytes
    idle: int
    count: int


class Bench:
    """A stream with entries `m` and `d`, its group, and the scripts that work on it."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self.client = client
        self._scripts = ScriptLoader()

    async def run(self, name: str, keys: tuple[bytes, ...], *args: Any) -> Any:
        """Run a script by its name, arguments checked against its header."""
        script = self._scripts.load(name)
        script.check(keys, args)
        return await self.client.eval(script.source, len(keys), *keys, *args)

    async def fill(self, count: int, *, reader: str = "", group: str = GROUP) -> list:
        """Add entries, have `reader` read them, and return their ids."""
        ids = [
            await self.client.xadd(STREAM, {"m": f"m{at}", "d": f"d{at}"})
            for at in range(count)
        ]
        await self.make(group)
        if reader:
            await self.client.xreadgroup(group, reader, {STREAM: ">"})
        return ids

    async def make(self, group: str = GROUP) -> None:
        """Make a group, unless it is there."""
        try:
            await self.client.xgroup_create(STREAM, group, id="0")
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def deliver(self, consumer: str, *ids: bytes, times: int = 1) -> None:
        """Raise the number of deliveries."""
        for _ in range(times):
            await self.client.xclaim(STREAM, GROUP, consumer, 0, list(ids))

    async def park(self, entry_id: bytes, wait_ms: int) -> None:
        """Have an entry wait, whoever has it."""
        await self.client.zadd(PARKED, {self.member(entry_id): await self.now(wait_ms)})

    def member(self, entry_id: bytes) -> bytes:
        """Return what stands in the set of what waits."""
        return STREAM + b"|" + entry_id

    async def now(self, plus_ms: int = 0) -> int:
        """Return the server's time in milliseconds."""
        seconds, micros = await self.client.time()
        return int(seconds) * 1_000 + int(micros) // 1_000 + plus_ms

    async def pending(self) -> dict[bytes, Pending]:
        """Return what is pending, by id."""
        lines = await self.client.xpending_range(STREAM, GROUP, "-", "+", 10_000)
        return {
            line["message_id"]: Pending(
                line["consumer"],
                line["time_since_delivered"],
                line["times_delivered"],
            )
            for line in lines
        }

    async def letters(self) -> list[dict[bytes, bytes]]:
        """Return the dead letters."""
        return [fields for _, fields in await self.client.xrange(DEAD)]

    async def tally(self) -> dict[bytes, int]:
        """Return what the group has counted."""
        counts = await self.client.hgetall(TALLY)
        return {name: int(count) for name, count in counts.items()}

    async def consumers(self) -> set[bytes]:
        """Return the names of the group's consumers."""
        return {one["name"] for one in await self.client.xinfo_consumers(STREAM, GROUP)}
