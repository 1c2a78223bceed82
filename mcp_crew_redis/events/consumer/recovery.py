"""What nobody works on any more, and what is due for its next attempt.

a read that was not answered    its entries are pending under our name: claim them
a consumer that has gone        sweep all streams until its entries are old enough
a parked entry                  take it when its time has come
an entry kept for its key       try it again here
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from heapq import heappop, heappush
from math import inf
from typing import Any, Final

from mcp_crew_redis._core.backoff import DecorrelatedJitter
from mcp_crew_redis._wire.streams import stream_name
from mcp_crew_redis.errors import CrewRedisError, UnavailableError
from mcp_crew_redis.events.consumer.claims import Claims
from mcp_crew_redis.events.consumer.counts import ConsumerCounts
from mcp_crew_redis.events.consumer.hand import Hand
from mcp_crew_redis.events.consumer.intake import Intake
from mcp_crew_redis.events.consumer.keeping import Kept
from mcp_crew_redis.events.consumer.pacing import SweepPace
from mcp_crew_redis.events.consumer.settling import Settling
from mcp_crew_redis.events.consumer.table import StreamState, StreamTable, asking
from mcp_crew_redis.events.hub import EventHub
from mcp_crew_redis.events.subscriptions import Subscription
from mcp_crew_redis.log import get_logger

__all__ = ["Recovery"]

log = get_logger(__name__)

CHUNK: Final = 64  # entries of one stream, or streams of one sweep, in one round trip
SLACK: Final = 0.005  # seconds after a due time: clocks are not quite the same
CROWDED: Final = 0.05  # seconds until it looks again when there was no room


class Recovery:
    """Gets back what would otherwise stay pending for ever.

    Args:
        hub: The parts.
        subscription: How old, how often.
        consumer: Who takes over.
        table: The streams.
        hand: The room.
        kept: What waits here for the order of its key.
        intake: Takes in what is got back.
        settling: The keys beside the streams.
        counts: What has been done.
        may_read: Whether this process reads a stream now.
    """

    def __init__(
        self,
        hub: EventHub,
        subscription: Subscription,
        consumer: str,
        *,
        table: StreamTable,
        hand: Hand,
        kept: Kept,
        intake: Intake,
        settling: Settling,
        counts: ConsumerCounts,
        may_read: Callable[[StreamState], bool],
    ) -> None:
        self._port, self._keys, self._clock = hub.port, hub.keys, hub.clock
        self._monotonic = hub.clock.monotonic
        self._subscription = subscription
        self._group, self._consumer = subscription.group, consumer
        self._table, self._hand = table, hand
        self._kept, self._intake = kept, intake
        self._settling, self._counts = settling, counts
        self._may_read = may_read
        self._claims = Claims(subscription, consumer, settling)
        self.pace = SweepPace(subscription.claim_after, self._monotonic, hub.random)
        self._pauses = DecorrelatedJitter(hub.random, cap=2.0)
        # When something is due, by tenant; and a heap of that, with what is no more.
        self._due: dict[str, float] = {}
        self._parked: list[tuple[float, str]] = []
        self._wake = asyncio.Event()
        # What the present sweep has still to look at, and when it goes on.
        self._left: list[tuple[StreamState, bytes]] = []
        self._left_due = 0.0
        self._is_ending = False
        self.wake = self._wake.set

    # --- what it is told --------------------------------------------------------------

    def note_parked(self, tenant_id: str, after: float) -> None:
        """Remember that an entry of a tenant is due in `after` seconds."""
        due = self._monotonic() + after + SLACK
        if due < self._due.get(tenant_id, inf):
            self._due[tenant_id] = due
            heappush(self._parked, (due, tenant_id))
            self._wake.set()

    def consumer_gone(self) -> None:
        """Look for what another consumer has left behind."""
        self.pace.hasten()
        self.look_for_parked()

    def begin(self) -> None:
        """Look for what was left before: all streams are known by now."""
        self.pace.begin()
        self.look_for_parked()

    def postpone(self) -> None:
        """Look in a while, and not before: see `SweepPace.postpone`."""
        self._left.clear()
        self.pace.postpone()
        self._wake.set()

    def look_for_parked(self) -> None:
        """Ask for every tenant what waits for its next attempt."""
        for tenant_id in {state.name.tenant_id for state in self._table}:
            self.note_parked(tenant_id, 0.0)
        self._wake.set()

    def finish(self) -> None:
        """End `run` when what is under way has been taken in."""
        self._is_ending = True
        self._wake.set()

    # --- the loop ---------------------------------------------------------------------

    async def run(self) -> None:
        """Recover until `finish`."""
        while not self._is_ending:
            try:
                await self._kept.retry()
                await self._take_parked()
                if self._sweep_due <= self._monotonic():
                    await self._sweep()
                self._pauses.reset()
                await self._rest()
            except UnavailableError:
                self.postpone()
                self._hand.on_room()  # the reader settles what was taken in
                await self._clock.sleep(next(self._pauses))
            except CrewRedisError as error:
                log.warning("consumer.recovery_refused", error=type(error).__name__)
                await self._clock.sleep(2.0)

    async def _rest(self) -> None:
        """Wait until something is due or somebody calls."""
        due = min(self._sweep_due, self._kept.due)
        if self._parked:
            due = min(due, self._parked[0][0])
        self._wake.clear()
        if self._is_ending or (wait := due - self._monotonic()) <= 0:
            return
        loop = asyncio.get_running_loop()
        timer = loop.call_later(wait, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    # --- parked -----------------------------------------------------------------------

    async def _take_parked(self) -> None:
        while self._parked and self._parked[0][0] <= self._monotonic():
            if self._is_ending:
                return
            due, tenant_id = heappop(self._parked)
            if self._due.get(tenant_id) != due:
                continue
            del self._due[tenant_id]
            try:
                wait = await self._take_due(tenant_id)
            except BaseException:
                self.note_parked(tenant_id, CROWDED)
                raise
            if wait is not None:
                self.note_parked(tenant_id, wait)

    async def _take_due(self, tenant_id: str) -> float | None:
        """Take what is due of a tenant; return the seconds until something else is."""
        room, _ = self._hand.room()
        if room <= 0:
            return CROWDED
        parked = self._settling.books(tenant_id).parked
        members, wait_ms = await self._port.run(
            "event_parked", (parked,), (min(room, CHUNK),), is_repeatable=True
        )
        await self._take(tenant_id, members)
        if members:
            return 0.0
        return None if int(wait_ms) < 0 else int(wait_ms) / 1_000

    async def _take(self, tenant_id: str, members: Sequence[bytes]) -> None:
        by_stream: dict[bytes, list[bytes]] = {}
        for member in members:
            key, _, entry_id = member.rpartition(b"|")
            by_stream.setdefault(key, []).append(entry_id)
        books = self._settling.books(tenant_id)
        for key, ids in by_stream.items():
            state = self._known(tenant_id, key)
            if state is None:
                gone = [key + b"|" + entry_id for entry_id in ids]
                await self._port.send("ZREM", books.parked, *gone, is_repeatable=True)
                continue
            with self._looking_again():
                entries, lost = await self._port.run(
                    "event_take",
                    (key, books.parked, books.tally),
                    (self._group, self._consumer, b" ".join(ids)),
                )
            self._counts.lost += int(lost)
            await self._admit(state, entries)

    def _known(self, tenant_id: str, key: bytes) -> StreamState | None:
        """Return a stream of this subscription; None for what is not."""
        name = stream_name(self._keys, key)
        if name is None or name.tenant_id != tenant_id:
            return None
        if not self._subscription.wants(tenant_id, name.event_type):
            return None
        return self._table.add(key, name)

    @property
    def _sweep_due(self) -> float:
        return self._left_due if self._left else self.pace.due

    # --- left behind ------------------------------------------------------------------

    async def catch_up(self, state: StreamState) -> bool:
        """Take what is pending before a stream is read on; False while there is more.

        Raises:
            UnavailableError: Redis did not answer.
        """
        is_unseen, start = state.is_doubtful, state.claimed_to or b"-"
        claims = self._claims
        call = claims.unseen(state) if is_unseen else claims.all(state, start, CHUNK)
        with asking((state,)):
            reply = await self._port.run(*call)
            state.claimed_to = await self._claimed(state, reply)
        if state.claimed_to:
            return False
        state.is_doubtful = False
        state.is_taken_over = is_unseen and state.is_taken_over
        return not state.is_taken_over

    async def _sweep(self) -> None:
        """Look on through all streams for entries that have been let lie.

        A part at a time: retries are not to wait for room that they would make.
        """
        if not self._left and self.pace.is_due:
            self._left = [(each, b"-") for each in self._table]
        idle_ms = round(self._subscription.claim_after * 1_000)
        room, _ = self._hand.room()
        if room <= 0:
            self._left_due = self._monotonic() + CROWDED
            return
        now, self._left = self._left[:CHUNK], self._left[CHUNK:]
        now = [one for one in now if self._may_read(one[0])]
        count = max(1, min(room // max(1, len(now)), CHUNK))
        calls = [self._claims.all(state, start, count, idle_ms) for state, start in now]
        with self._looking_again(), asking([state for state, _ in now]):
            replies = await self._port.run_many(calls) if calls else []
            for (state, _), reply in zip(now, replies, strict=True):
                if isinstance(reply, CrewRedisError):
                    continue  # the next sweep will see
                if following := await self._claimed(state, reply):
                    self._left.append((state, following))
        self._left_due = self._monotonic()
        if not self._left:
            self.pace.swept()

    @contextmanager
    def _looking_again(self) -> Iterator[None]:
        """Have what a lost answer left under our name found when it is old enough."""
        try:
            yield
        except BaseException:
            self.pace.hasten()
            raise

    async def _claimed(self, state: StreamState, reply: Sequence[Any]) -> bytes:
        """Take in what was claimed; return where to go on, empty at the end."""
        following, entries, dead, lost = reply
        self._counts.dead += int(dead)
        self._counts.lost += int(lost)
        if dead:
            log.warning("consumer.events_poisonous", group=self._group, count=int(dead))
        await self._admit(state, entries)
        return bytes(following)

    async def _admit(self, state: StreamState, entries: Sequence[Any]) -> None:
        if entries:
            self._intake.take_again(state, entries)
            await self._intake.settle()
