"""`tail`: events as they happen, for whoever happens to listen."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Final, Literal, Self

from mcp_crew_redis._wire.keys import TenantKeys
from mcp_crew_redis._wire.streams import StreamName
from mcp_crew_redis.errors import (
    CodecError,
    DataError,
    LifecycleError,
    OverloadedError,
)
from mcp_crew_redis.events.decoding import Decoder
from mcp_crew_redis.events.event import Event
from mcp_crew_redis.events.hub import EventHub
from mcp_crew_redis.events.kinds import Pattern
from mcp_crew_redis.events.scanning import Place, Raw
from mcp_crew_redis.events.tail_reader import TailReader
from mcp_crew_redis.log import get_logger

__all__ = ["MAX_LIMIT", "MAX_WAITING_BYTES", "OnOverflow", "Tail", "Tails"]

log = get_logger(__name__)

OnOverflow = Literal["drop_oldest", "disconnect"]
MAX_LIMIT: Final = 100_000
MAX_WAITING_BYTES: Final = 16 * 1024 * 1024
"""Of the events that one tail holds."""


class Tail(AsyncIterator[Event[Any]]):
    """The events of a tenant from now on: an async iterator.

        async for event in tenant.events.tail("tool.*"):
            ...

    It begins with the first step of the iteration, or with `async with`, which returns
    once it is known where each stream stands:

        async with tenant.events.tail("tool.*") as tail:
            ...  # what is published from here on comes
            async for event in tail:
                ...

    Every tail gets every event; nobody acknowledges, nothing is kept for one who has
    gone. Events of one stream come in their order. Types that appear later are found.
    After an outage it goes on where it was. It may tell an event again only where a
    stream was deleted and came anew.

    Leave by `break` or cancellation as you like; `aclose` and `async with` end it at
    once, the crew's end does at the latest: then the iteration ends. For one task.

    Args:
        reader: Reads for all tails.
        decoder: Makes events of entries.
        keys: The tenant's.
        pattern: Which types.
        limit: Events that may wait here, 1 to 100,000; together 16 MiB.
        on_overflow: What becomes of a slow listener: "drop_oldest" loses what waits
            longest, and counts it; "disconnect" ends with OverloadedError.

    Attributes:
        dropped: Events lost by overflow so far.
        skipped: Entries that could not be decoded so far.
        after: For the reader: what was there before, by stream.

    Raises:
        InvalidEventTypeError: The pattern is not one.
        DataError: Another argument is out of range.
    """

    def __init__(
        self,
        reader: TailReader,
        decoder: Decoder,
        keys: TenantKeys,
        pattern: str,
        *,
        limit: int = 1_000,
        on_overflow: OnOverflow = "drop_oldest",
    ) -> None:
        if type(limit) is not int or not 1 <= limit <= MAX_LIMIT:
            raise DataError(f"limit is an integer from 1 to {MAX_LIMIT}")
        if on_overflow not in ("drop_oldest", "disconnect"):
            raise DataError('on_overflow is "drop_oldest" or "disconnect"')
        self.pattern = Pattern(pattern)
        self.keys = keys
        self.dropped = self.skipped = 0
        self.after: dict[bytes, Place] = {}
        self._reader, self._decoder = reader, decoder
        self._limit, self._drops = limit, on_overflow == "drop_oldest"
        self._waiting: deque[Raw] = deque()
        self._size = 0
        self._wake = asyncio.Event()
        self._state: Literal["new", "open", "overflowed", "closed"] = "new"

    def __repr__(self) -> str:
        return f"<Tail {self.keys.tenant_id} {self.pattern.text} {self._state}>"

    # --- for its user -----------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._state != "new":
            raise LifecycleError("a tail is opened once")
        await self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event[Any]:
        """Return the next event; cancelled, it is not lost.

        Raises:
            OverloadedError: This listener was too slow, and asked to be told so.
        """
        if self._state == "new":
            await self._open()
        while True:
            while self._waiting:
                event = self._take()
                if event is not None:
                    return event
            if self._state == "overflowed":
                self._state = "closed"
                raise OverloadedError(
                    f"this tail fell more than {self._limit} events behind",
                    retry_after=0.0,
                )
            if self._state == "closed":
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()

    async def aclose(self) -> None:
        """End it; what waits here is dropped. Idempotent."""
        self._waiting.clear()
        self._size = 0
        self.finish()
        self._reader.leave(self)

    async def _open(self) -> None:
        await self._reader.join(self)
        if self._state == "new":
            self._state = "open"

    def _take(self) -> Event[Any] | None:
        """Take the entry that waits longest; None if it is no event."""
        raw = self._waiting.popleft()
        self._size -= _size(raw)
        try:
            return self._decoder.event(*raw)
        except CodecError as error:
            self.skipped += 1
            log.debug("event.skipped", reason=str(error), place=raw.place.decode())
            return None

    # --- for the reader ---------------------------------------------------------------

    def wants(self, name: StreamName) -> bool:
        """Whether it is meant for the events of a stream."""
        is_theirs = name.tenant_id == self.keys.tenant_id
        return is_theirs and self.pattern.matches(name.event_type)

    def put(self, raw: Raw) -> None:
        """Take in an entry; make room for it, or end."""
        if self._state in ("overflowed", "closed"):
            return
        size = _size(raw)
        waiting = self._waiting
        while waiting and (
            len(waiting) >= self._limit or self._size + size > MAX_WAITING_BYTES
        ):
            if not self._drops:
                self._state = "overflowed"
                self._wake.set()
                self._reader.leave(self)
                return
            self._size -= _size(waiting.popleft())
            self.dropped += 1
        waiting.append(raw)
        self._size += size
        self._wake.set()

    def finish(self) -> None:
        """Let the iteration end after what waits."""
        if self._state != "overflowed":
            self._state = "closed"
        self._wake.set()


class Tails:
    """Opens tails; one reader for all of a process.

    Args:
        hub: What the rooms of the events share.

    Attributes:
        aclose: Ends all of them; the crew calls it at its end.
    """

    __slots__ = ("_decoder", "_reader", "aclose")

    def __init__(self, hub: EventHub) -> None:
        self._decoder = Decoder(hub.codec, hub.catalog)
        self._reader = TailReader(hub)
        self.aclose = self._reader.aclose

    def __repr__(self) -> str:
        return f"<Tails {self._reader!r}>"

    def open(
        self, keys: TenantKeys, pattern: str, limit: int, on_overflow: OnOverflow
    ) -> Tail:
        """Return a tail that has not begun; raises as `Tail`."""
        return Tail(
            *(self._reader, self._decoder, keys, pattern),
            limit=limit,
            on_overflow=on_overflow,
        )


def _size(raw: Raw) -> int:
    return len(raw.head or b"") + len(raw.body or b"")
