"""Fetches what there is room for, by priority, and takes in what comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from mcp_crew_redis._core.backoff import DecorrelatedJitter
from mcp_crew_redis.errors import (
    ConfigurationError,
    CrewRedisError,
    DataError,
    UnavailableError,
)
from mcp_crew_redis.events.consumer.counts import ConsumerCounts
from mcp_crew_redis.events.consumer.groups import Groups, is_missing
from mcp_crew_redis.events.consumer.hand import Hand
from mcp_crew_redis.events.consumer.intake import Intake
from mcp_crew_redis.events.consumer.lanes import shares
from mcp_crew_redis.events.consumer.recovery import Recovery
from mcp_crew_redis.events.consumer.requests import entries_of, limited
from mcp_crew_redis.events.consumer.settling import Settling
from mcp_crew_redis.events.consumer.table import (
    LANE_COUNT,
    StreamState,
    StreamTable,
    asking,
)
from mcp_crew_redis.events.hub import EventHub
from mcp_crew_redis.events.subscriptions import Subscription
from mcp_crew_redis.log import get_logger
from mcp_crew_redis.store.counting import may_have_happened

__all__ = ["MAX_STREAMS", "Reader"]

log = get_logger(__name__)

MAX_STREAMS: Final = 64  # of one lane that are read in one round trip
MAX_PAUSE: Final = 2.0

Wanted = list[tuple[StreamState, int]]


class Reader:
    """Reads ready streams for as long as there is room; otherwise it rests.

    Args:
        hub: The parts.
        subscription: Its group.
        consumer: The name under which it reads.
        table: The streams.
        hand: The room.
        settling: Acknowledgements travel along.
        intake: Takes in what comes.
        recovery: Sees to reads that were not answered, and to what was left behind.
        counts: What has been done.
        may_read: Whether this process reads a stream now.
        is_ours: Whether what comes from a stream is to be handled here.
    """

    def __init__(
        self,
        hub: EventHub,
        subscription: Subscription,
        consumer: str,
        *,
        table: StreamTable,
        hand: Hand,
        settling: Settling,
        intake: Intake,
        recovery: Recovery,
        counts: ConsumerCounts,
        may_read: Callable[[StreamState], bool],
        is_ours: Callable[[StreamState], bool],
    ) -> None:
        self._port, self._clock = hub.port, hub.clock
        self._subscription = subscription
        self._consumer = consumer
        self._head = ("XREADGROUP", "GROUP", subscription.group, consumer, "COUNT")
        self._table, self._hand = table, hand
        self._settling, self._intake, self._recovery = settling, intake, recovery
        self._groups = Groups(hub, subscription)
        self._counts = counts
        self._may_read, self._is_ours = may_read, is_ours
        self._pauses = DecorrelatedJitter(hub.random, cap=MAX_PAUSE)
        self._wake = asyncio.Event()
        self._is_ending = False
        # While one reply is worked on the next is asked for. Where order counts, one
        # at a time: nothing may come between.
        self._loops = 1 if subscription.ordering else 2
        self._later: set[StreamState] = set()  # refused for now
        self._asked = 0  # entries that are on their way
        self.wake = self._wake.set

    def finish(self) -> None:
        """Fetch nothing more."""
        self._is_ending = True
        self._wake.set()

    async def run(self) -> None:
        """Read until `finish`."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._loops):
                group.create_task(self._loop())

    async def _loop(self) -> None:
        while not self._is_ending:
            self._wake.clear()
            wanted: Wanted = []
            try:
                # What Redis did not answer takes up room, perhaps all there is.
                await self._intake.settle()
                wanted = [] if self._settling.is_full else self._plan()
                if not wanted:
                    self._hand.rest()
                    await self._wake.wait()
                    continue
                await self._read(wanted)
            except UnavailableError:
                self._ring(wanted)
                self._counts.read_failures += 1
                self._recovery.postpone()
                await self._clock.sleep(next(self._pauses))
            except CrewRedisError as error:
                log.warning("consumer.read_refused", error=type(error).__name__)
                self._ring(wanted)
                await self._clock.sleep(MAX_PAUSE)

    def _ring(self, wanted: Wanted) -> None:
        for state, _ in wanted:
            self._table.rung(state)

    def _plan(self) -> Wanted:
        """Return which streams to read, and how much of each."""
        table = self._table
        if not table.is_ready:
            return []
        plain, critical = (room - self._asked for room in self._hand.room())
        room = min(critical if plain <= 0 else plain, self._hand.chunk)
        ready = [table.is_lane_ready(lane) for lane in range(LANE_COUNT)]
        if plain <= 0:
            ready[1:] = [False] * (LANE_COUNT - 1)
        wanted: Wanted = []
        for lane, share in enumerate(shares(room, ready)):
            if share:
                states = table.take(lane, min(share, MAX_STREAMS), self._may_read)
                each = max(1, share // max(1, len(states)))
                wanted += [(state, limited(state, each)) for state in states]
        return wanted

    async def _read(self, wanted: Wanted) -> None:
        """Read once, and take in what comes.

        Raises:
            UnavailableError: Redis did not answer; nothing is forgotten.
            CrewRedisError: It refuses.
        """
        clean = [one for one in wanted if not await self._see_to(one[0])]
        # From here to the request nothing waits: what is given up is not read any more.
        clean = [one for one in clean if self._may_read(one[0])]
        is_joint = not self._subscription.dedup
        acks, commands = self._settling.take() if is_joint else ({}, [])
        reads = [(*self._head, n, "STREAMS", state.key, ">") for state, n in clean]
        if not (commands or reads):
            return
        self._counts.reads += 1
        try:
            with self._asking(clean):
                replies = await self._port.send_many([*commands, *reads])
        except UnavailableError as error:
            self._settling.put_back(acks)
            for state, _ in clean:
                state.is_doubtful |= may_have_happened(error)
            raise
        except BaseException:
            self._settling.put_back(acks)
            raise
        if acks:
            self._settling.took(acks, replies[: len(commands)])
        self._pauses.reset()
        await self._take(clean, replies[len(commands) :])

    @contextmanager
    def _asking(self, wanted: Wanted) -> Iterator[None]:
        """Take note of what is on its way; let the other loop read on behind it."""
        count = sum(number for _, number in wanted)
        self._asked += count
        for state, _ in wanted:
            if state.is_full and self._loops > 1:
                self._table.rung(state)
                self._wake.set()
        try:
            with asking([state for state, _ in wanted]):
                yield
        finally:
            self._asked -= count

    async def _take(self, wanted: Wanted, replies: Iterable[Any]) -> None:
        missing: list[StreamState] = []
        late: list[tuple[StreamState, list[bytes]]] = []
        refused: CrewRedisError | None = None
        for (state, count), reply in zip(wanted, replies, strict=True):
            if isinstance(reply, CrewRedisError):
                if is_missing(reply):
                    missing.append(state)
                else:
                    refused = self._refused(state, reply) or refused
                continue
            state.is_new = False
            entries = entries_of(reply)
            if entries and not self._is_ours(state):
                late.append((state, [entry_id for entry_id, _ in entries]))
                continue
            self._intake.take(state, entries)
            state.is_full = len(entries) >= count
            if state.is_full or state.is_rung:
                self._table.rung(state)
        try:
            if late:
                await self._give_back(late)
            if missing:
                await self._make(missing)
        finally:
            await self._intake.settle()
        if refused is not None:
            raise refused

    async def _give_back(self, late: list[tuple[StreamState, list[bytes]]]) -> None:
        """Let go what came for partitions that are to go, as if it had not come.

        Whoever has them next takes it, and not before this is done.
        """
        for state, _ in late:
            state.is_doubtful = True  # should the partition come back here
        idle_ms = round(self._subscription.claim_after * 1_000)
        args = (self._subscription.group, self._consumer, idle_ms, -1)
        with asking([state for state, _ in late]):
            await self._port.run_many(
                [
                    ("event_hold", (state.key,), (*args, b" ".join(ids)))
                    for state, ids in late
                ]
            )

    async def _make(self, states: list[StreamState]) -> None:
        try:
            made = await self._groups.make(states)
        except BaseException:
            for state in states:
                self._table.rung(state)
            raise
        for state, is_there in zip(states, made, strict=True):
            state.last_id = state.claimed_to = b""
            state.is_new = True
            if is_there is None:
                self._later.add(state)
            elif is_there or state.is_rung:
                self._table.rung(state)
            else:
                self._table.forget(state)

    def _refused(
        self, state: StreamState, reply: CrewRedisError
    ) -> CrewRedisError | None:
        """Return what concerns all streams; leave one alone that is refused itself."""
        if isinstance(reply, (DataError, ConfigurationError)):
            self._leave(state)
            return None
        self._table.rung(state)
        return reply

    def _leave(self, state: StreamState) -> None:
        """Leave a stream alone for a while: the others must not wait for it."""
        self._later.add(state)
        self._counts.read_failures = count = self._counts.read_failures + 1
        if count & (count - 1) == 0:  # the 1st, 2nd, 4th, ...: no flood of lines
            log.warning(
                "consumer.stream_unreadable",
                group=self._subscription.group,
                event_type=state.name.event_type,
                count=count,
            )

    def look_again(self) -> None:
        """Ring the streams that were left alone."""
        while self._later:
            self._table.rung(self._later.pop())
            self._wake.set()

    async def _see_to(self, state: StreamState) -> bool:
        """Get what is pending already; True when the stream has to wait for that."""
        if not self._may_read(state):
            return True
        if not (state.is_doubtful or state.is_taken_over):
            return False
        is_done = await self._recovery.catch_up(state)
        self._table.rung(state)
        return not is_done
