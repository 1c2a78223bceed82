"""Who listens to the bell: the listener's side, and the bell's hold on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

from mcp_crew_redis.errors import ConfigurationError, LifecycleError
from mcp_crew_redis.log import get_logger

__all__ = ["BellListener", "Registration"]

log = get_logger(__name__)


class BellListener:
    """What the bell tells. Override what you act on; the rest does nothing.

    Every call is synchronous, comes on the bell's loop and must be short: note what
    has to be done and return. What a call raises is logged, counted and goes no
    further. `on_keys` and `on_flushed` come only between `on_healthy` and `on_lost`.
    """

    def on_keys(self, keys: Sequence[bytes]) -> None:
        """These keys changed, expired or went; a key may be named more than once."""

    def on_flushed(self) -> None:
        """A database was emptied: of all keys under the prefix nothing is known."""

    def on_lost(self) -> None:
        """From some moment before now on, changes may have gone untold. Once a loss."""

    def on_healthy(self) -> None:
        """Every change after this moment is told. What came before: sweep now."""

    def on_tick(self) -> None:
        """No bell can be had from this server: look for yourself, about now."""


class _Owner(Protocol):
    """What a registration needs of its bell."""

    def left(self, registration: Registration) -> None: ...

    def pace_changed(self) -> None: ...

    def hasten(self, registration: Registration) -> None: ...


class Registration:
    """One listener at one prefix, until `close()`. Also a context manager.

    Attributes:
        prefix: Keys that begin so are told.
        is_healthy: Whether every change is told now.
        is_closed: Nothing is told any more.
        is_watched_closely: See `watch_closely`.
        failures: Calls that raised.
        tick_due: For the ticker: when the next tick is due.
        tick_delay: For the ticker: seconds between the last tick and the next.
    """

    def __init__(self, prefix: bytes, listener: BellListener, owner: _Owner) -> None:
        self.prefix = prefix
        self.is_healthy = self.is_closed = self.is_watched_closely = False
        self.failures = 0
        self.tick_due = self.tick_delay = 0.0
        self._listener = listener
        self._owner = owner
        self._awaited: dict[bytes, set[asyncio.Future[bool]]] = {}

    # --- for the listener ---------------------------------------------------------

    def close(self) -> None:
        """Listen no more; nothing is told from now on. Idempotent."""
        if self.is_closed:
            return
        self.is_closed, self.is_healthy = True, False
        self._resolve_all(is_rung=False)
        self._owner.left(self)

    def rung(self, key: bytes) -> asyncio.Future[bool]:
        """Return a future that ends when `key` changes: ask before you look at it.

        True: it changed, or everything was flushed. False: the bell is lost or not
        healthy, so look for yourself. It has no deadline of its own; a cancelled one
        is forgotten at once.

        Raises:
            ConfigurationError: The key is not under this registration's prefix.
            LifecycleError: The registration is closed.
        """
        if not key.startswith(self.prefix):
            raise ConfigurationError("this key is not under the prefix listened to")
        if self.is_closed:
            raise LifecycleError("this registration is closed: listen again")
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if not self.is_healthy:
            future.set_result(False)
            return future
        self._awaited.setdefault(key, set()).add(future)
        future.add_done_callback(lambda done: self._forget(key, done))
        return future

    def watch_closely(self, *, is_on: bool = True) -> None:
        """Have the bell prove itself every second instead of every 5.

        For as long as something is kept that a change makes wrong. Cheap to repeat.
        """
        if is_on is not self.is_watched_closely:
            self.is_watched_closely = is_on
            self._owner.pace_changed()

    def hasten(self) -> None:
        """Tell that a look found something: while polling, the next tick comes soon."""
        self._owner.hasten(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Registration {self.prefix!r} {self.is_healthy=} {self.is_closed=}>"

    # --- for the bell -------------------------------------------------------------

    def tell_keys(self, keys: Sequence[bytes]) -> None:
        """Pass on changes, unless the listener counts on nothing now."""
        if not self.is_healthy:
            return
        if self._awaited:
            for key in keys:
                self._resolve(key, is_rung=True)
        self._call(lambda: self._listener.on_keys(keys))

    def tell_flushed(self) -> None:
        """Pass on a flush."""
        if self.is_healthy:
            self._resolve_all(is_rung=True)
            self._call(self._listener.on_flushed)

    def tell_lost(self) -> None:
        """Pass on a loss, once."""
        if self.is_healthy:
            self.is_healthy = False
            self._resolve_all(is_rung=False)
            self._call(self._listener.on_lost)

    def tell_healthy(self) -> None:
        """Pass on that changes are told from now on, once."""
        if not (self.is_healthy or self.is_closed):
            self.is_healthy = True
            self._call(self._listener.on_healthy)

    def tell_tick(self) -> None:
        """Pass on a tick."""
        if not (self.is_healthy or self.is_closed):
            self._call(self._listener.on_tick)

    def _call(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception as error:  # noqa: BLE001 - a listener's fault, not the bell's
            self.failures = count = self.failures + 1
            if count & (count - 1) == 0:  # the 1st, 2nd, 4th, 8th: no flood of lines
                log.warning(
                    "bell.listener_failed",
                    listener=type(self._listener).__name__,
                    error=type(error).__name__,
                    count=count,
                )

    def _resolve(self, key: bytes, *, is_rung: bool) -> None:
        for future in self._awaited.pop(key, ()):
            if not future.done():
                future.set_result(is_rung)

    def _resolve_all(self, *, is_rung: bool) -> None:
        for key in tuple(self._awaited):
            self._resolve(key, is_rung=is_rung)

    def _forget(self, key: bytes, future: asyncio.Future[bool]) -> None:
        if (waiting := self._awaited.get(key)) is not None:
            waiting.discard(future)
            if not waiting:
                del self._awaited[key]
