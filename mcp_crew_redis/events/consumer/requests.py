"""How much a stream is asked for, and what it answers."""

from __future__ import annotations

from typing import Any, Final

from mcp_crew_redis.events.consumer.table import StreamState

__all__ = ["MAX_BYTES", "entries_of", "limited"]

MAX_BYTES: Final = 4 * 1024 * 1024
"""Bytes that one stream is asked for at once, by the size of its last entries."""
FIRST_COUNT: Final = 32
"""Entries that a stream is asked for whose size is not known yet."""


def limited(state: StreamState, count: int) -> int:
    """Return how many entries to ask for: by their size, as seen lately."""
    if not state.average:
        return min(count, FIRST_COUNT)
    return max(1, min(count, int(MAX_BYTES / state.average)))


def entries_of(reply: Any) -> list[Any]:
    """Return the entries of one stream; a map with RESP3, pairs with RESP2."""
    if not reply:
        return []
    pairs = reply.items() if isinstance(reply, dict) else reply
    return [entry for _, entries in pairs for entry in entries]
