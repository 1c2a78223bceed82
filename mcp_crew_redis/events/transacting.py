"""How a transaction gets into Redis: at once, again, or by way of the journal."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from mcp_crew_redis._core.port import Call
from mcp_crew_redis._wire.header import MAX_STAMP
from mcp_crew_redis._wire.ttl import ttl_ms
from mcp_crew_redis.errors import (
    CodecError,
    ConflictError,
    ConnectionLostError,
    DataError,
    FallbackFullError,
    OverloadedError,
    UnavailableError,
)
from mcp_crew_redis.events.hub import EventHub
from mcp_crew_redis.events.late_notes import LateNotes
from mcp_crew_redis.events.operations import SCRIPT, Batch
from mcp_crew_redis.events.outbox import Outbox
from mcp_crew_redis.store.counting import may_have_happened
from mcp_crew_redis.store.gate import Gate
from mcp_crew_redis.store.journal.calls import EVENT_SCRIPTS, unpack_call
from mcp_crew_redis.store.journal.entries import Posting
from mcp_crew_redis.store.ordered import MAX_TRIES

__all__ = ["KIND", "TransactionRelay", "Transactor"]

KIND: Final = "transaction"
"""Of the journal's entries."""
STANDS, APPLIED, REPEATED, CROWDED, UNEQUAL, OVERFLOW, FORGOTTEN, OTHER = range(8)
"""The outcomes of transact.lua."""
BEHIND: Final = "what comes before this transaction waits in the journal"
_CROWDED_PAUSE: Final = 1.0
_MAX_INSISTED: Final = 10_000
_MAX_MARGIN_US: Final = 60_000_000
_CALL: Final = b"\x93"  # how what `pack_call` makes begins: a list of three


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
        """Whether something waits in the journal that comes before this."""
        for key in (batch.floor, *{each.stream for each in batch.messages}):
            waits = self._journal.first(key) is not None
            if waits and not await self._passed(key):
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
                raise _refusal(outcome)
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


class TransactionRelay:
    """Lands transactions that waited in the journal; see `landing.Relay`.

    Those that a new server has refused to take back wait as calls of the script: what
    the replay window knows of them.

    Args:
        hub: What the rooms of the events share.
        mark_ms: How long a transaction is remembered, in milliseconds.

    Attributes:
        notes: Tells the registry what has landed.
    """

    def __init__(self, hub: EventHub, mark_ms: int) -> None:
        self.notes = LateNotes(hub)
        self._tenant = hub.keys.tenant
        self._mark_ms = mark_ms
        # No two clocks agree to the last minute.
        self._memory_us = mark_ms * 1_000 - min(mark_ms * 100, _MAX_MARGIN_US)
        self._window = hub.store.window
        self._now_us = hub.store.context.stamps.hybrid.now_us
        self._complained: dict[str, None] = {}  # tried again by their owner's decision

    def call(self, posting: Posting) -> Call:
        """Return the script that applies it, however often it is run."""
        if posting.body[:1] == _CALL:
            return unpack_call(posting.body, posting.made_us)
        is_insisted = posting.id in self._complained
        memory_us = MAX_STAMP if is_insisted else self._memory_us
        try:
            return self._batch(posting).call(posting.made_us, self._mark_ms, memory_us)
        except CodecError:
            return "read_ttl", (posting.order_key,), ()  # does nothing; see `settle`

    def settle(self, posting: Posting, reply: object) -> str:
        """Judge the answer: empty when nothing is left to do."""
        if not isinstance(reply, list):
            return "it is no transaction, or one of a newer release"
        outcome = int(reply[0])
        if outcome == FORGOTTEN:
            self._complain(posting)
            return (
                "older than REDIS_CREW_TOMBSTONE_TTL: it may have been applied, and "
                "nobody would know"
            )
        self._complained.pop(posting.id, None)
        if outcome == APPLIED:
            self._landed(posting)
        # Where the floor stands its tenant is gone, and what it would have written.
        is_done = outcome in (APPLIED, REPEATED, STANDS)
        return "" if is_done else str(_refusal(outcome))

    def _landed(self, posting: Posting) -> None:
        now_us = self._now_us()
        if posting.body[:1] == _CALL:
            call = unpack_call(posting.body, now_us)
            self._window.note(call[1][0], now_us, call)
            return
        batch = self._batch(posting)
        self.remember(batch, now_us)
        self.notes.add(posting.tenant_id, batch.event_types)

    def remember(self, batch: Batch, at: int) -> None:
        """Have a new server told of sums and events that the old one has taken.

        Values are remembered one by one, as those of other writes.
        """
        if SCRIPT in EVENT_SCRIPTS and (batch.sums or batch.messages):
            call = replace(batch, writes={}).call(at, self._mark_ms, self._memory_us)
            self._window.note(batch.mark, at, call)

    def _batch(self, posting: Posting) -> Batch:
        keys = self._tenant(posting.tenant_id)
        return Batch.unpack(posting.id, keys, posting.body)

    def _complain(self, posting: Posting) -> None:
        if len(self._complained) >= _MAX_INSISTED:
            self._complained.clear()
        self._complained[posting.id] = None


def _refusal(outcome: int) -> Exception:
    if outcome == UNEQUAL:
        return ConflictError("a value is not the one that if_stamp names")
    if outcome == OVERFLOW:
        return DataError("a counter would leave the range of signed 64-bit integers")
    if outcome == CROWDED:
        return OverloadedError(
            "too many events of the tenant wait for their time",
            retry_after=_CROWDED_PAUSE,
        )
    return DataError("a key holds another type than this layer writes there")


def _text(told: bytes | str) -> str:
    return told.decode() if isinstance(told, bytes) else told
