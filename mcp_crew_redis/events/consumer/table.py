"""The streams of one subscription: which of them may have something to read.

A stream is ready from the moment it may have grown until a read found less than it
asked for. Ready streams wait in turn, one line for each priority lane.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from mcp_crew_redis._wire.streams import LANES, StreamName

if TYPE_CHECKING:
    from mcp_crew_redis.events.consumer.held import Held

__all__ = ["LANE_COUNT", "StreamState", "StreamTable", "asking"]

LANE_COUNT: Final = len(LANES)


class StreamState:
    """One stream as one subscription sees it.

    Attributes:
        key: Its key.
        name: What the key says.
        held: What is in this process, by entry id.
        blocked: Entries that wait here for others of their keys.
        claimed_to: Where to go on taking over what is pending; empty for its beginning.
        last_id: The last entry that a read has given here.
        asked: Requests for its entries that are under way.
        average: Bytes of an entry, as seen lately; 0 before the first.
        is_waiting: It stands in its lane's line.
        is_rung: It grew after the read that is under way was sent.
        is_doubtful: A read was not answered: what it took is pending under our name.
        is_full: The last read got all it asked for: there is more.
        is_new: Its group has never been read here: it may have to be made.
        is_taken_over: What another process left pending is to be taken before reading.
    """

    __slots__ = (
        "asked",
        "average",
        "blocked",
        "claimed_to",
        "held",
        "is_doubtful",
        "is_full",
        "is_new",
        "is_rung",
        "is_taken_over",
        "is_waiting",
        "key",
        "last_id",
        "name",
    )

    def __init__(self, key: bytes, name: StreamName) -> None:
        self.key = key
        self.name = name
        self.held: dict[bytes, Held] = {}
        self.claimed_to = self.last_id = b""
        self.asked = self.blocked = 0
        self.average = 0.0
        self.is_waiting = self.is_rung = self.is_doubtful = self.is_taken_over = False
        self.is_new = True
        self.is_full = False

    def __repr__(self) -> str:
        return (
            f"<StreamState {self.name.event_type} {self.name.lane} {self.is_waiting=}>"
        )


@contextmanager
def asking(states: Sequence[StreamState]) -> Iterator[None]:
    """Take note that requests for entries of these streams are under way."""
    for state in states:
        state.asked += 1
    try:
        yield
    finally:
        for state in states:
            state.asked -= 1


class StreamTable:
    """All streams of one subscription, by key."""

    def __init__(self) -> None:
        self._streams: dict[bytes, StreamState] = {}
        self._lines: tuple[deque[StreamState], ...] = tuple(
            deque() for _ in range(LANE_COUNT)
        )

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Iterator[StreamState]:
        return iter(tuple(self._streams.values()))

    def get(self, key: bytes) -> StreamState | None:
        """Return a stream that is known."""
        return self._streams.get(key)

    def add(self, key: bytes, name: StreamName) -> StreamState:
        """Return the stream of that key, known from now on."""
        state = self._streams.get(key)
        if state is None:
            state = self._streams[key] = StreamState(key, name)
        return state

    def forget(self, state: StreamState) -> None:
        """Drop a stream that does not exist; it is added again when it does."""
        if not state.held:
            self._streams.pop(state.key, None)

    def rung(self, state: StreamState) -> None:
        """Take note that a stream may have grown."""
        state.is_rung = True
        if not state.is_waiting:
            state.is_waiting = True
            self._lines[state.name.lane].append(state)

    @property
    def is_ready(self) -> bool:
        """Whether any stream is ready."""
        return any(self._lines)

    def is_lane_ready(self, lane: int) -> bool:
        """Whether a stream of that lane is ready."""
        return bool(self._lines[lane])

    def take(
        self, lane: int, most: int, may_read: Callable[[StreamState], bool]
    ) -> list[StreamState]:
        """Take ready streams out of their line, first come, first served.

        Those that may not be read drop out: they are rung when they may.
        """
        line = self._lines[lane]
        taken: list[StreamState] = []
        while line and len(taken) < most:
            state = line.popleft()
            state.is_waiting = state.is_rung = False
            if may_read(state):
                taken.append(state)
        return taken
