"""What a lane tells about itself."""

from __future__ import annotations

from typing import Protocol

__all__ = ["EndedLane", "LaneKeeper"]


class EndedLane(Protocol):
    """What a keeper may know of a lane that tells it something."""

    name: str
    client_id: int | None
    run_id: str

    @property
    def peer(self) -> str: ...


class LaneKeeper(Protocol):
    """Who is told what happens on a lane. Every call is synchronous.

    Outcomes come with the token under which their commands were written: what belongs
    to a time before an outage must not count after it.
    """

    def lane_late(
        self, lane: EndedLane, count: int, *, is_silent: bool, token: int
    ) -> None:
        """`count` commands timed out; silent if no byte has come since they left."""

    def lane_ended(
        self, lane: EndedLane, cause: str, unanswered: int, *, token: int
    ) -> None:
        """The lane is over; every slot has its error."""

    def lane_idle(self, lane: EndedLane) -> None:
        """Nothing has happened on the lane for a while; it is about to send a PING."""

    def lane_measured(self, answered: int, slow: int, *, token: int) -> None:
        """`answered` replies since the last report, of which `slow` were slow."""
