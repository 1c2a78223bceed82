"""Tenants' values on the wire, with the pure layer's key, header, stamp, codec, TTL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import anyio

from mcp_crew_redis._core.client import PipelinedRedis
from mcp_crew_redis._core.statistics import NodeStatistics
from mcp_crew_redis._wire.codec import MsgpackCodec
from mcp_crew_redis._wire.header import seal, unseal
from mcp_crew_redis._wire.keys import KeySpace
from mcp_crew_redis._wire.stamp import HybridClock
from mcp_crew_redis._wire.ttl import TtlPolicy
from mcp_crew_redis.clock import Clock
from mcp_crew_redis.settings import ValueSection
from mcp_crew_redis.types import DataType

__all__ = ["Burst", "ReadBack", "Record", "Shelf", "Written"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One value to keep.

    Attributes:
        tenant_id: Whose it is.
        data_type: Its namespace.
        identifier: Its name within the namespace.
        kind: Row of the TTL table; None for the type's usual one.
        server: The MCP server that it came from.
        holds: What it is, in two words, for people.
        value: The value.
    """

    tenant_id: str
    data_type: DataType
    identifier: str
    kind: str | None
    server: str
    holds: str
    value: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A record that the server has acknowledged."""

    record: Record
    key: bytes
    stamp: int
    byte_count: int
    write_us: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadBack:
    """What came back for a written record.

    Attributes:
        written: What had been written.
        is_equal: Whether value and stamp are those that were written.
        ttl_ms: Milliseconds that the key lives on, as the server says.
        read_us: Microseconds that the read took.
    """

    written: Written
    is_equal: bool
    ttl_ms: int
    read_us: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """Many reads at once: how many were right, and how long all of them took."""

    read_count: int
    equal_count: int
    seconds: float


class Shelf:
    """Writes and reads records through one client.

    Raises:
        ConfigurationError: The settings name a prefix or a TTL that cannot be.
    """

    def __init__(
        self, redis: PipelinedRedis, clock: Clock, settings: ValueSection
    ) -> None:
        self._redis = redis
        self._clock = clock
        self._keys = KeySpace(settings.prefix)
        self._ttls = TtlPolicy(settings.ttl, random=Random())  # noqa: S311 - jitter
        self._codec = MsgpackCodec()
        self._stamps = HybridClock(clock)

    @property
    def wire(self) -> NodeStatistics:
        """What the client did so far."""
        return self._redis.statistics()

    async def calibrate(self) -> None:
        """Measure the server's clock, which stamps and expiries follow."""
        sent = self._clock.monotonic()
        seconds, micros = await self._redis.time()
        server_us = seconds * 1_000_000 + micros
        self._stamps.calibrate(server_us, sent, self._clock.monotonic())

    async def write(self, record: Record) -> Written:
        """Store `record` with its time to live."""
        key = self.key_of(record)
        ttl_ms = self._ttls.milliseconds(record.data_type, kind=record.kind)
        began = self._clock.monotonic()
        stamp = self._stamps.stamp()
        expires_at_ms = self._stamps.now_ms() + ttl_ms
        data = seal(stamp, self._codec.encode(record.value), expires_at_ms)
        await self._redis.set(key, data, px=ttl_ms)
        return Written(
            record=record,
            key=key,
            stamp=stamp,
            byte_count=len(data),
            write_us=(self._clock.monotonic() - began) * 1e6,
        )

    async def read(self, written: Written) -> ReadBack:
        """Read what was written and compare."""
        began = self._clock.monotonic()
        data = await self._redis.get(written.key)
        is_equal = self._is_equal(written, data)
        read_us = (self._clock.monotonic() - began) * 1e6
        return ReadBack(
            written=written,
            is_equal=is_equal,
            ttl_ms=await self._redis.pttl(written.key),
            read_us=read_us,
        )

    async def read_many(self, written: Sequence[Written], count: int) -> Burst:
        """Make `count` reads at once, each a caller of its own; compare each.

        The comparison is not part of the time.
        """
        answers: list[tuple[Written, bytes | str | None]] = []

        async def read_one(one: Written) -> None:
            answers.append((one, await self._redis.get(one.key)))

        began = self._clock.monotonic()
        async with anyio.create_task_group() as tasks:
            for number in range(count):
                tasks.start_soon(read_one, written[number % len(written)])
        seconds = self._clock.monotonic() - began
        equal_count = sum(self._is_equal(one, data) for one, data in answers)
        return Burst(read_count=len(answers), equal_count=equal_count, seconds=seconds)

    async def keys_of(self, tenant_id: str, types: Sequence[DataType]) -> set[bytes]:
        """Return the keys of one tenant that the server has, found by SCAN."""
        tenant = self._keys.tenant(tenant_id)
        found: set[bytes] = set()
        for data_type in types:
            pattern = tenant.pattern(data_type)
            found.update([key async for key in self._redis.scan_iter(match=pattern)])
        return found

    async def socket_read_count(self) -> int:
        """Return how often the server has read from its sockets so far."""
        stats = await self._redis.info("stats")
        return int(stats["total_reads_processed"])

    def key_of(self, record: Record) -> bytes:
        """Return the key of `record`."""
        tenant = self._keys.tenant(record.tenant_id)
        return tenant.key(record.data_type, record.identifier)

    def _is_equal(self, written: Written, data: bytes | str | None) -> bool:
        if not isinstance(data, bytes):
            return False
        sealed = unseal(data)
        if sealed.is_tombstone or sealed.stamp != written.stamp:
            return False
        return self._codec.decode(sealed.payload) == written.record.value
