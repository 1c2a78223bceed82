"""Entries that stay here until their next attempt, because those of their key wait."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from math import inf
from typing import Final

from mcp_crew_redis._core.port import Call
from mcp_crew_redis.errors import CrewRedisError
from mcp_crew_redis.events.consumer.counts import ConsumerCounts
from mcp_crew_redis.events.consumer.hand import Hand
from mcp_crew_redis.events.consumer.held import Held
from mcp_crew_redis.events.consumer.working import Workers
from mcp_crew_redis.events.hub import EventHub
from mcp_crew_redis.events.subscriptions import Subscription

__all__ = ["Kept"]

PAUSE: Final = 0.2
"""Seconds until a refused attempt is made again."""


class Kept:
    """Tries entries again in this process, in the order of their due times.

    Args:
        hub: The parts.
        subscription: Whose entries they are.
        consumer: The name under which they are pending.
        hand: Where they go when they are due.
        workers: Told of them.
        counts: What has been done.
    """

    def __init__(
        self,
        hub: EventHub,
        subscription: Subscription,
        consumer: str,
        hand: Hand,
        workers: Workers,
        counts: ConsumerCounts,
    ) -> None:
        self._port, self._monotonic = hub.port, hub.clock.monotonic
        self._group, self._consumer = subscription.group, consumer
        self._hand, self._workers, self._counts = hand, workers, counts
        self._heap: list[tuple[float, int, Held]] = []  # when, a number, what
        self._number = 0

    def keep(self, held: Held, after: float) -> None:
        """Try an entry again in `after` seconds."""
        self._number += 1
        heappush(self._heap, (self._monotonic() + after, self._number, held))

    @property
    def due(self) -> float:
        """When the first is due, in monotonic seconds; infinity for none."""
        return self._heap[0][0] if self._heap else inf

    def clear(self, is_meant: Callable[[Held], bool]) -> list[Held]:
        """Give back those that are meant and wait."""
        meant = [one for one in self._heap if is_meant(one[2])]
        self._heap = [one for one in self._heap if not is_meant(one[2])]
        heapify(self._heap)
        return [held for _, _, held in sorted(meant, key=lambda one: one[1])]

    async def retry(self) -> None:
        """Queue what is due, with the attempt counted where a crash cannot forget it.

        Raises:
            UnavailableError: Redis did not answer; nothing is queued.
        """
        now = self._monotonic()
        due: list[tuple[float, int, Held]] = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heappop(self._heap))
        if not due:
            return
        args = (self._group, self._consumer, 0, 1)
        calls: list[Call] = [
            ("event_hold", (held.stream.key,), (*args, held.entry_id))
            for _, _, held in due
        ]
        try:
            replies = await self._port.run_many(calls)
        except BaseException:
            for one in due:  # counted once too often at worst
                heappush(self._heap, one)
            raise
        for (_, _, held), reply in zip(due, replies, strict=True):
            if isinstance(reply, CrewRedisError):  # not now; the next of its key wait
                self.keep(held, PAUSE)
            elif reply:  # somebody else has it, or it is gone
                self._counts.taken_away += 1
                self._hand.finished(held)
            else:
                self._counts.redelivered += 1
                self._hand.again(held, held.count + 1)
        self._workers.stir()
