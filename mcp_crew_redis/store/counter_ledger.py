"""What counters leave in the journal, and what may be said of them meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mcp_crew_redis._core.port import Call as ScriptCall
from mcp_crew_redis.store.entry import Entry
from mcp_crew_redis.store.fallback import Fallback
from mcp_crew_redis.store.journal.entries import Delta
from mcp_crew_redis.store.stamps import StampSource
from mcp_crew_redis.store.tally import Batch, Call, Tally
from mcp_crew_redis.store.window import ReplayWindow

__all__ = ["CounterLedger"]

MAX_SEEN: Final = 10_000
"""Counters whose last value is remembered; the one remembered longest goes first."""


class CounterLedger:
    """The journal and the window, as counters see them.

    Args:
        fallback: The journal.
        window: Remembers what was added.
        stamps: Time.

    Attributes:
        deltas: What waits for each counter; a table of the journal's.
        committed: Awaited until what waits is as safe as was asked for.
        takes: Whether what ended so may wait; see `Fallback.takes`.
    """

    def __init__(
        self, fallback: Fallback, window: ReplayWindow, stamps: StampSource
    ) -> None:
        self.deltas = fallback.journal.deltas
        self.committed, self.takes = fallback.committed, fallback.takes
        self._journal = fallback.journal
        self._window = window
        self._stamps = stamps
        self._values: dict[bytes, int] = {}

    def has_sendable(self, key: bytes) -> bool:
        """Whether something waits for a counter, other than for a decision."""
        return key in self.deltas and self._journal.first(key) is not None

    # --- values -----------------------------------------------------------------------

    def estimate(self, key: bytes) -> int | None:
        """Return the last value seen and all that waits here; None for neither."""
        waits = self.deltas.get(key)
        value = self._values.get(key)
        if waits is None:
            return value
        return (value or 0) + sum(delta.amount for delta in waits)

    def entry(self, key: bytes) -> Entry[object]:
        """Return what is known of a counter for which something waits."""
        made_us = self.deltas[key][0].made_us
        age_us = self._stamps.hybrid.now_us() - made_us
        return Entry(
            value=self.estimate(key),
            source="journal",
            age=max(0, age_us) / 1e6,
            is_stale=True,
            stamp=made_us,
            expires_at=None,
        )

    def added(self, key: bytes, value: int, made_us: int, call: ScriptCall) -> None:
        """Take note of an acknowledged addition and of the value after it."""
        values = self._values
        if key not in values and len(values) >= MAX_SEEN:
            del values[next(iter(values))]
        values[key] = value
        self._window.note(key, made_us, call)

    def forget(self, key: bytes) -> None:
        """Forget a counter that was deleted, and what waits for it."""
        self._values.pop(key, None)
        self._window.forget_counter(key)
        for delta in list(self.deltas.get(key, ())):
            self._journal.remove(delta)

    def forget_tenant(self, tenant_id: str) -> None:
        """Forget the values of a tenant's counters: it was purged."""
        tag = b"{%s}" % tenant_id.encode()
        for key in [key for key in self._values if tag in key]:
            del self._values[key]

    # --- writing ----------------------------------------------------------------------

    def keep_batch(self, tally: Tally, batch: Batch, writer: str) -> None:
        """Accept a batch that Redis did not answer for, and tell its callers.

        Raises:
            FallbackFullError: The journal is full.
        """
        before = self.estimate(tally.key)
        if batch.delta:
            now_us = self._stamps.hybrid.now_us()
            delta = self._delta(tally, writer, batch.sequence, batch.delta)
            delta.ttl_ms, delta.made_us = batch.ttl_ms, batch.made_us
            delta.is_frozen = batch.is_uncertain
            delta.frozen_us = now_us if batch.is_uncertain else 0
            self._journal.add(delta)
        value = before or 0
        for call in batch.calls:
            value += call.amount
            call.defer(value)

    def keep_call(
        self, tally: Tally, call: Call, writer: str, number: Callable[[], int]
    ) -> None:
        """Accept one caller's amount, and tell it the estimate.

        Raises:
            FallbackFullError: The journal is full.
        """
        if call.amount:
            delta = self._delta(tally, writer, number(), call.amount)
            delta.ttl_ms = call.ttl_ms
            self._journal.add(delta)
        call.defer(self.estimate(tally.key) or 0)

    def _delta(self, tally: Tally, writer: str, sequence: int, amount: int) -> Delta:
        return Delta(
            key=tally.key,
            tenant_id=tally.tenant_id,
            writer=writer,
            sequence=sequence,
            amount=amount,
            ttl_ms=1,
            made_us=self._stamps.hybrid.now_us(),
            is_wall_time=not self._stamps.is_ready,
        )
