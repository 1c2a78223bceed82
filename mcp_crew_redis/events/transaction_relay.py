"""How transactions that waited in the journal get into Redis."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Final

from mcp_crew_redis._core.breaker import CircuitState
from mcp_crew_redis._core.port import Call
from mcp_crew_redis._wire.header import MAX_STAMP
from mcp_crew_redis.errors import (
    CodecError,
    ConflictError,
    CrewRedisError,
    DataError,
    OverloadedError,
)
from mcp_crew_redis.events.hub import EventHub
from mcp_crew_redis.events.late_notes import LateNotes
from mcp_crew_redis.events.operations import SCRIPT, Batch
from mcp_crew_redis.store.journal.calls import EVENT_SCRIPTS, unpack_call
from mcp_crew_redis.store.journal.entries import Posting

__all__ = ["APPLIED", "REPEATED", "STANDS", "TransactionRelay", "refusal"]

STANDS, APPLIED, REPEATED, CROWDED, UNEQUAL, OVERFLOW, FORGOTTEN, OTHER = range(8)
"""The outcomes of transact.lua."""
_CROWDED_PAUSE: Final = 1.0
_MAX_INSISTED: Final = 10_000
_MAX_MARGIN_US: Final = 60_000_000
_CALL: Final = b"\x93"  # how what `pack_call` makes begins: a list of three


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
        self._journal, self._node = hub.store.journal, hub.port.client.node
        self._waiters: dict[bytes, asyncio.Event] = {}
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
        complaint = self._complaint(posting, reply)
        queue = self._journal.postings.get(posting.order_key, ())
        self._wake(posting, is_last=bool(complaint) or len(queue) <= 1)
        return complaint

    def _complaint(self, posting: Posting, reply: object) -> str:
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
        return "" if is_done else str(refusal(outcome))

    async def passed(self, floor: bytes) -> bool:
        """Return whether none of a tenant waits any more.

        While Redis answers it waits for that, for at most one operation timeout.
        """
        first = self._journal.first
        if first(floor) is not None and self._node.breaker.state is CircuitState.CLOSED:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._node.settings.command_timeout):
                    while first(floor) is not None:
                        await self._waiters.setdefault(floor, asyncio.Event()).wait()
        return first(floor) is None

    def _wake(self, posting: Posting, *, is_last: bool) -> None:
        """Let those go on who wait for the last one of a tenant."""
        if is_last and (waiter := self._waiters.pop(posting.order_key, None)):
            asyncio.get_running_loop().call_soon(waiter.set)  # when it has been dropped

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


def refusal(outcome: int) -> CrewRedisError:
    """Return the error for what the script refused; nothing was changed."""
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
