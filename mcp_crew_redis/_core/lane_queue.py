"""Who waits at a lane: callers for room, and callers for what was sent before."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

__all__ = ["Barriers", "Turnstile"]


class Turnstile:
    """Lets waiting callers through in the order they came.

    Args:
        space: Returns how many more commands the lane takes, heirs not counted.
        changed: Called when newcomers must wait, or need not wait any more.
    """

    def __init__(self, space: Callable[[], int], changed: Callable[[], None]) -> None:
        self._space = space
        self._changed = changed
        self._waiters: deque[asyncio.Future[bool]] = deque()
        self.heirs = 0  # woken callers who have not submitted yet

    def __len__(self) -> int:
        return len(self._waiters)

    @property
    def is_free(self) -> bool:
        """Whether a newcomer may pass without waiting."""
        return not self._waiters and self._space() > self.heirs

    async def passage(self) -> None:
        """Wait in turn until one command may be submitted, or until the lane ends.

        The caller submits at once afterwards, without an await between. A cancelled
        caller hands its place on.
        """
        if self.is_free:
            return
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._changed()
        try:
            is_heir = await waiter
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            elif not waiter.cancelled() and waiter.result():
                self.heirs -= 1
            self.wake()
            raise
        if is_heir:
            self.heirs -= 1
            self._changed()

    def wake(self) -> None:
        """Give every free place to the longest waiting."""
        while self._waiters and self._space() > self.heirs:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self.heirs += 1
                waiter.set_result(True)
        self._changed()

    def open(self) -> None:
        """Let everybody go: the lane has ended, and each will see it."""
        waiters, self._waiters = self._waiters, deque()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(False)


class Barriers:
    """Callers who wait until every command up to a number is answered."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    async def reached(self, number: int) -> None:
        """Wait for the answer to command `number`, or for the end of the lane."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((number, future))
        await future

    def passed(self, answered: float) -> None:
        """Wake those whose command is among the first `answered`."""
        due = [future for number, future in self._waiting if number <= answered]
        self._waiting = [entry for entry in self._waiting if entry[0] > answered]
        for future in due:
            if not future.done():
                future.set_result(None)
