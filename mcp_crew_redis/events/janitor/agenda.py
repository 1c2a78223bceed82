"""Which key is due when."""

from __future__ import annotations

import heapq
from typing import Final

__all__ = ["Agenda"]

MAX_KEYS: Final = 200_000
_SLACK: Final = 64


class Agenda:
    """Keys by due time, each once. Pure; times are those of the event loop.

    Attributes:
        is_full: A key found no place since this was last set to False.
    """

    __slots__ = ("_due", "_heap", "_limit", "is_full")

    def __init__(self, limit: int = MAX_KEYS) -> None:
        self._due: dict[bytes, float] = {}
        self._heap: list[tuple[float, bytes]] = []
        self._limit = limit
        self.is_full = False

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, key: bytes) -> bool:
        return key in self._due

    def put(self, key: bytes, at: float) -> bool:
        """Have a key due at a time, or sooner if it is already; False: no place."""
        held = self._due.get(key)
        if held is None and len(self._due) >= self._limit:
            self.is_full = True
            return False
        if held is None or at < held:
            self._due[key] = at
            heapq.heappush(self._heap, (at, key))
            self._tidy()
        return True

    def take(self, now: float, count: int) -> list[bytes]:
        """Return up to `count` keys that are due, the longest due first; they leave."""
        taken: list[bytes] = []
        heap, due = self._heap, self._due
        while heap and heap[0][0] <= now and len(taken) < count:
            at, key = heapq.heappop(heap)
            if due.get(key) == at:
                del due[key]
                taken.append(key)
        return taken

    def next_due(self) -> float | None:
        """Return when the next key is due; None when there is none."""
        heap, due = self._heap, self._due
        while heap and due.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def clear(self) -> None:
        """Forget everything."""
        self._due.clear()
        self._heap.clear()
        self.is_full = False

    def _tidy(self) -> None:
        """Drop what was put sooner since, before it is the larger part."""
        if len(self._heap) > 2 * len(self._due) + _SLACK:
            self._heap = [(at, key) for key, at in self._due.items()]
            heapq.heapify(self._heap)
