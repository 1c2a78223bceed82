"""Deletes of synchronised values: what is left where they stood."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from mcp_crew_redis._wire.header import seal_tombstone
from mcp_crew_redis._wire.keys import TenantKeys
from mcp_crew_redis._wire.ttl import ttl_ms
from mcp_crew_redis.errors import UnavailableError
from mcp_crew_redis.store.context import StoreContext
from mcp_crew_redis.store.fallback import Fallback
from mcp_crew_redis.store.gate import Gate
from mcp_crew_redis.store.ordered import DUPLICATE, REFUSED, Order

__all__ = ["Graves"]

_NOTHING_STANDS: Final = 0

Buried = tuple[int, bool]


class Graves:
    """Writes tombstones: a write that is older and arrives later is refused by them."""

    __slots__ = ("_dirty", "_fallback", "_lives_ms", "_order", "_unlink", "_write")

    def __init__(
        self, context: StoreContext, gate: Gate, order: Order, fallback: Fallback
    ) -> None:
        self._order = order
        self._write, self._unlink = gate.write, gate.write_plain
        self._lives_ms = ttl_ms(context.tombstone_ttl)
        self._fallback, self._dirty = fallback, fallback.dirty

    async def bury(self, tenant: TenantKeys, keys: Sequence[bytes]) -> Buried:
        """Leave a tombstone under each key.

        Args:
            tenant: Whose keys.
            keys: Each once, a bounded number.

        Returns:
            How many held a live value, and whether the journal has to see to some of
            them; what those replace is not known, they are counted.

        Raises:
            ConflictError: Newer writes of others stood in the way time after time.
            UnavailableError: Redis did not answer, and the journal did not take them.
        """
        burial = _Burial(keys, self._waiting(keys))
        stamp, tombstone = 0, b""

        async def once(at: int) -> tuple[int, int, int]:
            nonlocal stamp, tombstone
            stamp, tombstone = at, self._tombstone(at)
            names, args = (*burial.left, floor), (tombstone, self._lives_ms)
            sent = burial.left
            burial.note(await self._write("delete_newer", names, args))
            for key in set(sent).difference(burial.left):
                self._fallback.landed(key, stamp, tombstone)
            return burial.outcome, burial.stands, burial.count

        try:
            floor = await self._order.prepared(tenant)
            outcome, stands, count = await once(self._order.stamp())
            if outcome in REFUSED:
                count = await self._order.insist(once, stands)
        except UnavailableError as error:
            tombstone = tombstone or self._tombstone(self._fallback.stamp())
            left = [(key, tombstone) for key in burial.left]
            await self._fallback.keep(tenant, left, error, are_deletes=True)
            return burial.count + len(left), True
        except asyncio.CancelledError:
            self._fallback.doubt(keys)
            raise
        return count, False

    async def clear(self, tenant: TenantKeys, keys: Sequence[bytes]) -> Buried:
        """Remove values that have no order; arguments and answer as `bury`.

        They leave nothing behind, except where the journal has to see to them.
        """
        waiting = self._waiting(keys)
        stamp = self._fallback.stamp()
        try:
            count = int(await self._unlink("UNLINK", *keys))
        except UnavailableError as error:
            tombstone = self._tombstone(stamp)
            left = [(key, tombstone) for key in keys]
            await self._fallback.keep(tenant, left, error, are_deletes=True)
            return len(left), True
        except asyncio.CancelledError:
            self._fallback.doubt(keys)
            raise
        for key in waiting:
            self._fallback.replaced(key, stamp)
        return max(count, len(waiting)), False

    def _waiting(self, keys: Sequence[bytes]) -> frozenset[bytes]:
        """Return those keys under which a live value waits for Redis."""
        waits = (self._dirty.get(key) for key in keys if self._dirty)
        return frozenset(
            one.key for one in waits if one is not None and self._fallback.live(one)
        )

    def _tombstone(self, stamp: int) -> bytes:
        return seal_tombstone(stamp, stamp // 1_000 + self._lives_ms)


class _Burial:
    """How far a delete has come.

    Attributes:
        left: Keys that are still to be deleted.
        count: Live values deleted.
        outcome: One of `REFUSED` while keys are left.
        stands: The newest stamp among those.
    """

    __slots__ = ("_waiting", "count", "left", "outcome", "stands")

    def __init__(self, keys: Sequence[bytes], waiting: frozenset[bytes]) -> None:
        self._waiting = waiting  # live in the journal, if not in Redis
        self.left = list(keys)
        self.count = 0
        self.outcome = DUPLICATE
        self.stands = _NOTHING_STANDS

    def note(self, answer: Sequence[int]) -> None:
        """Take in the script's answer: outcome, stamp, liveness of each key left."""
        left: list[bytes] = []
        self.outcome, self.stands = DUPLICATE, _NOTHING_STANDS
        triples = zip(answer[::3], answer[1::3], answer[2::3], strict=True)
        for key, (outcome, stands, was_live) in zip(self.left, triples, strict=True):
            if outcome in REFUSED:
                left.append(key)
                self.outcome, self.stands = outcome, max(self.stands, stands)
            elif was_live or key in self._waiting:
                self.count += 1
        self.left = left
