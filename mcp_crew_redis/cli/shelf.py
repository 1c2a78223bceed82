"""Keeps the demo's items through the manager, and asks the server about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from os.path import commonprefix

import anyio

from mcp_crew_redis._wire.keys import KeySpace
from mcp_crew_redis.cli.dialogue import Readings
from mcp_crew_redis.cli.items import Item, digest_of
from mcp_crew_redis.clock import Clock
from mcp_crew_redis.crew import CrewRedis
from mcp_crew_redis.types import DataType

__all__ = ["Burst", "Row", "Shelf", "Written", "rows_of", "unequal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """An item that the server has acknowledged.

    Attributes:
        item: The item.
        key: Its key.
        bytes: What the server spends on it, key and overhead included.
        write_us: Microseconds that writing it took.
    """

    item: Item
    key: str
    bytes: int
    write_us: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What the table tells of the items of one tenant, type and kind.

    Attributes:
        keys: How many there are.
        kind: Their row of the TTL table; "-" for the type's usual one.
        key: Their key; of several, what their keys begin with and `*`.
        ttl: Seconds that the first of them to expire has left; None: one has gone.
        bytes: All of theirs.
        write_us: Microseconds that writing one took here, on average.
        read_us: Microseconds that reading one took in the other process, on average.
    """

    keys: int
    kind: str
    key: str
    ttl: float | None
    bytes: int
    write_us: float
    read_us: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """Many reads at once: how many were right, and how long all of them took."""

    read_count: int
    equal_count: int
    seconds: float


class Shelf:
    """Writes and reads items through the tenants of one crew."""

    def __init__(self, crew: CrewRedis, clock: Clock) -> None:
        self._crew = crew
        self._clock = clock
        self._keys = KeySpace(crew.settings.values.prefix)

    async def write(self, item: Item) -> Written:
        """Store an item, for as long as the policy lets its kind live."""
        tenant = self._crew.tenant(item.tenant_id)
        began = self._clock.monotonic()
        if item.data_type is DataType.COUNTER:
            assert isinstance(item.value, int)
            await tenant.increment(item.data_type, item.identifier, item.value)
        else:
            await tenant.set(
                item.data_type, item.identifier, item.value, kind=item.kind
            )
        took = (self._clock.monotonic() - began) * 1e6
        key = self._keys.tenant(item.tenant_id).key(item.data_type, item.identifier)
        size = await self._crew.redis.memory_usage(key)
        return Written(item=item, key=key.decode(), bytes=size or 0, write_us=took)

    async def read_many(self, items: Sequence[Item], count: int) -> Burst:
        """Make `count` reads at once, each a caller of its own; compare each.

        The comparison is not part of the time.
        """
        answers: list[tuple[Item, object]] = []

        async def read_one(item: Item) -> None:
            tenant = self._crew.tenant(item.tenant_id)
            answers.append((item, await tenant.get(item.data_type, item.identifier)))

        began = self._clock.monotonic()
        async with anyio.create_task_group() as tasks:
            for number in range(count):
                tasks.start_soon(read_one, items[number % len(items)])
        seconds = self._clock.monotonic() - began
        equal_count = sum(value == item.value for item, value in answers)
        return Burst(read_count=len(answers), equal_count=equal_count, seconds=seconds)

    async def names_by_tenant(self) -> dict[str, set[tuple[str, str, str]]]:
        """Return what the server has of every tenant there is, found by SCAN.

        What the layer remembers of a tenant for itself is not counted, nor are events.
        """
        found: dict[str, set[tuple[str, str, str]]] = {}
        types = {data_type.value for data_type in DataType} - {DataType.EVENT.value}
        async for raw in self._crew.redis.scan_iter(match=f"{self._keys.prefix}*"):
            key = self._keys.parse(raw)
            if key is not None and key.namespace in types:
                name = (key.tenant, key.namespace, key.identifier)
                found.setdefault(key.tenant, set()).add(name)
        return found

    async def socket_read_count(self) -> int:
        """Return how often the server has read from its sockets so far."""
        stats = await self._crew.redis.info("stats")
        return int(stats["total_reads_processed"])


def unequal(items: Sequence[Item], readings: Readings) -> list[Item]:
    """Return the items that were not read as they were stored, or do not expire."""
    return [item for item in items if not _is_right(item, readings)]


def _is_right(item: Item, readings: Readings) -> bool:
    reading = readings.get(item.name)
    if reading is None or reading.ttl is None:
        return False
    return reading.digest == digest_of(item.value) and 0 < reading.ttl < float("inf")


def rows_of(written: Sequence[Written], readings: Readings) -> list[Row]:
    """Return the table: one row for each tenant, type and kind."""
    groups = groupby(
        written, lambda one: (one.item.tenant_id, one.item.data_type, one.item.kind)
    )
    return [_row_of(list(group), readings) for _, group in groups]


def _row_of(written: Sequence[Written], readings: Readings) -> Row:
    count = len(written)
    keys = [one.key for one in written]
    found = [readings.get(one.item.name) for one in written]
    ttls = [None if one is None else one.ttl for one in found]
    left = [ttl for ttl in ttls if ttl is not None]
    return Row(
        keys=count,
        kind=written[0].item.kind or "-",
        key=keys[0] if count == 1 else f"{commonprefix(keys)}*",  # noqa: RUF071
        ttl=min(left) if len(left) == count else None,
        bytes=sum(one.bytes for one in written),
        write_us=sum(one.write_us for one in written) / count,
        read_us=sum(one.read_us for one in found if one is not None) / count,
    )
