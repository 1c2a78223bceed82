"""One direction of a proxied path, and what can go wrong on it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

__all__ = ["Path", "Pipe"]

#: A stalled path takes this many bytes per connection, then its sender must wait,
#: as it must when the buffers of a real network are full.
HELD_LIMIT = 256 * 1024
_SEEN_LIMIT = 1024 * 1024
_TRICKLE_INTERVAL = 0.005


class Path:
    """One direction through a `FaultProxy`, with the faults that rule it.

    Attributes:
        delay: Seconds that each piece travels.
        trickle: Bytes that pass every 5 ms; 0 for as many as there are.
        is_swallowing: Whether bytes vanish while the connections stand (half-open).
        byte_count: Bytes that have entered.
    """

    def __init__(self) -> None:
        self.delay = 0.0
        self.trickle = 0
        self.is_swallowing = False
        self.byte_count = 0
        self._is_stalled = False
        self._seen = bytearray()
        self._arrivals: set[asyncio.Event] = set()
        self._pipes: set[Pipe] = set()

    def __repr__(self) -> str:
        return (
            f"<Path stalled={self._is_stalled} swallowing={self.is_swallowing} "
            f"delay={self.delay} trickle={self.trickle} bytes={self.byte_count}>"
        )

    @property
    def is_stalled(self) -> bool:
        """Whether bytes are held back."""
        return self._is_stalled

    @property
    def held_count(self) -> int:
        """Bytes that are held back or on their way."""
        return sum(pipe.held_count for pipe in self._pipes)

    def stall(self) -> None:
        """Hold everything back, in order; the connections stand.

        What the sender wrote before it closed is held as well, and arrives after
        `release()`: this is the path that stalls and wakes.
        """
        self._is_stalled = True

    def release(self) -> None:
        """Let go what was held, and everything after it."""
        self._is_stalled = False
        for pipe in tuple(self._pipes):
            pipe.pump()

    def heal(self) -> None:
        """Take every fault away and let go what was held."""
        self.delay = 0.0
        self.trickle = 0
        self.is_swallowing = False
        self.release()

    def count(self, pattern: bytes) -> int:
        """How often `pattern` has entered since the start or `forget()`."""
        return self._seen.count(pattern)

    def forget(self) -> None:
        """Start counting patterns anew."""
        self._seen.clear()

    async def wait_for(self, pattern: bytes, count: int = 1) -> None:
        """Return once `pattern` has entered `count` times, held or not.

        The last 1 MiB since the start or `forget()` is looked at, so a request that
        came before the call is seen as well. Bound the wait with `asyncio.timeout`.
        """
        arrival = asyncio.Event()
        self._arrivals.add(arrival)
        try:
            while self.count(pattern) < count:
                arrival.clear()
                await arrival.wait()
        finally:
            self._arrivals.discard(arrival)

    def note(self, data: bytes) -> None:
        """Take bytes into the books."""
        self.byte_count += len(data)
        self._seen += data
        if (excess := len(self._seen) - _SEEN_LIMIT) > 0:
            del self._seen[:excess]
        for arrival in self._arrivals:
            arrival.set()

    def add(self, pipe: Pipe) -> None:
        """Rule one more connection's pipe."""
        self._pipes.add(pipe)

    def discard(self, pipe: Pipe) -> None:
        """Forget a pipe that has ended."""
        self._pipes.discard(pipe)


class Pipe:
    """What one connection has on its way in one direction: pieces and then an end."""

    def __init__(
        self, path: Path, write: Callable[[bytes], None], close: Callable[[], None]
    ) -> None:
        self._path = path
        self._write = write
        self._close = close
        self._held: deque[tuple[float, bytes]] = deque()
        self._has_ended = False
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self.on_flow: Callable[[], None] = lambda: None
        self.held_count = 0
        path.add(self)

    @property
    def is_full(self) -> bool:
        """Whether the sender has to wait."""
        return self.held_count >= HELD_LIMIT

    def feed(self, data: bytes) -> None:
        """Take a piece in."""
        self._path.note(data)
        if self._path.is_swallowing:
            return
        self._held.append((self._loop.time() + self._path.delay, data))
        self.held_count += len(data)
        self.pump()

    def end(self) -> None:
        """The sender has closed: close the other side after what is on its way."""
        self._has_ended = True
        self.pump()

    def pump(self) -> None:
        """Forward what is due, unless the path is stalled."""
        if self._path.is_stalled or self._timer is not None:
            return
        wait = 0.0
        while self._held and wait <= 0:
            wait = self._forward_first()
        self.on_flow()
        if wait > 0:
            self._timer = self._loop.call_later(wait, self._again)
        elif self._has_ended and not self._path.is_swallowing:
            self._path.discard(self)
            self._close()

    def _forward_first(self) -> float:
        """Forward the first piece, or part of it; return the seconds to wait."""
        due, data = self._held.popleft()
        if (wait := due - self._loop.time()) > 0:
            self._held.appendleft((due, data))
            return wait
        size = self._path.trickle or len(data)
        self.held_count -= min(size, len(data))
        self._write(data[:size])
        if size < len(data):
            self._held.appendleft((due, data[size:]))
        return _TRICKLE_INTERVAL if self._path.trickle else 0.0

    def _again(self) -> None:
        self._timer = None
        self.pump()

    def discard(self) -> None:
        """Lose everything: the connection has been cut."""
        if self._timer is not None:
            self._timer.cancel()
        self._held.clear()
        self.held_count = 0
        self._path.discard(self)
