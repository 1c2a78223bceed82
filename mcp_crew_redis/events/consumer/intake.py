"""What comes out of a stream: events for the handler, and what never gets there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from mcp_crew_redis._wire.envelope import BODY, ENVELOPE, expires_ms
from mcp_crew_redis._wire.streams import seen_key
from mcp_crew_redis.errors import CodecError
from mcp_crew_redis.events.consumer.counts import ConsumerCounts
from mcp_crew_redis.events.consumer.hand import Hand
from mcp_crew_redis.events.consumer.held import Held
from mcp_crew_redis.events.consumer.settling import Settling
from mcp_crew_redis.events.consumer.table import StreamState
from mcp_crew_redis.events.consumer.working import Workers
from mcp_crew_redis.events.decoding import Decoder, parts_of
from mcp_crew_redis.events.event import Event
from mcp_crew_redis.events.hub import EventHub
from mcp_crew_redis.events.making import unread_envelope
from mcp_crew_redis.events.subscriptions import Subscription
from mcp_crew_redis.log import get_logger

__all__ = ["Intake"]

log = get_logger(__name__)

OURS: Final = 4  # names and values of an entry that we wrote
NEW: Final = 0.25
"""Weight of the newest entry in the average size."""


class Intake:
    """Decodes entries and puts them into the hand.

    An entry that is gone is counted as lost, one that cannot be read becomes a dead
    letter with the reason, one that nobody needs any more is acknowledged: no handler
    ever sees them.

    Args:
        hub: The parts.
        subscription: What payloads are validated as.
        hand: Where events go.
        workers: Told of them.
        settling: Sends what is decided here.
        counts: What has been done.
    """

    def __init__(
        self,
        hub: EventHub,
        subscription: Subscription,
        *,
        hand: Hand,
        workers: Workers,
        settling: Settling,
        counts: ConsumerCounts,
    ) -> None:
        self._decode = Decoder(hub.codec, hub.catalog).event
        self._port, self._keys = hub.port, hub.keys
        self._monotonic = hub.clock.monotonic
        self._now_us = hub.store.context.stamps.hybrid.now_us
        self._subscription = subscription
        self._hand, self._workers, self._settling = hand, workers, settling
        self._counts = counts
        self._spoiled: list[tuple[Held, str]] = []
        self._unsure: list[Held] = []  # perhaps handled already
        self._notes: Counter[tuple[str, str]] = Counter()

    def take(self, state: StreamState, entries: Iterable[Any]) -> None:
        """Take in entries that were never delivered before, each `[id, fields]`."""
        now, size, taken = self._monotonic(), 0, 0
        for entry_id, fields in entries:
            state.last_id = entry_id
            if entry_id in state.held:
                continue  # the group was rewound: it is being handled
            taken += 1
            size += self._take(state, entry_id, fields, 1, now)
        if taken:
            _measure(state, size / taken)
            if self._hand:
                self._workers.stir()

    def take_again(self, state: StreamState, entries: Iterable[Any]) -> None:
        """Take in entries that were delivered before.

        Each is `[id, fields, deliveries]`, or with a fourth part that tells a suspect.
        """
        now = self._monotonic()
        for entry_id, fields, count, *more in entries:
            if entry_id not in state.held:
                self._counts.redelivered += 1
                doubt = 0 if not more or int(count) == 1 else 1 + int(more[0])
                self._take(state, entry_id, fields, int(count), now, doubt)
        if self._hand:
            self._workers.stir()

    def _take(
        self,
        state: StreamState,
        entry_id: bytes,
        fields: list[bytes] | None,
        count: int,
        now: float,
        doubt: int = 0,
    ) -> int:
        """Take in one entry and return its size in bytes.

        Args:
            state: Its stream.
            entry_id: Its place there.
            fields: Names and values in turn; None where it is gone.
            count: Deliveries, this one included.
            now: Monotonic seconds.
            doubt: 1 if another consumer has left it behind, 2 for a suspect.
        """
        if fields is None:
            self._lost(state, entry_id, now)
            return 0
        m: bytes | None
        d: bytes | None
        if len(fields) == OURS and fields[0] == ENVELOPE and fields[2] == BODY:
            _, m, _, d = fields
            size = len(m) + len(d)
        else:
            m, d = parts_of(fields)
            size = sum(map(len, fields))
        payload = self._subscription.payload
        try:
            event = self._decode(state.name, entry_id, m, d, count, payload)
        except CodecError as error:
            self._spoil(state, entry_id, count, now, str(error))
        else:
            held = Held(state, entry_id, event, count, now)
            if doubt:
                held.is_left, held.is_suspect = True, doubt > 1
            self._admit(held)
        return size

    async def settle(self) -> None:
        """Finish what `take` could not do without Redis; does nothing mostly.

        Raises:
            UnavailableError: Redis did not answer; it will be tried again.
        """
        if self._unsure:
            await self._sort_out()
        while self._spoiled:
            held, reason = self._spoiled.pop()
            await self._settling.bury(held, reason)
        while self._notes:
            (tenant_id, field), count = self._notes.popitem()
            await self._settling.tally(tenant_id, field, count)

    def _admit(self, held: Held) -> None:
        ends_ms = expires_ms(held.event.fields)
        if ends_ms is not None and ends_ms * 1_000 <= self._now_us():
            self._counts.expired += 1
            held.is_over = True
            self._skip(held, "expired")
        elif self._subscription.dedup:
            self._hand.keep(held)
            self._unsure.append(held)
        else:
            self._hand.keep(held)
            self._hand.queue(held)

    def _skip(self, held: Held, why: str) -> None:
        """Acknowledge what no handler shall see."""
        held.is_copy = True
        self._notes[held.stream.name.tenant_id, why] += 1
        self._settling.done(held)

    def _lost(self, state: StreamState, entry_id: bytes, now: float) -> None:
        self._counts.lost += 1
        log.warning(
            "consumer.event_lost",
            group=self._subscription.group,
            event_type=state.name.event_type,
        )
        nothing = Event.of(state.name.event_type, "", 0, None, unread_envelope())
        held = Held(state, entry_id, nothing, 1, now)
        held.is_over = True
        self._skip(held, "lost")

    def _spoil(
        self, state: StreamState, entry_id: bytes, count: int, now: float, reason: str
    ) -> None:
        nothing = Event.of(state.name.event_type, "", 0, None, unread_envelope())
        held = Held(state, entry_id, nothing, count, now)
        self._hand.keep(held)
        self._spoiled.append((held, reason))

    async def _sort_out(self) -> None:
        """Skip what this group has handled before."""
        unsure, self._unsure = self._unsure, []
        group = self._subscription.group
        commands = [
            (
                "EXISTS",
                seen_key(
                    self._keys.tenant(held.stream.name.tenant_id), group, held.event.id
                ),
            )
            for held in unsure
        ]
        try:
            replies = await self._port.send_many(commands)
        except BaseException:
            self._unsure += unsure
            raise
        for held, reply in zip(unsure, replies, strict=True):
            if reply == 1 or self._hand.is_here(held):
                self._counts.duplicates += 1
                self._skip(held, "duplicates")
            else:
                self._hand.queue(held)
        if self._hand:
            self._workers.stir()


def _measure(state: StreamState, size: float) -> None:
    """Take note of how large the entries of a stream are."""
    average = state.average or size
    state.average = max(1.0, average + NEW * (size - average))
