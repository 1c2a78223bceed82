"""SIGTERM and SIGINT as events of the running loop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from mcp_crew_redis.errors import LifecycleError

__all__ = ["StopSignals"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """The first signal asks for an end, each further one insists.

    Args:
        insist: Called on the loop for each signal after the first.
    """

    def __init__(self, insist: Callable[[], None]) -> None:
        self._insist = insist
        self._loop = asyncio.get_running_loop()
        self._first = asyncio.Event()
        self._previous: dict[signal.Signals, Any] = {}
        self.received: str | None = None

    def install(self) -> None:
        """Take the signals over.

        Raises:
            LifecycleError: Not in the main thread: nobody else hears signals.
        """
        # Not loop.add_signal_handler: what another library put there could not be
        # restored afterwards.
        try:
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        except ValueError:
            raise LifecycleError(
                "signals reach the main thread only; run the event loop there, or "
                "leave the `async with` by other means"
            ) from None

    def restore(self) -> None:
        """Give the signals back to whoever had them. Idempotent."""
        while self._previous:
            number, previous = self._previous.popitem()
            signal.signal(number, signal.SIG_DFL if previous is None else previous)

    async def wait(self) -> None:
        """Return once the first signal has come."""
        await self._first.wait()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        # It may have interrupted the loop anywhere: only hand over.
        self._loop.call_soon_threadsafe(self._note, signal.Signals(number).name)

    def _note(self, name: str) -> None:
        if self._first.is_set():
            self._insist()
        self.received = name
        self._first.set()
