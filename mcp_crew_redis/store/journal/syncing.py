"""When a journal's files are synchronised with the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Literal

__all__ = ["INTERVAL", "Fsync", "Syncer"]

Fsync = Literal["never", "interval", "always"]

INTERVAL: Final = 0.1
"""Seconds between two synchronisations, for `interval`."""


class Syncer:
    """Calls `flush` as the policy says, on whatever loop is running.

    Args:
        fsync: The policy.
        flush: Synchronises; does not raise.
    """

    def __init__(self, fsync: Fsync, flush: Callable[[], None]) -> None:
        self.fsync = fsync
        self._flush = flush
        self._timer: tuple[asyncio.AbstractEventLoop, asyncio.TimerHandle] | None = None
        self._commit: asyncio.Future[None] | None = None

    @property
    def is_needed(self) -> bool:
        """Whether files are synchronised at all."""
        return self.fsync != "never"

    def has_put(self) -> None:
        """See to it that what was put is synchronised in time."""
        if self.fsync != "interval":
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # put outside of a loop: nobody would come back for it
            self._flush()
            return
        if self._timer is None or self._timer[0] is not loop:
            self._cancel_timer()
            self._timer = loop, loop.call_later(INTERVAL, self._on_timer)

    async def committed(self) -> None:
        """For `always`, return after a synchronisation that began after the call.

        All callers of one loop tick share it. Cancelling one leaves it to the others.
        """
        if self.fsync != "always":
            return
        loop = asyncio.get_running_loop()
        commit = self._commit
        if commit is None or commit.get_loop() is not loop:
            commit = self._commit = loop.create_future()
            loop.call_soon(self._on_tick, commit)
        await asyncio.shield(commit)

    def close(self) -> None:
        """Synchronise a last time, and release who waits for it."""
        self._cancel_timer()
        if self.is_needed:
            self._flush()
        commit, self._commit = self._commit, None
        if commit is not None and not commit.get_loop().is_closed():
            commit.set_result(None)

    def _on_tick(self, commit: asyncio.Future[None]) -> None:
        if self._commit is commit:
            self._commit = None
        if not commit.done():  # or close() has done it
            self._flush()
            commit.set_result(None)

    def _on_timer(self) -> None:
        self._timer = None
        self._flush()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer[1].cancel()
            self._timer = None
