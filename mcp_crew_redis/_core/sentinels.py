"""All sentinels of one master: who it is now, and who has to leave the old one.

dial --> master() -- ask every sentinel --> decide --> Place
every sentinel, each interval --> decide --> another place: followers of the old end
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from mcp_crew_redis._core.owner import TaskOwner
from mcp_crew_redis._core.sentinel_watch import SentinelWatch
from mcp_crew_redis._core.topology import (
    MasterNotFoundError,
    Place,
    Report,
    SentinelSettings,
    Verdict,
    decide,
)
from mcp_crew_redis.log import get_logger

__all__ = ["Follower", "Sentinels"]

log = get_logger(__name__)

GRACE = 0.1  # seconds that the first answer waits for others to contradict it
MOVED = "failover"  # the cause with which connections to the old master end


class Follower(Protocol):
    """A connection that must lead to the master, or end."""

    def end(self, cause: str) -> None:
        """End now. Idempotent."""
        ...


class Sentinels:
    """Finds the master, and ends what is connected to another server.

    Inert until first asked; then every sentinel is asked at the settings' interval,
    until `aclose`.

    Args:
        settings: Whom to ask for what.
        make: Makes an unconnected connection to a sentinel.
        patience: Seconds that a question may take, dialling the sentinel included.

    Attributes:
        current: Where the master was last found, None before.
    """

    def __init__(
        self,
        settings: SentinelSettings,
        make: Callable[[Place], Any],
        *,
        patience: float,
    ) -> None:
        self.current: Place | None = None
        self._name = settings.master
        self._epoch = 0
        self._patience = patience
        self._owner = TaskOwner("sentinels")
        self._followers: WeakKeyDictionary[Follower, Place] = WeakKeyDictionary()
        self._is_started = self._is_closed = False
        self._news = asyncio.Event()
        self._watches = [
            SentinelWatch(
                Place(*place),
                settings.master,
                make,
                patience=patience,
                interval=settings.interval,
                heard=self._heard,
            )
            for place in dict.fromkeys(settings.places)  # each has one voice
        ]

    @property
    def address(self) -> str:
        """How logs and reports name the node."""
        return f"sentinel:{self._name}"

    async def master(self) -> Place:
        """Ask every sentinel now and return where the master is.

        Waits for all that have been answering, but no longer than `GRACE` after the
        first answer, and `patience` at most. Cancelling leaves nothing behind.

        Raises:
            MasterNotFoundError: Nobody names one, or not one that can be believed.
            MasterUnknownError: The sentinels do not know this name.
        """
        if self._is_closed:
            raise MasterNotFoundError("the client is closed")
        if not self._is_started:
            self._is_started = True
            for watch in self._watches:
                self._owner.start(watch.run(), str(watch.place))
        tickets = {watch: watch.poke() for watch in self._watches}
        await self._hear(tickets)
        # One fresh name is enough to weigh it against what the others said last;
        # without one, what they said last is not worth a dial.
        reports = self._reports() if _is_named(tickets) else _fresh(tickets)
        return self._verdict(reports).found()

    async def _hear(self, tickets: Mapping[SentinelWatch, int]) -> None:
        """Wait for the reports that were asked for; not for those who are silent."""
        loop = asyncio.get_running_loop()
        limit, is_answered = loop.time() + self._patience, False
        while not _is_complete(tickets):
            if not is_answered and _is_named(tickets):
                is_answered, limit = True, min(limit, loop.time() + GRACE)
            try:
                async with asyncio.timeout_at(limit):
                    await self._news.wait()
            except TimeoutError:
                return

    def _heard(self) -> None:
        """Wake those who wait for a report, and follow the master if it moved."""
        self._news.set()
        self._news = asyncio.Event()
        self._verdict(self._reports())

    def _reports(self) -> list[Report]:
        return [watch.report for watch in self._watches if watch.report is not None]

    def _verdict(self, reports: list[Report]) -> Verdict:
        verdict = decide(reports, asked=len(self._watches), known_epoch=self._epoch)
        if verdict.place is not None:
            self._believe(verdict.place, verdict.epoch)
        return verdict

    def _believe(self, place: Place, epoch: int) -> None:
        self._epoch = epoch
        if place != self.current:
            self.current = place
            log.info(
                "sentinel.master_found",
                master=self._name,
                address=str(place),
                epoch=epoch,
            )
        # At every report, not only at a change: nobody who came late is forgotten.
        for follower, where in list(self._followers.items()):
            if where != place:
                del self._followers[follower]
                follower.end(MOVED)

    def follow(self, follower: Follower, place: Place) -> None:
        """End `follower` as soon as the master is elsewhere than at `place`.

        Held weakly. If it has moved already, it ends now.
        """
        if self.current is not None and self.current != place:
            follower.end(MOVED)
        else:
            self._followers[follower] = place

    async def aclose(self) -> None:
        """Stop asking and close the connections to the sentinels. Idempotent."""
        self._is_closed = True
        await self._owner.aclose()


def _fresh(tickets: Mapping[SentinelWatch, int]) -> list[Report]:
    return [
        watch.report
        for watch, ticket in tickets.items()
        if watch.report is not None and watch.number >= ticket
    ]


def _is_named(tickets: Mapping[SentinelWatch, int]) -> bool:
    return any(report.place is not None for report in _fresh(tickets))


def _is_complete(tickets: Mapping[SentinelWatch, int]) -> bool:
    """Whether no answer is worth waiting for any more."""
    missing = [watch for watch, ticket in tickets.items() if watch.number < ticket]
    if not missing:
        return True
    return _is_named(tickets) and not any(watch.is_trusted for watch in missing)
