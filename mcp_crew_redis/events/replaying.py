"""`replay`: what has happened and is still retained, in the order of its publishing."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from typing import Any, Final, Self

from mcp_crew_redis._wire.keys import TenantKeys
from mcp_crew_redis._wire.streams import StreamName
from mcp_crew_redis.errors import CodecError, DataError
from mcp_crew_redis.events.decoding import Decoder
from mcp_crew_redis.events.event import Event
from mcp_crew_redis.events.hub import EventHub
from mcp_crew_redis.events.kinds import Pattern
from mcp_crew_redis.events.scanning import Scanner, place_of
from mcp_crew_redis.log import get_logger

__all__ = ["MAX_BATCH", "Replay"]

log = get_logger(__name__)

MAX_BATCH: Final = 10_000
_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_LEAST: Final = 8  # entries of one stream's page, where there are many streams

Head = tuple[int, int, bytes]


class _Cursor:
    """How far one stream has been read."""

    __slots__ = ("high", "key", "low", "name", "waiting")

    def __init__(self, key: bytes, name: StreamName, low: bytes, high: bytes) -> None:
        self.key, self.name = key, name
        self.low, self.high = low, high
        self.waiting: deque[tuple[bytes, bytes | None, bytes | None]] = deque()


class Replay(AsyncIterator[Event[Any]]):
    """The retained events of a tenant, oldest first: an async iterator.

    Ordered by the time of their publishing, by the server's clock; those of one
    millisecond by their streams. It ends with what stood there when it began. No group
    learns of it, nothing is acknowledged or removed. At most one page of each stream is
    held.

    When iterating raises UnavailableError, iterate again: it goes on where it was.

    Args:
        hub: What the rooms of the events share.
        keys: The tenant's.
        pattern: Which types.
        since: From when on, with a time zone.
        until: Before when; None for now.
        batch: Events read at a time, 1 to 10,000.
        include_expired: Also those that nobody needs any more by their `expires_in`.

    Attributes:
        skipped: Entries that could not be decoded so far.

    Raises:
        InvalidEventTypeError: The pattern is not one.
        DataError: A time has no time zone, or `batch` is out of range.
    """

    def __init__(
        self,
        hub: EventHub,
        keys: TenantKeys,
        pattern: str,
        *,
        since: datetime,
        until: datetime | None = None,
        batch: int = 500,
        include_expired: bool = False,
    ) -> None:
        if type(batch) is not int or not 1 <= batch <= MAX_BATCH:
            raise DataError(f"batch is an integer from 1 to {MAX_BATCH}")
        self._pattern = Pattern(pattern)
        self._since_ms = max(0, _milliseconds("since", since))
        self._until_ms = None if until is None else _milliseconds("until", until)
        self._batch = batch
        self._is_all = include_expired
        self.skipped = 0
        self._hub, self._keys = hub, keys
        self._scanner = Scanner(hub.port, hub.store.registry, hub.catalog)
        self._decoder = Decoder(hub.codec, hub.catalog)
        self._cursors: dict[bytes, _Cursor] | None = None
        self._heads: list[Head] = []
        self._empty: dict[bytes, None] = {}  # streams whose next page is due
        self._page = batch

    def __repr__(self) -> str:
        return f"<Replay {self._keys.tenant_id} {self._pattern.text}>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event[Any]:
        """Return the next event; cancelled, it is not lost."""
        while True:
            if self._cursors is None:
                self._cursors = await self._open()
                self._empty = dict.fromkeys(self._cursors)
            if self._empty:
                await self._fill(self._cursors)
            if not self._heads:
                raise StopAsyncIteration
            event = self._next(self._cursors)
            if event is not None:
                return event

    async def _open(self) -> dict[bytes, _Cursor]:
        """Find the streams that have anything to say, and where they end now."""
        streams = await self._scanner.streams(self._keys, self._pattern)
        last = await self._scanner.last(list(streams))
        low = b"%d-0" % self._since_ms
        cursors: dict[bytes, _Cursor] = {}
        for key, high in last.items():
            if place_of(high)[0] < self._since_ms:
                continue
            if self._until_ms is not None and place_of(high)[0] >= self._until_ms:
                if self._until_ms <= self._since_ms:
                    continue
                high = b"%d" % (self._until_ms - 1)  # noqa: PLW2901 - the nearer end
            cursors[key] = _Cursor(key, streams[key], low, high)
        self._page = max(_LEAST, self._batch // max(1, len(cursors)))
        return cursors

    async def _fill(self, cursors: dict[bytes, _Cursor]) -> None:
        """Read the next page of each stream of which nothing is held."""
        due = [cursors[key] for key in self._empty]
        pages = await self._scanner.pages(
            [(each.key, each.low, each.high, self._page) for each in due]
        )
        for cursor, page in zip(due, pages, strict=True):
            if page:
                cursor.waiting.extend(page)
                cursor.low = b"(" + page[-1][0]
                self._push(cursor)
            else:
                del cursors[cursor.key]
        self._empty.clear()

    def _push(self, cursor: _Cursor) -> None:
        heappush(self._heads, (*place_of(cursor.waiting[0][0]), cursor.key))

    def _next(self, cursors: dict[bytes, _Cursor]) -> Event[Any] | None:
        """Take the oldest entry; None if it is none of those that are wanted."""
        cursor = cursors[heappop(self._heads)[2]]
        place, head, body = cursor.waiting.popleft()
        if cursor.waiting:
            self._push(cursor)
        else:
            self._empty[cursor.key] = None
        try:
            event = self._decoder.event(cursor.name, place, head, body)
        except CodecError as error:
            self.skipped += 1
            log.debug("event.skipped", reason=str(error), place=place.decode())
            return None
        return event if self._is_all or not self._is_over(event) else None

    def _is_over(self, event: Event[Any]) -> bool:
        ends_ms = event.envelope.expires_ms
        if ends_ms is None:
            return False
        return ends_ms * 1_000 <= self._hub.store.context.stamps.hybrid.now_us()


def _milliseconds(name: str, when: object) -> int:
    if not isinstance(when, datetime) or when.tzinfo is None:
        raise DataError(f"{name} is a datetime with a time zone")
    return (when - _EPOCH) // _MILLISECOND
