"""Whether a value is there, how long it lives, and for how much longer."""

from __future__ import annotations

import math
from typing import Final

from mcp_crew_redis._wire.header import HEADER_BYTES
from mcp_crew_redis._wire.keys import TenantKeys
from mcp_crew_redis._wire.ttl import ttl_ms
from mcp_crew_redis.errors import CodecError, ConnectionLostError, UnavailableError
from mcp_crew_redis.store.fallback import Fallback
from mcp_crew_redis.store.gate import Gate
from mcp_crew_redis.store.journal.entries import Register
from mcp_crew_redis.store.kinds import VALUE_TYPES, check_keyed
from mcp_crew_redis.store.ordered import ABSENT, DUPLICATE, FOREIGN, REFUSED, Order
from mcp_crew_redis.store.values import Values
from mcp_crew_redis.types import DataType

__all__ = ["Lifetimes"]

_LAST_OF_HEADER: Final = HEADER_BYTES - 1


class Lifetimes:
    """What is asked about one value or counter without reading it.

    Positional, because every one of them is called through a facade.

    Args:
        gate: The way to Redis.
        order: The stamps.
        fallback: What happens when Redis does not answer.
        values: Opens and seals headers.
    """

    __slots__ = (
        "_dirty",
        "_fallback",
        "_order",
        "_read",
        "_read_script",
        "_values",
        "_write_plain",
        "_write_surely",
    )

    def __init__(
        self, gate: Gate, order: Order, fallback: Fallback, values: Values
    ) -> None:
        self._order = order
        self._fallback, self._dirty = fallback, fallback.dirty
        self._values = values
        self._read, self._read_script = gate.read, gate.read_script
        self._write_plain, self._write_surely = gate.write_plain, gate.write_surely

    async def exists(
        self, keys: TenantKeys, data_type: DataType, identifier: str
    ) -> bool:
        """Return whether there is a value; only its header travels."""
        key = self._key(keys, data_type, identifier)
        if data_type not in VALUE_TYPES:
            return bool(await self._read("EXISTS", key))
        if (waits := self._dirty.get(key)) is not None:
            return self._fallback.live(waits)
        header = await self._read("GETRANGE", key, 0, _LAST_OF_HEADER)
        return header != b"" and self._values.opened(header) is not None

    async def ttl(
        self, keys: TenantKeys, data_type: DataType, identifier: str
    ) -> float | None:
        """Return the seconds left, None when there is no value."""
        key = self._key(keys, data_type, identifier)
        if (waits := self._dirty.get(key)) is not None:
            return self._fallback.seconds_left(waits)
        if data_type not in VALUE_TYPES:
            left_ms = await self._read("PTTL", key)
        else:
            header, left_ms = await self._read_script("read_ttl", (key,))
            if header == b"" or self._values.opened(header) is None:
                return None
        if left_ms == -1:  # not our doing: all we write expires
            return math.inf
        return None if left_ms < 0 else left_ms / 1e3

    async def expire(
        self, keys: TenantKeys, data_type: DataType, identifier: str, ttl: float
    ) -> bool:
        """Give a live value another time to live; False when there is none."""
        key = self._key(keys, data_type, identifier)
        lives_ms = ttl_ms(ttl)
        if (waits := self._dirty.get(key)) is not None:
            return await self._expire_waiting(keys, waits, lives_ms)
        if data_type not in VALUE_TYPES:
            command = ("PEXPIRE", key, lives_ms)
            return bool(await self._write_plain(*command, is_repeatable=True))
        names = (key, await self._order.prepared(keys))

        async def once(stamp: int) -> tuple[int, int, int]:
            header = self._values.sealed(stamp, b"", lives_ms)
            args = (header, lives_ms)
            answer, is_doubtful = await self._write_surely("expire_newer", names, args)
            outcome, stands = answer
            if is_doubtful and outcome in REFUSED:
                outcome = DUPLICATE
            return outcome, stands, outcome

        outcome, stands, _ = await once(self._order.stamp())
        if outcome in REFUSED:
            outcome = await self._order.insist(once, stands)
        if outcome == FOREIGN:
            raise CodecError("not a value of this layer stands under the key")
        return outcome != ABSENT

    async def _expire_waiting(
        self, keys: TenantKeys, waits: Register, lives_ms: int
    ) -> bool:
        """Give a value that waits for Redis another time to live, as a later write."""
        if not self._fallback.live(waits):
            return False
        sealed = self._values.sealed(self._fallback.stamp(), waits.payload, lives_ms)
        await self._fallback.keep(keys, ((waits.key, sealed),), _waiting())
        return True

    @staticmethod
    def _key(keys: TenantKeys, data_type: DataType, identifier: str) -> bytes:
        check_keyed(data_type)
        return keys.key(data_type, identifier)


def _waiting() -> UnavailableError:
    return ConnectionLostError("the value waits for Redis; nothing was sent")
