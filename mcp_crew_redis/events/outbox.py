"""The outbox: events that wait in the journal, and how they are handed on.

Each is handed on once, by its mark, and those of one stream in their order: while some
of a stream wait, whoever publishes to it goes behind them.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from mcp_crew_redis._core.breaker import CircuitState
from mcp_crew_redis._core.port import Call
from mcp_crew_redis._wire.streams import stream_name
from mcp_crew_redis._wire.uuid7 import id_text
from mcp_crew_redis.errors import UnavailableError
from mcp_crew_redis.events.calls import ADDED, FULL, MAX_SCHEDULED, PURGED, EventCalls
from mcp_crew_redis.events.event import EventReceipt
from mcp_crew_redis.events.hub import EventHub
from mcp_crew_redis.events.late_notes import LateNotes
from mcp_crew_redis.events.line import Draft
from mcp_crew_redis.log import get_logger
from mcp_crew_redis.store.journal.calls import EVENT, PUBLISH, unpack_call
from mcp_crew_redis.store.journal.entries import Posting, posting_of
from mcp_crew_redis.types import WriteOutcome

__all__ = ["Outbox"]

log = get_logger(__name__)

MAX_MARGIN: Final = 60.0
"""Seconds, at most a tenth of it all, by which an event is given up before its mark:
no two clocks agree to the last of them."""


class Outbox:
    """Posts events into the journal, and relays them when Redis is back.

    Args:
        hub: What the rooms of the events share.
        calls: Makes the scripts.

    Attributes:
        takes: Whether the journal may take what ended with an error.
        committed: Returns when all accepted is as safe as was asked for.
        aclose: Has what landed noted, if that is quickly done.
    """

    def __init__(self, hub: EventHub, calls: EventCalls) -> None:
        store = hub.store
        self._calls = calls
        self._fallback, self._window = store.fallback, store.window
        self._postings, self._first = store.journal.postings, store.journal.first
        self._keys = store.keys
        self._stamps = store.context.stamps
        self._now_us = self._stamps.hybrid.now_us
        self.takes, self.committed = self._fallback.takes, self._fallback.committed
        self._node = hub.port.client.node
        memory_ms = calls.mark_ms
        margin_ms = min(memory_ms / 10, MAX_MARGIN * 1_000)
        self._max_age_us = round((memory_ms - margin_ms) * 1_000)
        self._given_up: set[str] = set()  # between `call` and `settle`
        self._waiters: dict[bytes, asyncio.Event] = {}
        self._notes = LateNotes(hub)
        self.aclose = self._notes.aclose
        store.landing.employ(EVENT, self)

    def __repr__(self) -> str:
        return f"<Outbox {len(self._postings)} streams>"

    # --- in -------------------------------------------------------------------------

    async def defer(
        self, draft: Draft, call: Call, error: UnavailableError
    ) -> EventReceipt:
        """Have the journal keep an event that Redis did not take.

        Returns when it is as safe as REDIS_CREW_JOURNAL_FSYNC asks for; cancelled
        before, it stays accepted.

        Raises:
            FallbackFullError: The journal is full.
            UnavailableError: `error`, if it is not for the journal.
        """
        if not self.takes(error):
            raise error
        return await self.post(draft, call)

    async def post(self, draft: Draft, call: Call) -> EventReceipt:
        """Have the journal keep an event; see `defer`."""
        receipt = self.accept(draft, call)
        await self.committed()
        return receipt

    def accept(self, draft: Draft, call: Call) -> EventReceipt:
        """Have the journal keep an event; `committed` says when it is safe.

        Raises:
            FallbackFullError: The journal is full.
        """
        made_us = self._fallback.stamp()
        posting = posting_of(call, draft.line.tenant_id, made_us)
        posting.is_wall_time = not self._stamps.is_ready
        self._fallback.journal.post(posting)
        event_id = id_text(draft.envelope.id)
        return EventReceipt(event_id, outcome=WriteOutcome.DEFERRED)

    async def passed(self, stream: bytes) -> bool:
        """Return whether nothing waits for a stream any more.

        While Redis answers it waits for that, for at most one operation timeout:
        whoever publishes faster than the journal drains is slowed down.
        """
        if self._node.breaker.state is CircuitState.CLOSED:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._node.settings.command_timeout):
                    # While it is in trouble, nothing of it gets on.
                    while self._first(stream) is not None:
                        drained = self._waiters.setdefault(stream, asyncio.Event())
                        await drained.wait()
        if stream in self._postings:
            return False
        if stream in self._waiters:
            self._waiters.pop(stream).set()  # a purge has emptied it
        return True

    # --- out ------------------------------------------------------------------------

    def call(self, posting: Posting) -> Call:
        """Return the script that hands an event on; it may be run twice."""
        call = unpack_call(posting.body, posting.made_us)
        if self._now_us() - posting.made_us < self._max_age_us:
            return call
        self._given_up.add(posting.id)
        return self._calls.overdue(posting, call)

    def settle(self, posting: Posting, reply: object) -> str:
        """Judge the answer: empty when it is done, else what is wrong."""
        assert isinstance(reply, list)
        outcome = int(reply[0])
        if outcome == FULL:
            return f"{MAX_SCHEDULED} delayed events of the tenant wait already"
        self._wake(posting)
        if posting.id in self._given_up:
            self._given_up.discard(posting.id)
            if outcome == ADDED:
                log.error("event.overdue", tenant_id=posting.tenant_id)
        elif outcome != PURGED:
            self._landed(posting)
        return ""

    def _landed(self, posting: Posting) -> None:
        call = unpack_call(posting.body, posting.made_us)
        name, keys, _ = call
        self._window.note(keys[0], self._now_us(), call)
        stream = stream_name(self._keys, keys[0] if name == PUBLISH else keys[4])
        if stream is not None:
            self._notes.add(stream.tenant_id, (stream.event_type,))

    def _wake(self, posting: Posting) -> None:
        """Let those go on who wait for the last one of a stream."""
        waiter = self._waiters.get(posting.order_key)
        if waiter is not None and len(self._postings[posting.order_key]) <= 1:
            del self._waiters[posting.order_key]
            asyncio.get_running_loop().call_soon(waiter.set)  # when it has been dropped
