"""Deletes of synchronised values: what is left where they stood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mcp_crew_redis._wire.header import seal_tombstone
from mcp_crew_redis._wire.ttl import ttl_ms
from mcp_crew_redis.store.context import StoreContext
from mcp_crew_redis.store.gate import Gate
from mcp_crew_redis.store.ordered import DUPLICATE, REFUSED, STORED, Order

__all__ = ["Graves"]

_NOTHING_STANDS: Final = 0


class Graves:
    """Writes tombstones: a write that is older and arrives later is refused by them."""

    __slots__ = ("_lives_ms", "_order", "_write")

    def __init__(self, context: StoreContext, gate: Gate, order: Order) -> None:
        self._order = order
        self._write = gate.write_surely
        self._lives_ms = ttl_ms(context.tombstone_ttl)

    async def bury(self, keys: Sequence[bytes], floor: bytes) -> int:
        """Leave a tombstone under each key and return how many held a live value.

        Where the reply was lost and the script sent again, its tombstones are found
        standing, or replaced by newer values. They count as values deleted: what they
        replaced is not known any more.

        Args:
            keys: Of one tenant, each once, a bounded number.
            floor: The key of the tenant's floor.

        Raises:
            ConflictError: Newer writes of others stood in the way time after time.
            UnavailableError: Redis did not answer.
        """
        burial = _Burial(keys)

        async def once(stamp: int) -> tuple[int, int, int]:
            tombstone = seal_tombstone(stamp, stamp // 1_000 + self._lives_ms)
            args = (tombstone, self._lives_ms)
            names = (*burial.left, floor)
            answer, is_doubtful = await self._write("delete_newer", names, args)
            burial.note(answer, is_doubtful=is_doubtful)
            return burial.outcome, burial.stands, burial.count

        outcome, stands, count = await once(self._order.stamp())
        if outcome in REFUSED:
            return await self._order.insist(once, stands)
        return count


class _Burial:
    """How far a delete has come.

    Attributes:
        left: Keys that are still to be deleted.
        count: Live values deleted.
        outcome: One of `REFUSED` while keys are left.
        stands: The newest stamp among those.
    """

    __slots__ = ("count", "left", "outcome", "stands")

    def __init__(self, keys: Sequence[bytes]) -> None:
        self.left = list(keys)
        self.count = 0
        self.outcome = DUPLICATE
        self.stands = _NOTHING_STANDS

    def note(self, answer: Sequence[int], *, is_doubtful: bool) -> None:
        """Take in the script's answer: outcome, stamp, liveness of each key left.

        What stands in the way of a doubtful one is left alone.
        """
        left: list[bytes] = []
        self.outcome, self.stands = DUPLICATE, _NOTHING_STANDS
        triples = zip(answer[::3], answer[1::3], answer[2::3], strict=True)
        for key, (outcome, stands, was_live) in zip(self.left, triples, strict=True):
            if outcome in REFUSED and not is_doubtful:
                left.append(key)
                self.outcome, self.stands = outcome, max(self.stands, stands)
            elif was_live or outcome != STORED:
                self.count += 1
        self.left = left
