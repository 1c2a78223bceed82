"""What one subscription has in this process: entries that wait, and room for more."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from mcp_crew_redis.events.consumer.doubts import Doubts, drawn
from mcp_crew_redis.events.consumer.held import Held
from mcp_crew_redis.events.consumer.key_order import MAX_BLOCKED, KeyOrder
from mcp_crew_redis.events.consumer.lanes import LaneWheel
from mcp_crew_redis.events.consumer.table import LANE_COUNT, StreamState
from mcp_crew_redis.events.subscriptions import Subscription

__all__ = ["Hand"]

MAX_PREFETCH: Final = 256
AHEAD: Final = 0.05  # seconds of work that are fetched before there is a call for it
MEASURED: Final = 0.02  # seconds over which the pace is measured
RESERVE: Final = 10  # one call in so many is kept for critical events


Name = tuple[str, bytes | str]


class Hand:
    """Queues by priority lane, and the room for more.

    Args:
        subscription: How many calls there are, and in which order keys are handled.
        monotonic: Local seconds.
        on_room: Called when the reader, who has found no room, may look again.

    Attributes:
        count: Entries held: queued, being handled, or waiting for their turn.
        on_room: As given.
        on_unblocked: Called with a stream that may be read on.
        plain_calls: How many calls events that are not critical may take up.
    """

    def __init__(
        self,
        subscription: Subscription,
        monotonic: Callable[[], float],
        on_room: Callable[[], None],
    ) -> None:
        calls = subscription.concurrency
        reserved = -(-calls // RESERVE) if calls > 1 else 0
        size = max(1, subscription.batch_size)
        self.count = self._critical = 0
        self.plain_calls = calls - reserved
        self._queues: tuple[deque[Held], ...] = tuple(
            deque() for _ in range(LANE_COUNT)
        )
        self._kept: set[Held] = set()  # for their next attempt, here
        self._doubts = Doubts()
        self._wheel = LaneWheel()
        is_ordered = subscription.ordering is not None
        self._order = KeyOrder(self._queue, self._unblocked) if is_ordered else None
        # For those that want no duplicates: the events in this process, by name.
        self._names: set[Name] | None = set() if subscription.dedup else None
        self._capacity = calls * size
        self._reserve = max(1, reserved) * size
        self._prefetch = 0
        # More at a time makes nothing faster: it is only looked through more often.
        self._most = size if size > 1 else min(4 * calls, MAX_PREFETCH)
        self._finished = 0
        self._pace = 0.0
        self._measured_at = monotonic()
        self._monotonic = monotonic
        self._wake_at = -1
        self.on_room = on_room
        self.on_unblocked: Callable[[StreamState], None] = lambda _: None

    def __len__(self) -> int:
        return sum(map(len, self._queues)) + self._doubts.ready

    # --- room -------------------------------------------------------------------------

    def room(self) -> tuple[int, int]:
        """Return how many more may come, and how many critical ones.

        A little more than there are calls for, by the pace of the handlers: none of
        those that are slow, or another process could have them.
        """
        self._measure()
        blocked = 0
        if self._order is not None:
            blocked = min(self._order.waiting + len(self._kept), MAX_BLOCKED)
        free = self._capacity + self._prefetch - (self.count - blocked)
        # For those that find no critical ones here: where many come, others would get
        # no room any more.
        extra = max(0, self._reserve - self._critical)
        return free, max(0, free) + extra

    def rest(self) -> None:
        """Call `on_room` once there is room for a good number again."""
        limit = self._capacity + self._prefetch
        self._wake_at = min(limit - 1, self._capacity + self._prefetch // 2)

    @property
    def chunk(self) -> int:
        """How many to ask for at once: the rest is fetched while those are handled."""
        return max(1, (self._capacity + self._prefetch) // 2)

    def _measure(self) -> None:
        now = self._monotonic()
        elapsed = now - self._measured_at
        if elapsed < MEASURED:
            return
        self._pace = (self._pace + self._finished / elapsed) / 2
        self._finished, self._measured_at = 0, now
        self._prefetch = min(round(self._pace * AHEAD), self._most)

    # --- entries ----------------------------------------------------------------------

    def keep(self, held: Held) -> None:
        """Count an entry as held here; `queue`, `handled` or `finished` follows."""
        held.stream.held[held.entry_id] = held
        self.count += 1
        self._critical += held.stream.name.lane == 0

    def is_here(self, held: Held) -> bool:
        """Whether its event is in this process already, under another entry."""
        name = _name(held)
        if self._names is None or name in self._names:
            return self._names is not None
        self._names.add(name)
        return False

    def queue(self, held: Held) -> None:
        """Let an entry that is held have its turn."""
        if self._order is not None:
            self._order.admit(held)
        else:
            self._queue(held)

    def _unblocked(self, state: StreamState) -> None:
        self.on_unblocked(state)

    def _queue(self, held: Held) -> None:
        if held.is_left:
            self._doubts.add(held)
        else:
            self._queues[held.stream.name.lane].append(held)

    def next(self, *, is_plain: bool) -> Held | None:
        """Return the entry whose turn it is; None for none.

        Args:
            is_plain: Whether it may be one that is not critical.
        """
        queues = self._queues
        if not is_plain:
            if not queues[0]:
                return None
            self._wheel.next(queues, forced=0)  # ahead of its turn, not above its share
            return queues[0].popleft()
        if self._doubts:
            held = self._doubts.next()
            if held is not None:
                return held
        ready = [queue for queue in queues if queue]
        if len(ready) == 1:
            return ready[0].popleft()
        if not ready:
            return None
        return queues[self._wheel.next(queues)].popleft()

    def more(self, first: Held, most: int) -> list[Held]:
        """Return `first` and up to `most - 1` that follow it, of the same tenant."""
        stream = first.stream
        tenant_id = stream.name.tenant_id
        queue = self._queues[stream.name.lane]
        batch = [first]
        if first.is_left:
            return batch
        while queue and len(batch) < most:
            if queue[0].stream is not stream and (
                queue[0].stream.name.tenant_id != tenant_id
            ):
                break
            batch.append(queue.popleft())
        self._wheel.charge(self._queues, stream.name.lane, len(batch) - 1)
        return batch

    def finished(self, held: Held) -> None:
        """Let an entry go: parked, buried, lost, or somebody else's."""
        self.handled(held)
        self.forget(held)

    def handled(self, held: Held) -> None:
        """Make room: nothing has to be done about an entry but to acknowledge it.

        It stays ours until `forget`: nobody takes it over meanwhile, nor is it taken
        in again here.
        """
        if held.is_over:
            return
        held.is_over = True
        self.count -= 1
        self._critical -= held.stream.name.lane == 0
        self._finished += 1
        self._kept.discard(held)
        if held.is_left:
            self._doubts.finished(held)
        if self._order is not None:
            self._order.finished(held)
        if self.count <= self._wake_at:
            self._wake_at = -1
            self.on_room()

    def forget(self, held: Held) -> None:
        """It is acknowledged, or not ours any more."""
        known = held.stream.held
        if known.get(held.entry_id) is held:
            del known[held.entry_id]
        if self._names is not None and not held.is_copy:
            self._names.discard(_name(held))

    def again(self, held: Held, count: int) -> None:
        """Queue an entry once more that was kept for its next attempt."""
        held.recount(count)
        self._kept.discard(held)
        self._queue(held)

    def set_aside(self, held: Held) -> None:
        """Keep an entry for its next attempt: it takes up nobody's room or turn."""
        self._kept.add(held)
        if held.is_left:
            self._doubts.finished(held)
            held.is_left = held.is_suspect = False

    def unstarted(self, is_meant: Callable[[Held], bool]) -> list[Held]:
        """Take out those that are meant and no handler has begun with."""
        waiting = [held for queue in self._queues for held in drawn(queue, is_meant)]
        waiting += self._doubts.clear(is_meant)
        if self._order is not None:
            waiting += self._order.clear(is_meant)
        return waiting


def _name(held: Held) -> Name:
    return held.stream.name.tenant_id, held.event.fields[1]
