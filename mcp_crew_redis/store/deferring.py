"""Counters that go on without Redis: amounts wait in the journal, under a number each.

Whoever comes while something waits goes behind it, so a writer's numbers reach the
server in their order. While what waits is being sent, callers wait for its end: then
they are exact again.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from mcp_crew_redis._wire.keys import TenantKeys
from mcp_crew_redis.errors import (
    ConnectionLostError,
    FallbackFullError,
    UnavailableError,
)
from mcp_crew_redis.store.context import StoreContext
from mcp_crew_redis.store.counter_ledger import CounterLedger
from mcp_crew_redis.store.counters import SCRIPT, Command, Counters
from mcp_crew_redis.store.counting import fresh
from mcp_crew_redis.store.entry import Entry
from mcp_crew_redis.store.journal.entries import Delta
from mcp_crew_redis.store.tally import SYNC, Batch, Call, Tally
from mcp_crew_redis.types import DataType

__all__ = ["DeferringCounters"]


class DeferringCounters(Counters):
    """Counters with a journal behind them.

    Args:
        context: The store's parts.
        writer_id: As for `Counters`.
        ledger: The journal, as counters see it.
    """

    def __init__(
        self, context: StoreContext, writer_id: str, ledger: CounterLedger
    ) -> None:
        super().__init__(context, writer_id)
        self._keys = context.keys
        self._ledger = ledger

    # --- operations -------------------------------------------------------------------

    # No coroutine function of its own: one frame less for every live caller.
    def increment(  # pyright: ignore[reportIncompatibleMethodOverride] - awaited alike
        self, keys: TenantKeys, identifier: str, amount: int, ttl_ms: int
    ) -> Coroutine[Any, Any, int]:
        """Add `amount`; without Redis return the value as believed.

        That is the last value seen here and all that waits here, whatever others add.

        Raises:
            FallbackFullError: The journal is full; nothing was added.
            DataError: As for `Counters.increment`.
            ConflictError: Likewise.
            UnavailableError: Redis did not answer and this is not for the journal:
                see `Fallback`.
        """
        if self._ledger.deltas:
            key = keys.key(DataType.COUNTER, identifier)
            if self._ledger.has_sendable(key) and not self._is_held(key):
                return self.defer(keys, identifier, amount, ttl_ms)
        return super().increment(keys, identifier, amount, ttl_ms)

    def _is_held(self, key: bytes) -> bool:
        tally = self._tallies.get(key)
        return tally is not None and tally.driver is SYNC

    async def defer(
        self, keys: TenantKeys, identifier: str, amount: int, ttl_ms: int
    ) -> int:
        """Have the journal add `amount` when it can, and return the value as believed.

        Raises:
            FallbackFullError: The journal is full.
            UnavailableError: Nothing is to be added and nothing is known.
        """
        tally = self._tally(keys, identifier)
        call = Call(amount, ttl_ms)
        if not amount and self._ledger.estimate(tally.key) is None:
            raise ConnectionLostError(
                "Redis is away, and the counter is not known here"
            )
        self._ledger.keep_call(tally, call, self._writer, self._number)
        if tally.driver is None and not tally.waiting and tally.batch is None:
            self._tallies.pop(tally.key, None)
        await self._ledger.committed()
        assert isinstance(call.outcome, int)
        return call.outcome

    async def entry(self, keys: TenantKeys, identifier: str) -> Entry[object] | None:
        """Return the counter's value and where it was read; None if there is none.

        Raises:
            UnavailableError: Redis did not answer, and nothing waits for it here.
        """
        key = keys.key(DataType.COUNTER, identifier)
        if key in self._ledger.deltas:
            return self._ledger.entry(key)
        value = await self.read(keys, identifier)
        if value is None:
            return None
        return Entry(
            value=value,
            source="redis",
            age=0.0,
            is_stale=False,
            stamp=self._now_us(),
            expires_at=None,
        )

    def forget(self, key: bytes) -> None:
        """Forget a counter that was deleted, and what waits for it."""
        super().forget(key)
        self._ledger.forget(key)

    # --- what becomes of batches ------------------------------------------------------

    def _added(self, tally: Tally, batch: Batch, value: int) -> None:
        command = self._command(tally, batch)
        self._ledger.added(tally.key, value, batch.made_us, command)

    def _keeps(self, tally: Tally, batch: Batch, error: UnavailableError) -> bool:
        if not self._ledger.takes(error):
            return False
        if not batch.delta and self._ledger.estimate(tally.key) is None:
            return False  # nothing to add, and nothing known to answer
        try:
            self._ledger.keep_batch(tally, batch, self._writer)
        except FallbackFullError as full:
            if batch.is_uncertain:
                return False  # it may have been added, which is more to know
            for call in batch.calls:
                call.settle(fresh(full))
        self._defer_waiting(tally)
        return True

    async def _committed(self) -> None:
        await self._ledger.committed()

    # --- synchronisation --------------------------------------------------------------

    def hold(self, key: bytes) -> bool:
        """Have callers of a counter wait: what the journal holds of it is being sent.

        Returns:
            Whether they do, until `release`; not while a batch of theirs is under way.
        """
        tally = self._tallies.get(key)
        if tally is None:
            parsed = self._keys.parse(key)
            assert parsed is not None, "a key that this layer did not build"
            tally = self._tally(self._keys.tenant(parsed.tenant), parsed.identifier)
        elif tally.driver is not None:
            return False
        elif tally.batch is not None:  # sent, and all of its callers have gone
            try:
                self._ledger.keep_batch(tally, tally.batch, self._writer)
            except FallbackFullError:
                return False
            tally.batch = None
            self._uncertain.pop(key, None)
            return False
        tally.driver = SYNC
        return True

    def release(self, key: bytes) -> None:
        """Let callers of a counter go on, or into the journal if it still holds any."""
        tally = self._tallies.get(key)
        if tally is None or tally.driver is not SYNC:
            return
        tally.driver = None
        if self._ledger.has_sendable(key):
            self._defer_waiting(tally)
        self._hand_over(tally)

    def call(self, delta: Delta, floor: bytes) -> Command:
        """Return the script that adds a delta, once however often it is run."""
        numbers = (delta.sequence, delta.amount, delta.ttl_ms, delta.made_us)
        return SCRIPT, (delta.key, floor), (delta.writer, *numbers)

    def landed(self, delta: Delta, value: int, floor: bytes) -> None:
        """Take note that a delta was added and what came of it."""
        now_us = self._now_us()
        self._ledger.added(delta.key, value, now_us, self.call(delta, floor))

    def _defer_waiting(self, tally: Tally) -> None:
        """Send all who wait into the journal."""
        waiting, tally.waiting = tally.waiting, {}
        for call in waiting:
            try:
                self._ledger.keep_call(tally, call, self._writer, self._number)
            except UnavailableError as error:
                call.settle(fresh(error))
