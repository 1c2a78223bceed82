"""How a transaction gets into Redis: at once, again, or by way of the journal."""

from __future__ import annotations

import asyncio
from typing import Final

from mcp_crew_redis._wire.header import MAX_STAMP
from mcp_crew_redis._wire.ttl import ttl_ms
from mcp_crew_redis.errors import (
    ConflictError,
    ConnectionLostError,
    FallbackFullError,
    UnavailableError,
)
from mcp_crew_redis.events.hub import EventHub
from mcp_crew_redis.events.operations import Batch
from mcp_crew_redis.events.outbox import Outbox
from mcp_crew_redis.events.transaction_relay import (
    APPLIED,
    REPEATED,
    STANDS,
    TransactionRelay,
    refusal,
)
from mcp_crew_redis.store.counting import may_have_happened
from mcp_crew_redis.store.gate import Gate
from mcp_crew_redis.store.journal.entries import Posting
from mcp_crew_redis.store.ordered import MAX_TRIES

__all__ = ["KIND", "Transactor"]

KIND: Final = "transaction"
"""Of the journal's entries."""
BEHIND: Final = "what comes before this transaction waits in the journal"


class Transactor:
    """Applies the transactions of all tenants of one running crew.

    Args:
        hub: What the rooms of the events share.
        outbox: Knows which streams have events that wait.

    Attributes:
        values: Checks and encodes values.
        mark_ms: How long a transaction is remembered, in milliseconds.
        aclose: Tells the registry what it has not been told.
    """

    def __init__(self, hub: EventHub, outbox: Outbox) -> None:
        store, context = hub.store, hub.store.context
        self.values = store.values
        self.mark_ms = ttl_ms(context.tombstone_ttl)
        self._hub = hub
        self._gate = Gate(hub.port)
        self._stamps = context.stamps
        self._registry = store.registry
        self._fallback = store.fallback
        self._journal = store.journal
        self._passed = outbox.passed
        self._relay = TransactionRelay(hub, self.mark_ms)
        self.aclose = self._relay.notes.aclose
        store.landing.employ(KIND, self._relay)

    def now_ms(self) -> int:
        """Return the time by this machine's clock, in milliseconds since 1970."""
        return round(self._hub.clock.wall() * 1_000)

    async def apply(self, batch: Batch) -> tuple[int, list[str]] | None:
        """Apply a transaction, all or nothing; errors as in `Transaction`.

        Returns:
            The stamp of its values, and what came of each counter and event; None when
            it waits in the journal.
        """
        if batch.messages and self._hub.on_used:
            self._hub.used()
        try:
            await self._prepare(batch)
            if self._journal.postings and await self._is_behind(batch):
                raise ConnectionLostError(BEHIND)
            told = await self._insist(batch)
        except UnavailableError as error:
            await self._defer(batch, error)
            return None
        except asyncio.CancelledError:
            self._fallback.doubt(batch.writes)
            raise
        stamp = int(told[0])
        self._landed(batch, stamp)
        return stamp, told[1:]

    async def _is_behind(self, batch: Batch) -> bool:
        """Whether something waits in the journal that comes before this.

        While Redis answers it waits for that, for at most one operation timeout:
        whoever is faster than the journal drains is slowed down.
        """
        if not await self._relay.passed(batch.floor):
            return True
        for stream in {each.stream for each in batch.messages}:
            waits = self._journal.first(stream) is not None
            if waits and not await self._passed(stream):
                return True
        return False

    async def _prepare(self, batch: Batch) -> None:
        """Do what must precede the first write for a tenant and of a type."""
        tenant_id = batch.keys.tenant_id
        if not self._stamps.is_ready:
            await self._stamps.ready()
        if not self._registry.is_noted(tenant_id):
            await self._registry.note(tenant_id)
        for event_type in batch.event_types:
            await self._registry.note_type(tenant_id, event_type)

    async def _insist(self, batch: Batch) -> list[str]:
        """Send until no newer value stands in the way; return what the script told."""
        stamp = self._stamps.stamp()
        for attempt in range(MAX_TRIES):
            name, keys, args = batch.call(stamp, self.mark_ms)
            reply, _ = await self._gate.write_surely(name, keys, args)
            outcome = int(reply[0])
            if outcome in (APPLIED, REPEATED):
                return _text(reply[1]).split(" ")
            if outcome != STANDS:
                raise refusal(outcome)
            stands = int(reply[1])
            if stands >= MAX_STAMP - 4**MAX_TRIES:
                break
            stamp = self._stamps.above(stands + 4**attempt - 1)
        raise ConflictError(
            f"somebody else's newer write stood in the way {MAX_TRIES} times"
        )

    # --- afterwards -------------------------------------------------------------------

    def _landed(self, batch: Batch, stamp: int) -> None:
        """Let older writes wait no more, and remember what the server may lose."""
        fallback = self._fallback
        for key, write in batch.writes.items():
            if write.kind in "ST" and not batch.is_conditional:
                fallback.landed(key, stamp, write.bytes_at(stamp))
            elif fallback.dirty:
                fallback.replaced(key, stamp)
        if not batch.is_conditional:
            self._relay.remember(batch, stamp)

    async def _defer(self, batch: Batch, error: UnavailableError) -> None:
        """Have it wait in the journal.

        Raises:
            FallbackFullError: The journal is full.
            UnavailableError: `error`, if this is not for the journal.
        """
        if batch.is_conditional or not self._fallback.takes(error):
            raise error
        posting = Posting(
            id=batch.id,
            tenant_id=batch.keys.tenant_id,
            kind=KIND,
            order_key=batch.floor,
            body=batch.pack(),
            made_us=self._fallback.stamp(),
        )
        try:
            await self._fallback.post(posting)
        except FallbackFullError as full:
            if may_have_happened(error):
                raise error from full  # it may be applied, which is more to know
            raise


def _text(told: bytes | str) -> str:
    return told.decode() if isinstance(told, bytes) else told
