"""Ctrl-C, SIGTERM and Enter: how a person ends a command."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio

__all__ = ["Ending", "Stop", "stoppable", "wait_for_enter"]


@dataclass(slots=True)
class Stop:
    """Which signal has ended the work, if one did."""

    number: int | None = None

    @property
    def exit_code(self) -> int:
        """128 and the signal's number, as shells report it; 0 without a signal."""
        return 0 if self.number is None else 128 + self.number


@dataclass(slots=True)
class Ending:
    """Whether all was right: None until everything has been checked."""

    is_right: bool | None = None

    def exit_code(self, stop: Stop) -> int:
        """Return 0 only when all was right; a signal counts only before that."""
        if self.is_right is None:
            return stop.exit_code or 1
        return 0 if self.is_right else 1


@asynccontextmanager
async def stoppable() -> AsyncGenerator[Stop, None]:
    """Cancel the body at the first SIGINT or SIGTERM; further ones change nothing.

    The body's own clean-up runs to its end, so it must be bounded.
    """
    stop = Stop()
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:

        async def listen(scope: anyio.CancelScope) -> None:
            async for number in signals:
                stop.number = stop.number or int(number)
                scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, tasks.cancel_scope)
            yield stop
            tasks.cancel_scope.cancel()


async def wait_for_enter() -> None:
    """Return at a line, or the end, of standard input; never when it has neither."""
    try:
        await anyio.wait_readable(sys.stdin)
    except (OSError, ValueError):
        # /dev/null and files cannot be waited for: only a signal ends the wait then.
        await anyio.sleep_forever()
