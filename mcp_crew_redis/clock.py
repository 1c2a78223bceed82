"""The only place that reads the time, so that tests can hold it still."""

from __future__ import annotations

import time
from typing import Protocol, runtime_checkable

import anyio

__all__ = ["Clock", "SystemClock"]


@runtime_checkable
class Clock(Protocol):
    """A source of time, in seconds."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start; never goes back.

        For durations and deadlines within this process.
        """
        ...

    def wall(self) -> float:
        """Return Unix time in seconds, as this machine believes it to be.

        It may jump. For what people read, never for order between machines.
        """
        ...

    async def sleep(self, seconds: float) -> None:
        """Suspend the caller for `seconds`; zero or less still yields once.

        Cancelling the caller ends the sleep at once.
        """
        ...


class SystemClock:
    """The machine's own clock."""

    def monotonic(self) -> float:
        """Return `time.monotonic()`, the clock asyncio's loop uses too."""
        return time.monotonic()  # noqa: TID251 - this is the one place

    def wall(self) -> float:
        """Return `time.time()`."""
        return time.time()  # noqa: TID251 - this is the one place

    async def sleep(self, seconds: float) -> None:
        """Sleep on the event loop."""
        await anyio.sleep(max(0.0, seconds))
