"""One kind of work: keys that are due are worked on, batch by batch, until the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from random import Random
from typing import Final

from anyio import move_on_after

from mcp_crew_redis._core.backoff import DecorrelatedJitter
from mcp_crew_redis.errors import CrewRedisError, UnavailableError
from mcp_crew_redis.events.janitor.agenda import Agenda
from mcp_crew_redis.log import get_logger

__all__ = ["Round", "Wake", "now"]

log = get_logger(__name__)

BATCH: Final = 8
"""Scripts of one round trip: so many of them keep a server from others at a time."""

Work = Callable[[Sequence[bytes]], Awaitable[Mapping[bytes, float]]]
"""Takes keys and returns after how many seconds each is due again; those that are
missing are done with."""


def now() -> float:
    """Return the time of the loop that this runs on, in a callback too."""
    return asyncio.get_running_loop().time()


class Wake:
    """What a loop waits for, with a limit."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake the loop, or have its next wait end at once."""
        self._event.set()

    async def wait(self, seconds: float | None = None) -> None:
        """Return when woken, or after so many seconds."""
        with move_on_after(seconds):
            await self._event.wait()
        self._event.clear()


class Round:
    """Works on keys at their due times. In an outage it waits, with growing pauses.

    Args:
        name: For the logs.
        work: What is done with a batch.
        owns: Whether a key is for this process now; others are forgotten.
        random: Jitter.
        retry: The longest pause after an error, in seconds.

    Attributes:
        agenda: What is due when.
    """

    def __init__(
        self,
        name: str,
        work: Work,
        owns: Callable[[bytes], bool],
        random: Random,
        retry: float,
    ) -> None:
        self.agenda = Agenda()
        self._name = name
        self._work = work
        self._owns = owns
        self._random = random
        self._retry = retry
        self._wake = Wake()
        self._is_stopped = False

    def put(self, key: bytes, seconds: float = 0.0) -> bool:
        """Have a key due in so many seconds, or sooner if it is already."""
        at = now() + seconds
        following = self.agenda.next_due()
        is_put = self.agenda.put(key, at)
        if following is None or at < following:
            self._wake.set()
        return is_put

    def stop(self) -> None:
        """End `run` after the batch that is under way."""
        self._is_stopped = True
        self._wake.set()

    async def run(self) -> None:
        """Work until stopped. Cancelled, a batch may take effect without a report."""
        pauses = None
        while not self._is_stopped:
            keys = self.agenda.take(now(), BATCH)
            keys = [key for key in keys if self._owns(key)]
            if not keys:
                await self._wake.wait(self._seconds_left())
            elif await self._attempt(keys):
                pauses = None
            else:
                pauses = pauses or DecorrelatedJitter(self._random, cap=self._retry)
                await self._rest(next(pauses))

    def _seconds_left(self) -> float | None:
        due = self.agenda.next_due()
        return None if due is None else max(0.0, due - now())

    async def _rest(self, seconds: float) -> None:
        """Pause, whatever falls due meanwhile; only the end cuts it short."""
        until = now() + seconds
        while not self._is_stopped and (left := until - now()) > 0:
            await self._wake.wait(left)

    async def _attempt(self, keys: Sequence[bytes]) -> bool:
        """Work on a batch; False if Redis did not answer."""
        try:
            again = await self._work(keys)
        except UnavailableError:
            again = dict.fromkeys(keys, 0.0)
            is_done = False
        except CrewRedisError as error:
            log.warning(
                "janitor.work_failed", work=self._name, cause=type(error).__name__
            )
            again = dict.fromkeys(keys, self._retry)
            is_done = False
        else:
            is_done = True
        for key, seconds in again.items():
            self.put(key, seconds)
        return is_done
