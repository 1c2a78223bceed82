"""How an event gets into its stream."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from mcp_crew_redis._core.bursts import run_replicated, send_replicated
from mcp_crew_redis._core.port import Call
from mcp_crew_redis._wire.envelope import BODY, ENVELOPE
from mcp_crew_redis._wire.ttl import ttl_ms
from mcp_crew_redis._wire.uuid7 import id_text
from mcp_crew_redis.errors import (
    ConflictError,
    ConnectionLostError,
    CrewRedisError,
    DataError,
    OutcomeUnknownError,
    OverloadedError,
    ReplicationError,
    UnavailableError,
)
from mcp_crew_redis.events.calls import (
    DUPLICATE,
    FULL,
    MAX_SCHEDULED,
    PURGED,
    EventCalls,
    as_of,
)
from mcp_crew_redis.events.event import EventReceipt
from mcp_crew_redis.events.hub import EventHub
from mcp_crew_redis.events.line import Draft, Line
from mcp_crew_redis.events.outbox import Outbox
from mcp_crew_redis.store.counting import may_have_happened
from mcp_crew_redis.store.gate import Gate

__all__ = ["BEHIND", "WANTED", "Publisher", "Waiting", "command"]

T = TypeVar("T")
Waiting = Coroutine[Any, Any, T]

WANTED: Final = 1
"""Replicas that a durable publish waits for."""
BEHIND: Final = "earlier events of this stream wait in the journal; nothing was sent"


def command(draft: Draft) -> tuple[str | bytes, ...]:
    """Return the command that appends an event."""
    return "XADD", draft.stream, "*", ENVELOPE, draft.head, BODY, draft.body


class Publisher:
    """Publishes the events of all tenants of one running crew.

    Args:
        hub: What the rooms of the events share.

    Attributes:
        hub: What the rooms of the events share.
        calls: Makes the scripts.
        outbox: What waits for Redis.
        stamp: Returns a point in time above all before, once `prepare` has returned.
    """

    __slots__ = (
        "_gate",
        "_note_type",
        "_on_used",
        "_postings",
        "_send",
        "_stamps",
        "calls",
        "hub",
        "outbox",
        "stamp",
    )

    def __init__(self, hub: EventHub) -> None:
        store = hub.store
        self.hub = hub
        self.calls = EventCalls(hub.keys, store.context.tombstone_ttl)
        self.outbox = Outbox(hub, self.calls)
        self._send, self._gate = hub.port.send, Gate(hub.port)
        self._note_type = store.registry.note_type
        self._stamps = store.context.stamps
        self.stamp = self._stamps.stamp
        self._postings = store.journal.postings
        self._on_used = hub.on_used

    # --- plain ------------------------------------------------------------------------

    async def append(self, draft: Draft) -> EventReceipt:
        """Append one event to its stream, sent once: the hot path."""
        line, envelope, stream, head, body = draft
        if self._on_used:
            self.hub.used()
        try:
            await self._note_type(line.tenant_id, line.event_type)
        except UnavailableError as error:
            return await self.defer_plain(draft, error)
        if self._postings and not await self.passes(stream):
            return await self.outbox.post(draft, self._private(draft))
        try:
            place = await self._send("XADD", stream, "*", ENVELOPE, head, BODY, body)
        except UnavailableError as error:
            if may_have_happened(error):
                raise  # nobody could tell its repetition
            return await self.defer_plain(draft, error)
        return EventReceipt(id_text(envelope.id), place.decode())

    async def defer_plain(self, draft: Draft, error: UnavailableError) -> EventReceipt:
        """Have the journal keep what was not sent; raises as `Outbox.defer`."""
        return await self.outbox.defer(draft, self._private(draft), error)

    def _private(self, draft: Draft) -> Call:
        return self.calls.publish(draft, is_private=True)

    async def passes(self, stream: bytes) -> bool:
        """Return whether nothing waits for a stream; see `Outbox.passed`."""
        return stream not in self._postings or await self.outbox.passed(stream)

    # --- once, or later ---------------------------------------------------------------

    def otherwise(
        self, draft: Draft, *, delay: float | None, idempotent: bool, durable: bool
    ) -> Waiting[EventReceipt]:
        """Publish one event in any other way than `append`.

        Raises:
            InvalidTtlError: The delay is out of range.
            DataError: It would be over before its time.
        """
        if delay is not None:
            ends_ms = draft.envelope.expires_ms
            due_ms = round(self.hub.clock.wall() * 1_000) + ttl_ms(delay)
            if ends_ms is not None and ends_ms <= due_ms:
                raise DataError("expires_in is to be longer than delay")
        if durable:
            return self.durably(draft, delay=delay, idempotent=idempotent)
        if delay is not None:
            return self.schedule(draft, delay, idempotent=idempotent)
        return self.once(draft)

    async def once(self, draft: Draft) -> EventReceipt:
        """Append one event unless its id was published; sent again if in doubt."""
        call = self.calls.publish(draft)
        try:
            await self.prepare(draft.line)
            if not await self.passes(draft.stream):
                return await self.outbox.post(draft, call)
            reply, made_us = await self._run_surely(call)
        except UnavailableError as error:
            return await self.outbox.defer(draft, call, error)
        return self.receipt(draft, as_of(call, made_us), reply)

    async def schedule(
        self, draft: Draft, delay: float, *, idempotent: bool
    ) -> EventReceipt:
        """Keep one event until its time."""
        delay_ms = ttl_ms(delay)
        call = self.calls.schedule(draft, delay_ms, is_marked=idempotent)
        kept = call if idempotent else self._private_delay(draft, delay_ms)
        try:
            await self.prepare(draft.line)
        except UnavailableError as error:
            return await self.outbox.defer(draft, kept, error)
        try:
            reply, made_us = await self._run_surely(call)
        except UnavailableError as error:
            if not idempotent and may_have_happened(error):
                raise
            return await self.outbox.defer(draft, kept, error)
        return self.receipt(draft, as_of(call, made_us), reply, idempotent=idempotent)

    def _private_delay(self, draft: Draft, delay_ms: int) -> Call:
        return self.calls.schedule(draft, delay_ms, is_private=True)

    async def prepare(self, line: Line) -> None:
        """Do what must precede a script for a tenant.

        Raises:
            UnavailableError: Redis did not answer; nothing was sent.
        """
        if self._on_used:
            self.hub.used()
        if not self._stamps.is_ready:
            await self._stamps.ready()
        await self._note_type(line.tenant_id, line.event_type)

    async def _run_surely(self, call: Call) -> tuple[list[Any], int]:
        """Run a script, again if its reply is lost; the answer, and as of when."""
        made_us = self.stamp()
        name, keys, args = call
        try:
            return await self._gate.write(name, keys, args), made_us
        except OutcomeUnknownError:
            if args[-2] == 0:  # without a mark
                raise
        # As of now: what a purge has removed since must not come back.
        again = as_of(call, made_us)
        return await self._gate.write_again(*again), made_us

    def receipt(
        self, draft: Draft, call: Call, reply: list[Any], *, idempotent: bool = True
    ) -> EventReceipt:
        """Return what a script's answer means, and remember what was acknowledged.

        Raises:
            ConflictError: The tenant was purged meanwhile.
            OverloadedError: Too many delayed events wait.
        """
        outcome, place = int(reply[0]), reply[1]
        if outcome == PURGED:
            raise ConflictError("the tenant was purged while this was under way")
        if outcome == FULL:
            raise OverloadedError(
                f"{MAX_SCHEDULED} delayed events of the tenant wait already",
                retry_after=1.0,
            )
        if idempotent:
            _, keys, args = call
            self.hub.store.window.note(keys[0], int(args[-1]), call)
        return EventReceipt(
            id_text(draft.envelope.id),
            place.decode() if isinstance(place, bytes) and place != b"-" else None,
            outcome == DUPLICATE,
        )

    # --- durable ----------------------------------------------------------------------

    async def durably(
        self, draft: Draft, *, delay: float | None, idempotent: bool
    ) -> EventReceipt:
        """Publish one event and wait for a replica to have it; never journaled.

        Raises:
            ReplicationError: It is published, but on too few replicas.
            UnavailableError: Redis did not answer.
        """
        await self.prepare(draft.line)
        if delay is None and not await self.passes(draft.stream):
            raise ConnectionLostError(BEHIND)
        if delay is None and not idempotent:
            replies, count = await send_replicated(
                self.hub.port, [command(draft)], replicas=WANTED
            )
            receipt = EventReceipt(id_text(draft.envelope.id), _text(replies[0]))
        else:
            receipt, count = await self._run_durably(draft, delay, is_marked=idempotent)
        if count < WANTED:
            raise ReplicationError(count, WANTED)
        return receipt

    async def _run_durably(
        self, draft: Draft, delay: float | None, *, is_marked: bool
    ) -> tuple[EventReceipt, int]:
        if delay is None:
            call = self.calls.publish(draft)
        else:
            call = self.calls.schedule(draft, ttl_ms(delay), is_marked=is_marked)
        made_us = self.stamp()
        try:
            replies, count = await run_replicated(self.hub.port, [call])
        except OutcomeUnknownError:
            if not is_marked:
                raise
            call = as_of(call, made_us)
            replies, count = await run_replicated(self.hub.port, [call])
        if isinstance(replies[0], CrewRedisError):
            raise replies[0]
        call = as_of(call, made_us)
        return self.receipt(draft, call, replies[0], idempotent=is_marked), count


def _text(reply: object) -> str:
    if isinstance(reply, CrewRedisError):
        raise reply
    assert isinstance(reply, bytes)
    return reply.decode()
