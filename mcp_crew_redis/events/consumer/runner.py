"""One subscription at work in this process."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import asdict
from secrets import token_hex
from typing import Final

from anyio import CancelScope, move_on_after

from mcp_crew_redis._wire.streams import StreamName
from mcp_crew_redis.errors import CrewRedisError
from mcp_crew_redis.events.consumer.counts import ConsumerCounts, ConsumerStatistics
from mcp_crew_redis.events.consumer.hand import Hand
from mcp_crew_redis.events.consumer.held import Held
from mcp_crew_redis.events.consumer.holding import Holding
from mcp_crew_redis.events.consumer.intake import Intake
from mcp_crew_redis.events.consumer.keeping import Kept
from mcp_crew_redis.events.consumer.key_order import MOST_BLOCKED
from mcp_crew_redis.events.consumer.presence import Presence
from mcp_crew_redis.events.consumer.reading import Reader
from mcp_crew_redis.events.consumer.recovery import Recovery
from mcp_crew_redis.events.consumer.settling import Settling
from mcp_crew_redis.events.consumer.table import StreamState, StreamTable
from mcp_crew_redis.events.consumer.verdicts import Verdicts
from mcp_crew_redis.events.consumer.working import Workers
from mcp_crew_redis.events.hub import EventHub
from mcp_crew_redis.events.subscriptions import Subscription
from mcp_crew_redis.log import get_logger

__all__ = ["Runner"]

log = get_logger(__name__)

LAST_WORDS: Final = 2.0
"""Seconds for telling Redis what is not handled, when the end has come."""
FLUSHES: Final = 10
CHECK: Final = 0.25
"""Seconds between looks for calls that take too long, at most."""
LEAST_CHECK: Final = 0.01


class Runner:
    """Reads, handles and recovers the events of one subscription.

    Args:
        hub: The parts.
        subscription: Which events, and who handles them.

    Attributes:
        subscription: What it was made with.
        consumer: The name under which it reads; never used twice.
    """

    def __init__(self, hub: EventHub, subscription: Subscription) -> None:
        self.subscription = subscription
        self.consumer = f"{_host()}-{os.getpid()}-{token_hex(4)}"
        self._clock = hub.clock
        self._counts = counts = ConsumerCounts()
        self._table = table = StreamTable()
        self._hand = hand = Hand(subscription, hub.clock.monotonic, self._has_room)
        whose = (hub, subscription, self.consumer)
        self._holding = Holding(*whose, table, counts)
        self._settling = settling = Settling(*whose, hand, counts, self._parked)
        verdicts = Verdicts(hub, subscription, settling, counts, self._keep)
        self._workers = workers = Workers(
            subscription, hand, verdicts, counts, hub.clock.monotonic
        )
        self._kept = Kept(*whose, hand, workers, counts)
        hand.on_unblocked = self.ring
        self._staff(hub)
        self._presence = Presence(
            *whose,
            on_gone=self._recovery.consumer_gone,
            on_gained=self._gained,
            release=self._release,
            is_busy=self._is_busy,
        )

    def _staff(self, hub: EventHub) -> None:
        """Hire those who get entries."""
        whose = (hub, self.subscription, self.consumer)
        intake = Intake(
            *whose[:2],
            hand=self._hand,
            workers=self._workers,
            settling=self._settling,
            counts=self._counts,
        )
        self._recovery = Recovery(
            *whose,
            table=self._table,
            hand=self._hand,
            kept=self._kept,
            intake=intake,
            settling=self._settling,
            counts=self._counts,
            may_read=self._may_read,
        )
        self._reader = Reader(
            *whose,
            table=self._table,
            hand=self._hand,
            settling=self._settling,
            intake=intake,
            recovery=self._recovery,
            counts=self._counts,
            may_read=self._may_read,
            is_ours=self._is_ours,
        )

    def _has_room(self) -> None:
        self._reader.wake()

    def _parked(self, tenant_id: str, after: float) -> None:
        self._recovery.note_parked(tenant_id, after)

    def _keep(self, held: Held, after: float) -> None:
        self._hand.set_aside(held)
        self._kept.keep(held, after)
        self._recovery.wake()

    def __repr__(self) -> str:
        return f"<Runner {self.subscription!r} {self._hand.count} held>"

    # --- streams ----------------------------------------------------------------------

    def stream(self, key: bytes, name: StreamName) -> StreamState:
        """Return the stream of that key, known from now on."""
        known = self._table.get(key)
        if known is not None:
            return known
        state = self._table.add(key, name)
        # Whoever has read this partition before may have left something.
        state.is_taken_over = self._presence.is_divided and name.partition is not None
        return state

    def streams(self) -> Iterator[StreamState]:
        """Give every stream that is known."""
        return iter(self._table)

    def ring(self, state: StreamState) -> None:
        """Take note that a stream may have grown."""
        if self._table.get(state.key) is not state:  # it was forgotten meanwhile
            state = self.stream(state.key, state.name)
        self._table.rung(state)
        self._reader.wake()

    def ring_all(self) -> None:
        """Look into every stream: of what happened meanwhile nothing was told."""
        for state in self._table:
            self._table.rung(state)
        self._reader.wake()

    def look_again(self) -> None:
        """Try streams again that were refused."""
        self._reader.look_again()

    def server_changed(self) -> None:
        """Look, in a while, for what another server, or the same, has forgotten."""
        self._recovery.postpone()
        self._presence.hasten()

    def surveyed(self) -> None:
        """Look for what was left: all streams there are have been rung."""
        self._recovery.begin()

    def _may_read(self, state: StreamState) -> bool:
        return self._is_ours(state) and state.blocked < MOST_BLOCKED

    def _is_ours(self, state: StreamState) -> bool:
        return self._presence.may_read(state.name.partition)

    def _gained(self, numbers: frozenset[int]) -> None:
        """Read partitions from now on, after what their last reader has left."""
        for state in self._table:
            if state.name.partition in numbers:
                state.is_taken_over = True
                self._table.rung(state)
        self._reader.wake()

    def _is_busy(self, partition: int) -> bool:
        """Whether anything of a partition is in this process."""
        return any(
            state.held or state.asked
            for state in self._table
            if state.name.partition == partition
        )

    # --- life -------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until `finish`; then hand on what is left.

        Cancelled, it tells Redis what it held, for two seconds at most.
        """
        try:
            async with asyncio.TaskGroup() as group:
                self._workers.start(group)
                background = [
                    group.create_task(work)
                    for work in (
                        self._settling.run(),
                        self._presence.run(),
                        self._holding.run(),
                        self._check(),
                    )
                ]
                recovering = group.create_task(self._recovery.run())
                try:
                    await self._reader.run()
                    self._recovery.finish()
                    await recovering
                    await self._wind_up()
                except BaseException:
                    self._workers.abort()
                    raise
                for task in background:
                    task.cancel()
        finally:
            self._settling.aclose()
            with CancelScope(shield=True), move_on_after(LAST_WORDS):
                await self._leave()

    def finish(self) -> None:
        """Fetch nothing more, and end when what has begun is done."""
        self._reader.finish()
        self._settling.finish()

    async def _wind_up(self) -> None:
        """Wait for the calls under way; give back what none has begun with."""
        await self._give_back(lambda _: True)
        self._workers.finish()
        while self._workers.busy:
            await self._clock.sleep(0.005)
        for _ in range(FLUSHES):
            if await self._settling.flush():
                break  # else others will get again what was handled
            await self._clock.sleep(0.05)

    async def _release(self, partitions: frozenset[int]) -> None:
        """Give back what waits here of partitions that others will read."""
        await self._give_back(lambda held: held.stream.name.partition in partitions)

    async def _give_back(self, is_meant: Callable[[Held], bool]) -> None:
        """Let others have entries that no handler has begun with."""
        unstarted = self._hand.unstarted(is_meant)
        unseen = [held for held in unstarted if not held.is_suspect]
        counted = [held for held in unstarted if held.is_suspect]
        counted += self._kept.clear(is_meant)
        for entries, bump in ((unseen, -1), (counted, 0)):
            # Also in vain: without a sign of life others will get them, a little later.
            await self._holding.give_back(entries, bump)
            for held in entries:
                self._hand.finished(held)

    async def _leave(self) -> None:
        """Tell that this consumer is no more."""
        try:
            await self._settling.flush()
            await self._holding.let_go()
            await self._presence.leave()
            await self._holding.leave()
        except CrewRedisError as error:
            log.info("consumer.leave_failed", cause=type(error).__name__)

    async def _check(self) -> None:
        timeout = self.subscription.timeout
        if timeout is None:
            return
        while True:
            await self._clock.sleep(max(LEAST_CHECK, min(CHECK, timeout / 4)))
            self._workers.check()

    def statistics(self) -> ConsumerStatistics:
        """Return the figures of this moment."""
        return ConsumerStatistics(
            group=self.subscription.group,
            pattern=self.subscription.pattern.text,
            consumer=self.consumer,
            streams=len(self._table),
            held=self._hand.count,
            unacknowledged=self._settling.unsent,
            partitions=self._presence.partitions,
            **asdict(self._counts),
        )


def _host() -> str:
    """Return this machine's name, in characters that a consumer's name may have."""
    name = socket.gethostname()[:64]
    return "".join(
        c if c.isascii() and (c.isalnum() or c in "._") else "_" for c in name
    )
