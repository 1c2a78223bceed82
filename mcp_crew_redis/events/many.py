"""Many events in few round trips, each with an outcome of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from mcp_crew_redis._core.bursts import (
    run_each,
    run_replicated,
    send_each,
    send_replicated,
)
from mcp_crew_redis._core.port import Call
from mcp_crew_redis._wire.uuid7 import id_text
from mcp_crew_redis.errors import (
    ConnectionLostError,
    CrewRedisError,
    FallbackFullError,
    OutcomeUnknownError,
    ReplicationError,
    UnavailableError,
)
from mcp_crew_redis.events.calls import as_of
from mcp_crew_redis.events.event import EventReceipt
from mcp_crew_redis.events.line import Draft
from mcp_crew_redis.events.publishing import BEHIND, WANTED, Publisher, command
from mcp_crew_redis.store.counting import may_have_happened

__all__ = ["CHUNK", "CHUNK_BYTES", "ManyEvents", "PublishManyError"]

CHUNK: Final = 1_000
"""Events of one round trip."""
CHUNK_BYTES: Final = 1024 * 1024


class PublishManyError(UnavailableError):
    """Some of many events were not published, or nobody knows.

    Its cause is the error of the first of them.

    Attributes:
        receipts: By position, as they were given; None for what has an error.
        errors: By position; OutcomeUnknownError and a timeout that had sent mean that
            it may have been published.
    """

    def __init__(
        self,
        receipts: Sequence[EventReceipt | None],
        errors: Mapping[int, CrewRedisError],
    ) -> None:
        first = type(errors[min(errors)]).__name__
        super().__init__(f"{len(errors)} of {len(receipts)} events failed: {first}")
        self.receipts = tuple(receipts)
        self.errors = MappingProxyType(dict(errors))


def chunks(drafts: Sequence[Draft]) -> Iterator[list[int]]:
    """Give the positions of events, in order, as many as go together."""
    chunk: list[int] = []
    size = 0
    for at, draft in enumerate(drafts):
        chunk.append(at)
        size += len(draft.body)
        if len(chunk) >= CHUNK or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


class ManyEvents:
    """One call of `publish_many`, and what has become of its events so far.

    Args:
        publisher: Of one crew.
        drafts: Events of one tenant.
        idempotent: Each once under its id.
        durable: On a replica too; never journaled.
    """

    def __init__(
        self,
        publisher: Publisher,
        drafts: Sequence[Draft],
        *,
        idempotent: bool,
        durable: bool,
    ) -> None:
        self._publisher = publisher
        self._port, self._outbox = publisher.hub.port, publisher.outbox
        self._drafts = drafts
        self._is_idempotent, self._is_durable = idempotent, durable
        self._receipts: list[EventReceipt | None] = [None] * len(drafts)
        self._errors: dict[int, CrewRedisError] = {}
        self._replicas = WANTED

    async def run(self) -> list[EventReceipt]:
        """Publish them; raises as `TenantEvents.publish_many`."""
        for chunk in chunks(self._drafts):
            await self._publish(chunk)
        await self._outbox.committed()
        if self._errors:
            first = self._errors[min(self._errors)]
            raise PublishManyError(self._receipts, self._errors) from first
        if self._is_durable and self._replicas < WANTED:
            raise ReplicationError(self._replicas, WANTED)
        return [receipt for receipt in self._receipts if receipt is not None]

    async def _publish(self, chunk: Sequence[int]) -> None:
        made_us = 0
        try:
            for line in {self._drafts[at].line: None for at in chunk}:
                await self._publisher.prepare(line)
            chunk = await self._free(chunk)
            made_us = self._publisher.stamp()
            replies = await self._send(chunk, made_us) if chunk else []
        except UnavailableError as error:
            replies = [error] * len(chunk)
        for at, reply in zip(chunk, replies, strict=True):
            if isinstance(reply, CrewRedisError):
                self._failed(at, reply)
            elif self._is_idempotent:
                self._answered(at, reply, made_us)
            else:
                event_id = id_text(self._drafts[at].envelope.id)
                self._receipts[at] = EventReceipt(event_id, reply.decode())

    async def _free(self, chunk: Sequence[int]) -> Sequence[int]:
        """Return those that may be sent: nothing waits for their streams."""
        streams = {self._drafts[at].stream: None for at in chunk}
        held = {one for one in streams if not await self._publisher.passes(one)}
        if not held:
            return chunk
        for at in chunk:
            if self._drafts[at].stream in held:
                self._failed(at, ConnectionLostError(BEHIND))
        return [at for at in chunk if self._drafts[at].stream not in held]

    async def _send(self, chunk: Sequence[int], made_us: int) -> list[Any]:
        drafts = [self._drafts[at] for at in chunk]
        if not self._is_idempotent:
            commands = [command(draft) for draft in drafts]
            if not self._is_durable:
                return await send_each(self._port, commands)
            replies, count = await send_replicated(self._port, commands)
            self._replicas = min(self._replicas, count)
            return replies
        calls = [self._publisher.calls.publish(draft) for draft in drafts]
        try:
            replies = await self._run(calls)
        except OutcomeUnknownError as error:
            replies = [error] * len(calls)
        doubtful = [at for at, one in enumerate(replies) if _is_doubtful(one)]
        if doubtful:
            again = [as_of(calls[at], made_us) for at in doubtful]
            for at, reply in zip(doubtful, await self._insist(again), strict=True):
                replies[at] = reply
        return replies

    async def _run(self, calls: Sequence[Call]) -> list[Any]:
        if not self._is_durable:
            return await run_each(self._port, calls)
        replies, count = await run_replicated(self._port, calls)
        self._replicas = min(self._replicas, count)
        return replies

    async def _insist(self, calls: Sequence[Call]) -> Sequence[Any]:
        """Run scripts again whose replies were lost; they may have been executed."""
        try:
            return await self._run(calls)
        except UnavailableError as error:
            unknown = OutcomeUnknownError("sent, and sent again in vain")
            unknown.__cause__ = error
            return [unknown] * len(calls)

    def _answered(self, at: int, reply: list[Any], made_us: int) -> None:
        draft = self._drafts[at]
        call = self._publisher.calls.publish(draft, made_us)
        try:
            self._receipts[at] = self._publisher.receipt(draft, call, reply)
        except CrewRedisError as error:
            self._errors[at] = error

    def _failed(self, at: int, error: CrewRedisError) -> None:
        """Have the journal keep what may be kept."""
        self._errors[at] = error
        is_lost = not self._is_idempotent and _is_doubtful(error)
        if self._is_durable or is_lost or not isinstance(error, UnavailableError):
            return
        if not self._outbox.takes(error):
            return
        draft, is_private = self._drafts[at], not self._is_idempotent
        call = self._publisher.calls.publish(draft, is_private=is_private)
        try:
            self._receipts[at] = self._outbox.accept(draft, call)
        except FallbackFullError as full:
            self._errors[at] = full
        else:
            del self._errors[at]


def _is_doubtful(reply: object) -> bool:
    return isinstance(reply, UnavailableError) and may_have_happened(reply)
