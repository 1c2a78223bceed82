"""Entries that another consumer has left behind: perhaps it died of one of them.

Those that were left once are handled side by side. One that was left again is a
suspect: it is handled when none of the others is, one at a time, so that whoever dies
of it takes nobody's attempt with it. What is fresh goes on beside both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcp_crew_redis.events.consumer.held import Held

__all__ = ["Doubts", "drawn"]


class Doubts:
    """Queues of what was left behind."""

    def __init__(self) -> None:
        self._left: deque[Held] = deque()
        self._suspects: deque[Held] = deque()
        self._running: set[Held] = set()
        self._suspect: Held | None = None

    def __bool__(self) -> bool:
        return bool(self._left or self._suspects)

    @property
    def ready(self) -> int:
        """How many may be begun now."""
        if self._suspect is not None:
            return 0
        if self._suspects:
            return not self._running
        return len(self._left)

    def add(self, held: Held) -> None:
        """Take one in."""
        (self._suspects if held.is_suspect else self._left).append(held)

    def next(self) -> Held | None:
        """Return one that may be begun now."""
        if self._suspect is not None:
            return None
        if self._suspects:
            if self._running:
                return None
            self._suspect = self._suspects.popleft()
            return self._suspect
        held = self._left.popleft()
        self._running.add(held)
        return held

    def finished(self, held: Held) -> None:
        """One is not handled any more."""
        self._running.discard(held)
        if held is self._suspect:
            self._suspect = None

    def clear(self, is_meant: Callable[[Held], bool]) -> list[Held]:
        """Take out those that are meant and nobody has begun with."""
        return [*drawn(self._left, is_meant), *drawn(self._suspects, is_meant)]


def drawn(queue: deque[Held], is_meant: Callable[[Held], bool]) -> list[Held]:
    """Take out of a queue those that are meant, in their order."""
    taken = [held for held in queue if is_meant(held)]
    rest = [held for held in queue if not is_meant(held)]
    queue.clear()
    queue.extend(rest)
    return taken
