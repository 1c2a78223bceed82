"""The keys that a group keeps beside the streams of a tenant."""

from __future__ import annotations

from typing import Final, NamedTuple

from mcp_crew_redis._wire.keys import KeySpace
from mcp_crew_redis._wire.streams import dead_key, parked_key, tally_key
from mcp_crew_redis.events.subscriptions import Subscription

__all__ = ["Books", "Shelf"]

MAX_BOOKS: Final = 10_000


class Books(NamedTuple):
    """The keys beside the streams of one tenant, for one subscription."""

    dead: bytes
    parked: bytes
    tally: bytes


class Shelf:
    """Builds the keys of each tenant once.

    Args:
        keys: Builds keys.
        subscription: Whose they are.
    """

    def __init__(self, keys: KeySpace, subscription: Subscription) -> None:
        self._keys = keys
        self._group = subscription.group
        # Of one subscription: another of the group would not know the streams.
        self._name = f"{subscription.group}:{subscription.pattern.text}"
        self._books: dict[str, Books] = {}

    def books(self, tenant_id: str) -> Books:
        """Return the keys beside a tenant's streams."""
        books = self._books.get(tenant_id)
        if books is None:
            if len(self._books) >= MAX_BOOKS:
                self._books.clear()  # made again soon
            keys, group = self._keys.tenant(tenant_id), self._group
            books = self._books[tenant_id] = Books(
                dead_key(keys, group),
                parked_key(keys, self._name),
                tally_key(keys, group),
            )
        return books
