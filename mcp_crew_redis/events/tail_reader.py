"""Reads streams for all tails of a process, when the bell says that they grew."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final
from weakref import WeakSet

from mcp_crew_redis._core.backoff import DecorrelatedJitter
from mcp_crew_redis._core.bell import BellListener, Registration
from mcp_crew_redis._core.owner import TaskOwner
from mcp_crew_redis._wire.keys import STREAM_NAMESPACE
from mcp_crew_redis._wire.streams import StreamName, stream_name
from mcp_crew_redis.errors import CrewRedisError, LifecycleError, UnavailableError
from mcp_crew_redis.events.hub import EventHub
from mcp_crew_redis.events.listening import Listener
from mcp_crew_redis.events.scanning import CHUNK, ZERO, Raw, Scanner, place_of
from mcp_crew_redis.log import get_logger

__all__ = ["TailReader"]

log = get_logger(__name__)

PAGE: Final = 256
"""Entries of one stream that are read at a time."""
FIRST_PAUSE: Final = 0.05
MAX_PAUSE: Final = 2.0
"""Seconds between two attempts while Redis is away."""
SEARCH_EVERY: Final = 1.0
"""Seconds between two looks for new types, where there is no bell."""
MAX_STRANGERS: Final = 4_096

Page = Sequence[tuple[bytes, bytes | None, bytes | None]]


class _Cursor:
    """How far a stream has been read."""

    __slots__ = ("last", "name")

    def __init__(self, name: StreamName, last: bytes) -> None:
        self.name, self.last = name, last


class TailReader(BellListener):
    """One listener and one task, while there are tails.

    Args:
        hub: What the rooms of the events share.
    """

    def __init__(self, hub: EventHub) -> None:
        self._bell, self._space = hub.bell, hub.keys
        self._clock, self._random = hub.clock, hub.random
        self._scanner = Scanner(hub.port, hub.store.registry, hub.catalog)
        self._tails: WeakSet[Listener] = WeakSet()
        self._cursors: dict[bytes, _Cursor] = {}
        self._rung: dict[bytes, None] = {}
        self._doubted: set[bytes] = set()  # perhaps deleted and made anew
        self._strangers: set[bytes] = set()  # streams that nobody wants
        self._registration: Registration | None = None
        self._wake = asyncio.Event()
        self._is_sweep_due = self._is_running = self._is_closed = False
        self._next_search = 0.0
        self._owner = TaskOwner("tails")

    def __repr__(self) -> str:
        return f"<TailReader {len(self._tails)} tails, {len(self._cursors)} streams>"

    # --- tails ------------------------------------------------------------------------

    async def join(self, tail: Listener) -> None:
        """Find out where each stream stands, and tell `tail` what comes after that.

        While Redis is away it waits.

        Raises:
            LifecycleError: The crew is at its end.
        """
        if self._is_closed:
            raise LifecycleError("the crew is not running any more")
        try:
            self._listen()
            streams, last = await self._positions(tail)
        except BaseException:
            self._unlisten()
            raise
        if self._is_closed:
            raise LifecycleError("the crew is not running any more")
        tail.after = {key: place_of(place) for key, place in last.items()}
        for key, name in streams.items():
            self._cursors.setdefault(key, _Cursor(name, last.get(key, ZERO)))
        self._tails.add(tail)
        self._strangers.clear()
        self._ring(streams)  # what came between the question and now
        self._listen()
        if not self._is_running:
            self._is_running = True
            self._owner.start(self._run(), "reader")

    def leave(self, tail: Listener) -> None:
        """Tell `tail` nothing more."""
        self._tails.discard(tail)
        for key in [key for key, one in self._cursors.items() if not self._wants(one)]:
            del self._cursors[key]
            self._rung.pop(key, None)
        self._wake.set()

    def _wants(self, cursor: _Cursor) -> bool:
        return any(tail.wants(cursor.name) for tail in self._tails)

    async def _positions(
        self, tail: Listener
    ) -> tuple[dict[bytes, StreamName], dict[bytes, bytes]]:
        pauses = self._pauses()
        while True:
            try:
                streams = await self._scanner.streams(tail.keys, tail.pattern)
                return streams, await self._scanner.last(list(streams))
            except UnavailableError as error:
                log.debug("tail.waiting", cause=type(error).__name__)
                await self._clock.sleep(next(pauses))

    def _listen(self) -> None:
        if self._registration is None:
            prefix = self._space.namespace_prefix(STREAM_NAMESPACE)
            self._registration = self._bell.listen(prefix, self)

    def _unlisten(self) -> None:
        if self._registration is not None and not self._tails:
            self._registration.close()
            self._registration = None

    async def aclose(self) -> None:
        """End every tail. Idempotent."""
        self._is_closed = True
        await self._owner.aclose()
        self._end()

    # --- what the bell tells ----------------------------------------------------------

    def on_keys(self, keys: Sequence[bytes]) -> None:
        """Read those streams that somebody wants."""
        for key in keys:
            if key in self._cursors:
                self._rung[key] = None
                self._doubted.add(key)
            elif key not in self._strangers:
                self._meet(key)
        if self._rung or not self._tails:  # those who left without a word
            self._wake.set()

    def on_flushed(self) -> None:
        """Look whether the streams are still those that were read."""
        self._doubted.update(self._cursors)
        self._ring(self._cursors)

    def on_healthy(self) -> None:
        """Read what was not told."""
        self._is_sweep_due = True
        self._wake.set()

    def on_tick(self) -> None:
        """Look, where there is no bell."""
        now = self._clock.monotonic()
        if now >= self._next_search:
            self._next_search = now + SEARCH_EVERY
            self._is_sweep_due = True
        self._ring(self._cursors)

    def _meet(self, key: bytes) -> None:
        """Take in a stream that is new, unless nobody wants it."""
        name = stream_name(self._space, key)
        if name is not None and any(tail.wants(name) for tail in self._tails):
            self._cursors[key] = _Cursor(name, ZERO)
            self._rung[key] = None
            return
        if len(self._strangers) >= MAX_STRANGERS:
            self._strangers.clear()
        self._strangers.add(key)

    def _ring(self, keys: Iterable[bytes]) -> None:
        self._rung.update(dict.fromkeys(keys))
        self._wake.set()

    # --- the task ---------------------------------------------------------------------

    async def _run(self) -> None:
        pauses = self._pauses()
        try:
            while self._tails:
                await self._wake.wait()
                self._wake.clear()
                try:
                    await self._sweep()
                    await self._read_all()
                except CrewRedisError as error:  # Redis is away, or refuses for now
                    log.debug("tail.waiting", cause=type(error).__name__)
                    await self._clock.sleep(next(pauses))
                    self._wake.set()
                else:
                    pauses.reset()
        finally:
            self._is_running = False
            self._end()

    def _end(self) -> None:
        for tail in list(self._tails):
            tail.finish()
        self._tails.clear()
        self._cursors.clear()
        self._rung.clear()
        self._doubted.clear()
        self._unlisten()

    def _pauses(self) -> DecorrelatedJitter:
        return DecorrelatedJitter(self._random, base=FIRST_PAUSE, cap=MAX_PAUSE)

    async def _sweep(self) -> None:
        """After a lost bell: find new types, and read everything."""
        if not self._is_sweep_due:
            return
        for tail in list(self._tails):
            streams = await self._scanner.streams(tail.keys, tail.pattern)
            for key, name in streams.items():
                self._cursors.setdefault(key, _Cursor(name, ZERO))
        self._is_sweep_due = False
        self._doubted.update(self._cursors)
        self._rung.update(dict.fromkeys(self._cursors))

    async def _read_all(self) -> None:
        while self._rung:
            keys = list(islice(self._rung, CHUNK))
            for key in keys:
                del self._rung[key]  # whoever rings from now on is not yet answered
            try:
                await self._read([key for key in keys if key in self._cursors])
            except BaseException:
                self._ring(keys)
                raise

    async def _read(self, keys: Sequence[bytes]) -> None:
        pages = await self._scanner.pages(
            [(key, b"(" + self._cursors[key].last, b"+", PAGE) for key in keys]
        )
        silent: list[bytes] = []
        for key, page in zip(keys, pages, strict=True):
            cursor = self._cursors.get(key)
            if cursor is None:
                continue
            if page:
                self._tell(key, cursor, page)
            elif key in self._doubted and cursor.last != ZERO:
                silent.append(key)
        if silent:
            await self._look_again(silent)

    def _tell(self, key: bytes, cursor: _Cursor, page: Page) -> None:
        cursor.last = page[-1][0]
        self._doubted.discard(key)
        if len(page) == PAGE:
            self._rung[key] = None
        if self._registration is not None:
            self._registration.hasten()
        for tail in list(self._tails):
            if not tail.wants(cursor.name):
                continue
            after = tail.after.get(key)
            for place, head, body in page:
                if after is None or place_of(place) > after:
                    tail.put(Raw(cursor.name, place, head, body))
            if after is not None and place_of(cursor.last) > after:
                del tail.after[key]

    async def _look_again(self, keys: Sequence[bytes]) -> None:
        """Begin anew with streams that are not those which were read."""
        generated = await self._scanner.generated(keys)
        for key in keys:
            cursor = self._cursors.get(key)
            self._doubted.discard(key)
            if cursor is None:
                continue
            known = generated.get(key, ZERO)
            if place_of(known) < place_of(cursor.last):
                cursor.last = ZERO
                for tail in self._tails:
                    tail.after.pop(key, None)
                if known != ZERO:
                    self._rung[key] = None
