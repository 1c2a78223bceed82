"""Who waits at a lane: callers for room, and callers for what was sent before."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["Barriers", "Turnstile"]


class Turnstile:
    """Lets waiting callers through in the order they came.

    Args:
        space: Returns how many more commands the lane takes.
        changed: Called when newcomers must wait, or need not wait any more.
        burst: How many are let through before one of them must have submitted: so
            that a lane which fills up again stops the rest.
    """

    def __init__(
        self, space: Callable[[], int], changed: Callable[[], None], *, burst: int
    ) -> None:
        self._space = space
        self._changed = changed
        self._burst = burst
        # In the order they came; removed from anywhere and from the front in O(1).
        self.waiters: OrderedDict[asyncio.Future[bool], None] = OrderedDict()
        self.heirs = 0  # woken callers who have not submitted yet

    @property
    def is_free(self) -> bool:
        """Whether a newcomer may pass without waiting."""
        return not self.waiters and self._space() > self.heirs

    async def passage(self) -> None:
        """Wait in turn until one command may be submitted, or until the lane ends.

        The caller submits at once afterwards, without an await between, or calls
        `wake` in its stead. A cancelled caller hands its place on.
        """
        if self.is_free:
            return
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.waiters[waiter] = None
        self._changed()
        try:
            is_heir = await waiter
        except asyncio.CancelledError:
            if waiter in self.waiters:
                del self.waiters[waiter]
            elif not waiter.cancelled() and waiter.result():
                self.heirs -= 1
            self.wake()
            raise
        if is_heir:
            self.heirs -= 1
            self._changed()

    def wake(self) -> None:
        """Give free places to the longest waiting."""
        while self.waiters and self.heirs < self._burst and self._space() > self.heirs:
            waiter, _ = self.waiters.popitem(last=False)
            if not waiter.done():
                self.heirs += 1
                waiter.set_result(True)
        self._changed()

    def open(self) -> None:
        """Let everybody go: the lane has ended, and each will see it."""
        waiters = tuple(self.waiters)
        self.waiters.clear()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(False)


class Barriers:
    """Callers who wait until every command up to a number is answered."""

    def __init__(self) -> None:
        self.waiting: list[tuple[int, asyncio.Future[None]]] = []

    async def reached(self, number: int) -> None:
        """Wait for the answer to command `number`, or for the end of the lane."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append((number, future))
        await future

    def passed(self, answered: float) -> None:
        """Wake those whose command is among the first `answered`."""
        due = [future for number, future in self.waiting if number <= answered]
        self.waiting = [entry for entry in self.waiting if entry[0] > answered]
        for future in due:
            if not future.done():
                future.set_result(None)
