"""The only place that reads the time, so that tests can hold it still."""

from __future__ import annotations

import time
from typing import Protocol, runtime_checkable

import anyio

__all__ = ["Clock", "SystemClock"]


@runtime_checkable
class Clock(Protocol):
    """A source of monotonic seconds."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start; never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Suspend the caller for `seconds`."""
        ...

    def wall(self) -> float:
        """Return Unix time in seconds, as this machine believes it to be."""
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
        await anyio.sleep(seconds)
