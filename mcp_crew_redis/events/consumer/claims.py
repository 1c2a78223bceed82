"""The script that takes entries over, as the different occasions call for it."""

from __future__ import annotations

from typing import Final

from mcp_crew_redis._core.port import Call
from mcp_crew_redis.events.consumer.settling import Settling
from mcp_crew_redis.events.consumer.table import StreamState
from mcp_crew_redis.events.subscriptions import Subscription

__all__ = ["CHUNK", "Claims"]

CHUNK: Final = 64
"""Entries of one stream that are taken over in one round trip."""
SUSPECT_FROM: Final = 2
"""Deliveries without an answer after which an entry is suspected of killing whoever
handles it: it is handled alone, so that none beside it is buried with it."""


class Claims:
    """Makes calls of `event_claim`.

    Args:
        subscription: Its group, and how many deliveries there are.
        consumer: Who takes over.
        settling: The keys beside the streams.
    """

    def __init__(
        self, subscription: Subscription, consumer: str, settling: Settling
    ) -> None:
        self._group, self._consumer = subscription.group, consumer
        self._most = most = subscription.max_deliveries
        # The last attempt is never one of many at a time.
        self._suspect_from = min(SUSPECT_FROM, max(1, most - 1))
        self._books = settling.books

    def all(
        self, state: StreamState, start: bytes, count: int, idle_ms: int = 0
    ) -> Call:
        """Take what anybody has let lie for `idle_ms`, from `start` on."""
        args = ("", idle_ms, start, count, self._most, self._suspect_from)
        return self._call(state, *args)

    def unseen(self, state: StreamState) -> Call:
        """Take what is pending under our name although no answer brought it."""
        after = b"(" + state.last_id if state.last_id else b"-"
        start = state.claimed_to or after
        return self._call(state, self._consumer, 0, start, CHUNK, self._most, 0)

    def _call(self, state: StreamState, *args: bytes | str | int) -> Call:
        keys = (state.key, *self._books(state.name.tenant_id))
        return "event_claim", keys, (self._group, self._consumer, *args)
