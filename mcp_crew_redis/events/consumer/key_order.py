"""Events of one key one after the other, a failed one before the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from mcp_crew_redis.events.consumer.doubts import drawn

if TYPE_CHECKING:
    from mcp_crew_redis.events.consumer.held import Held
    from mcp_crew_redis.events.consumer.table import StreamState

__all__ = ["MAX_BLOCKED", "MOST_BLOCKED", "KeyOrder"]

MAX_BLOCKED: Final = 1_024
"""Entries behind others of their key that take up no room: other keys go on."""
MOST_BLOCKED: Final = 256
"""Those of one stream, beyond which it is not read on: other streams go on."""


class KeyOrder:
    """Lets the first entry of each key through; the others wait behind it.

    Args:
        queue: Takes an entry whose turn it is.
        on_unblocked: Called with a stream that may be read on.
    """

    def __init__(
        self,
        queue: Callable[[Held], None],
        on_unblocked: Callable[[StreamState], None],
    ) -> None:
        self._queue = queue
        self._on_unblocked = on_unblocked
        # By key: the entry that was let through, and those behind it.
        self._keys: dict[tuple[str, str], tuple[Held, deque[Held]]] = {}
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """How many wait behind others of their key."""
        return self._waiting

    def admit(self, held: Held) -> None:
        """Queue an entry, or have it wait for those of its key before it."""
        key = _key(held)
        if key is None:
            self._queue(held)
            return
        found = self._keys.get(key)
        if found is None:
            self._keys[key] = held, deque()
            self._queue(held)
        else:
            found[1].append(held)
            self._wait(held.stream, 1)

    def finished(self, held: Held) -> None:
        """Let the next of the key through."""
        key = _key(held)
        found = None if key is None else self._keys.get(key)
        if key is None or found is None or found[0] is not held:
            return
        line = found[1]
        if line:
            following = line.popleft()
            self._keys[key] = following, line
            self._wait(following.stream, -1)
            self._queue(following)
        else:
            del self._keys[key]

    def clear(self, is_meant: Callable[[Held], bool]) -> list[Held]:
        """Take out those that are meant and wait, in their order."""
        taken: list[Held] = []
        for _, line in self._keys.values():
            taken += drawn(line, is_meant)
        for held in taken:
            self._wait(held.stream, -1)
        return taken

    def _wait(self, stream: StreamState, step: int) -> None:
        """Count those that wait; a stream of which many do is not read on."""
        self._waiting += step
        stream.blocked += step
        if step < 0 and stream.blocked == MOST_BLOCKED // 2:
            self._on_unblocked(stream)


def _key(held: Held) -> tuple[str, str] | None:
    key = held.event.key
    return None if key is None else (held.event.tenant_id, key)
