"""Signs of life for entries that are held here, and how they are let go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from mcp_crew_redis._core.port import Call
from mcp_crew_redis.errors import CrewRedisError
from mcp_crew_redis.events.consumer.counts import ConsumerCounts
from mcp_crew_redis.events.consumer.held import Held
from mcp_crew_redis.events.consumer.table import StreamState, StreamTable
from mcp_crew_redis.events.hub import EventHub
from mcp_crew_redis.events.subscriptions import Subscription
from mcp_crew_redis.log import get_logger

__all__ = ["Holding"]

log = get_logger(__name__)

CHUNK: Final = 500
BEATS: Final = 3
"""Signs of life in one `claim_after`."""


class Holding:
    """Keeps others from taking what is worked on here, as long as it is.

    Args:
        hub: The parts.
        subscription: How long others wait.
        consumer: The name under which entries are pending.
        table: The streams, and what is held of each.
        counts: What has been done.
    """

    def __init__(
        self,
        hub: EventHub,
        subscription: Subscription,
        consumer: str,
        table: StreamTable,
        counts: ConsumerCounts,
    ) -> None:
        self._port, self._clock = hub.port, hub.clock
        self._group, self._consumer = subscription.group, consumer
        self._claim_after = subscription.claim_after
        self._table, self._counts = table, counts

    async def run(self) -> None:
        """Hold on, for as long as it is not cancelled."""
        interval = self._claim_after / BEATS
        while True:
            await self._clock.sleep(interval / 2)
            before = self._clock.monotonic() - interval / 2
            old = [held for held in self._all() if held.since <= before]
            try:
                await self._hold(old, idle_ms=0, bump=0)
            except CrewRedisError as error:
                log.info("consumer.hold_failed", cause=type(error).__name__)

    async def give_back(self, entries: Sequence[Held], bump: int) -> None:
        """Let others have entries at once; if Redis does not answer, when they are old.

        Args:
            entries: Those with which no handler has begun.
            bump: -1 for those whose delivery here was counted.
        """
        try:
            await self._hold(entries, idle_ms=self._idle_ms, bump=bump)
        except CrewRedisError as error:
            log.info("consumer.give_back_failed", cause=type(error).__name__)

    async def let_go(self) -> None:
        """Let others have at once what was begun here and not finished.

        Raises:
            CrewRedisError: Redis did not answer or refuses; they will get it later.
        """
        await self._hold(list(self._all()), idle_ms=self._idle_ms, bump=0)

    async def leave(self) -> None:
        """Take this consumer out of the groups in which it has nothing pending.

        Raises:
            UnavailableError: Redis did not answer.
        """
        states = [state for state in self._table if not state.is_new]
        args = (self._group, self._consumer)
        for at in range(0, len(states), CHUNK):
            part = states[at : at + CHUNK]
            await self._port.run_many(
                [("event_leave", (state.key,), args) for state in part]
            )

    @property
    def _idle_ms(self) -> int:
        return round(self._claim_after * 1_000)

    def _all(self) -> Iterator[Held]:
        for state in self._table:
            if state.held:
                yield from tuple(state.held.values())

    async def _hold(self, entries: Sequence[Held], *, idle_ms: int, bump: int) -> None:
        now = self._clock.monotonic()
        calls = list(self._calls(entries, idle_ms, bump))
        gone = 0
        for at in range(0, len(calls), CHUNK):
            part = calls[at : at + CHUNK]
            replies = await self._port.run_many([call for _, call in part])
            for (state, _), reply in zip(part, replies, strict=True):
                if isinstance(reply, CrewRedisError):
                    raise reply  # those before it are held once more, which is harmless
                # Others were finished with here meanwhile.
                gone += _tell(state, reply)
        for held in entries:
            held.since = now
        if gone and idle_ms == 0:
            self._counts.taken_away += gone
            log.warning("consumer.entries_taken_away", group=self._group, count=gone)

    def _calls(
        self, entries: Sequence[Held], idle_ms: int, bump: int
    ) -> Iterator[tuple[StreamState, Call]]:
        by_stream: dict[StreamState, list[bytes]] = {}
        for held in entries:
            by_stream.setdefault(held.stream, []).append(held.entry_id)
        for state, ids in by_stream.items():
            for at in range(0, len(ids), CHUNK):
                names = b" ".join(ids[at : at + CHUNK])
                args = (self._group, self._consumer, idle_ms, bump, names)
                yield state, ("event_hold", (state.key,), args)


def _tell(state: StreamState, ids: Sequence[bytes]) -> int:
    """Return how many entries, held here still, somebody has taken: each once."""
    taken = [held for each in ids if (held := state.held.get(each)) is not None]
    count = sum(not held.is_taken for held in taken)
    for held in taken:
        held.is_taken = True
    return count
