"""How entries leave this process: acknowledged, parked for another attempt, buried."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Final

from mcp_crew_redis._core.backoff import DecorrelatedJitter
from mcp_crew_redis._core.port import Call
from mcp_crew_redis._wire.streams import seen_key
from mcp_crew_redis.errors import CrewRedisError, UnavailableError
from mcp_crew_redis.events.consumer.books import Shelf
from mcp_crew_redis.events.consumer.counts import ConsumerCounts
from mcp_crew_redis.events.consumer.hand import Hand
from mcp_crew_redis.events.consumer.held import Held
from mcp_crew_redis.events.consumer.table import StreamState
from mcp_crew_redis.events.hub import EventHub
from mcp_crew_redis.events.subscriptions import Subscription
from mcp_crew_redis.log import get_logger

__all__ = ["ACK_COUNT", "ACK_DELAY", "Acks", "Settling"]

log = get_logger(__name__)

ACK_COUNT: Final = 64
ACK_DELAY: Final = 0.005
"""Seconds that an acknowledgement waits for others."""
MAX_UNSENT: Final = 4_096
"""Acknowledgements that wait for Redis; beyond, nothing more is fetched."""
SEEN_MS: Final = 86_400_000
"""How long the events handled by a group that wants no duplicates are remembered."""
CHUNK: Final = 500
TALLY_MS: Final = 2_592_000_000  # 30 days, as in the scripts that count
UNTOLD: Final = -2
"""What a script would have answered is not known."""

Acks = dict[StreamState, list[Held]]


class Settling:
    """Sends what handlers have decided, in batches, until Redis has taken it.

    Args:
        hub: The parts.
        subscription: Whose entries they are.
        consumer: The name under which they are pending.
        hand: What is in this process.
        counts: What has been done.
        on_parked: Called with a tenant and the seconds until an entry of it is due.
    """

    def __init__(
        self,
        hub: EventHub,
        subscription: Subscription,
        consumer: str,
        hand: Hand,
        counts: ConsumerCounts,
        on_parked: Callable[[str, float], None],
    ) -> None:
        self._port, self._keys, self._clock = hub.port, hub.keys, hub.clock
        self._random = hub.random
        self._subscription = subscription
        self._group, self._consumer = subscription.group, consumer
        self._hand = hand
        self._counts = counts
        self._on_parked = on_parked
        self.books = Shelf(hub.keys, subscription).books
        self._acks: Acks = {}
        self._size = 0
        self._due = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._is_ending = False

    # --- acknowledgements -------------------------------------------------------------

    @property
    def unsent(self) -> int:
        """Acknowledgements that wait."""
        return self._size

    @property
    def is_full(self) -> bool:
        """Whether so many wait that nothing more should be fetched."""
        return self._size >= MAX_UNSENT

    def done(self, held: Held) -> None:
        """Acknowledge an entry, soon."""
        self._hand.handled(held)
        waiting = self._acks.get(held.stream)
        if waiting is None:
            self._acks[held.stream] = [held]
        else:
            waiting.append(held)
        self._size += 1
        if self._size >= ACK_COUNT:
            self._due.set()
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(ACK_DELAY, self._due.set)

    def take(self) -> tuple[Acks, list[tuple[Any, ...]]]:
        """Return what waits, and the commands that acknowledge it."""
        acks, self._acks = self._acks, {}
        self._size = 0
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        is_told = self._subscription.dedup
        return acks, [
            ("XACK", state.key, self._group, *(held.entry_id for held in part))
            for state, entries in acks.items()
            for part in _parts(entries, are_copies=is_told)
        ]

    def sent(self, acks: Acks) -> None:
        """Take note that Redis has taken acknowledgements."""
        for held in chain.from_iterable(acks.values()):
            self._hand.forget(held)
        self._hand.on_room()  # the reader may wait for these very acknowledgements

    def put_back(self, acks: Acks) -> None:
        """Keep what could not be sent; sending it twice is harmless."""
        for state, entries in acks.items():
            self._acks.setdefault(state, []).extend(entries)
            self._size += len(entries)
        if self._size:
            self._due.set()

    async def run(self) -> None:
        """Send acknowledgements for as long as it is not cancelled."""
        while True:
            await self._due.wait()
            if not await self.flush():
                await self._clock.sleep(self._random.uniform(0.05, 0.5))

    async def flush(self) -> bool:
        """Send what waits; False when Redis did not take all of it.

        Cancelled, what is under way may have been sent, and is not sent again.
        """
        acks, commands = self.take()
        if not acks:
            return True
        replies: list[Any] = []
        try:
            if commands:  # with dedup of what was skipped: it was not handled here
                replies += await self._port.send_many(commands)
            if self._subscription.dedup and (calls := self._done_calls(acks)):
                replies += await self._port.run_many(calls)
        except CrewRedisError as error:
            replies.append(error)
        return self.took(acks, replies)

    def took(self, acks: Acks, replies: Sequence[object]) -> bool:
        """Judge the answers to acknowledgements; False if they have to be sent again.

        All of them, if one was refused for now: to send one twice is harmless.
        """
        if any(isinstance(reply, UnavailableError) for reply in replies):
            self.put_back(acks)
            return False
        self.sent(acks)
        return True

    def _done_calls(self, acks: Acks) -> list[Call]:
        calls: list[Call] = []
        for state, entries in acks.items():
            keys = self._keys.tenant(state.name.tenant_id)
            all_held = [held for held in entries if not held.is_copy]
            for part in _parts(all_held, are_copies=False):
                seen = [seen_key(keys, self._group, held.event.id) for held in part]
                ids = [held.entry_id for held in part]
                calls.append(
                    ("event_done", (state.key, *seen), (self._group, SEEN_MS, *ids))
                )
        return calls

    # --- failures ---------------------------------------------------------------------

    async def park(self, held: Held, after: float) -> None:
        """Have an entry delivered again after `after` seconds, by whoever is there."""
        stream, tenant_id = held.stream, held.stream.name.tenant_id
        is_ours = await self._insist(
            "event_park",
            (stream.key, self.books(tenant_id).parked),
            (self._group, self._consumer, held.entry_id, round(after * 1_000)),
        )
        self._counts.taken_away += is_ours == 0
        self._hand.finished(held)
        if is_ours == 1:
            self._on_parked(tenant_id, after)

    async def begin(self, held: Held) -> bool:
        """Count the delivery of a suspect, before its handler may die of it.

        What was handled before is acknowledged first, or it would be buried with it.
        False: it is not ours any more, or the consumer ends.
        """
        pauses = DecorrelatedJitter(self._random, cap=2.0)
        while not await self.flush() and not self._is_ending:
            await self._clock.sleep(next(pauses))
        args = (self._group, self._consumer, 0, 1, held.entry_id)
        gone = await self._insist("event_hold", (held.stream.key,), args)
        if gone != 0:
            self._counts.taken_away += gone > 0
            self._hand.finished(held)
            return False
        held.recount(held.count + 1)
        return True

    async def bury(self, held: Held, reason: str) -> None:
        """Make a dead letter of an entry."""
        stream = held.stream
        books = self.books(stream.name.tenant_id)
        outcome = await self._insist(
            "event_bury",
            (stream.key, *books),
            (self._group, self._consumer, held.entry_id, held.count, reason),
        )
        if outcome == 1:
            self._counts.dead = count = self._counts.dead + 1
            if count & (count - 1) == 0:  # the 1st, 2nd, 4th, ...: no flood of lines
                log.warning(
                    "consumer.event_buried",
                    group=self._group,
                    event_type=stream.name.event_type,
                    deliveries=held.count,
                    count=count,
                )
        else:
            self._counts.lost += outcome == -1
            self._counts.taken_away += outcome == 0
        self._hand.finished(held)

    async def _insist(
        self, script: str, keys: Sequence[bytes], args: Sequence[bytes | str | int]
    ) -> int:
        """Run a script until Redis has answered; the entry stays ours meanwhile.

        At the end of the consumer it does not insist: others will get the entry.
        """
        pauses = DecorrelatedJitter(self._random, cap=2.0)
        while True:
            try:
                reply = await self._port.run(script, keys, args, is_repeatable=True)
                return len(reply) if isinstance(reply, list) else int(reply)
            except UnavailableError:
                if self._is_ending:
                    return UNTOLD
                await self._clock.sleep(next(pauses))
            except CrewRedisError as error:
                # It stays pending: another attempt finds it when its time is up.
                log.warning(
                    "consumer.settling_failed",
                    script=script,
                    error=type(error).__name__,
                )
                return UNTOLD

    # --- counts -----------------------------------------------------------------------

    async def tally(self, tenant_id: str, field: str, count: int) -> None:
        """Add to a count of the group that is kept in Redis; best effort."""
        key = self.books(tenant_id).tally
        try:
            await self._port.send_many(
                [("HINCRBY", key, field, count), ("PEXPIRE", key, TALLY_MS)]
            )
        except CrewRedisError as error:
            log.debug("consumer.tally_failed", cause=type(error).__name__)

    def finish(self) -> None:
        """Insist on nothing any more."""
        self._is_ending = True

    def aclose(self) -> None:
        """End the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _parts(entries: list[Held], *, are_copies: bool) -> list[list[Held]]:
    """Return entries in parts; of those that are told apart, only the copies."""
    if are_copies:
        entries = [held for held in entries if held.is_copy]
    return [entries[at : at + CHUNK] for at in range(0, len(entries), CHUNK)]
