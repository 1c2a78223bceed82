"""What a lane tells about itself."""

from __future__ import annotations

from typing import Protocol

__all__ = ["EndedLane", "LaneKeeper"]


class EndedLane(Protocol):
    """What a keeper may know of a lane that tells it something."""

    name: str
    client_id: int | None
    run_id: str


class LaneKeeper(Protocol):
    """Who is told what happens on a lane. Every call is synchronous."""

    def lane_late(self, lane: EndedLane, count: int, *, is_silent: bool) -> None:
        """`count` commands timed out; silent if no byte has come since they left."""

    def lane_ended(self, lane: EndedLane, cause: str, unanswered: int) -> None:
        """The lane is over; every slot has its error."""

    def lane_measured(self, lane: EndedLane, answered: int, slow: int) -> None:
        """`answered` replies since the last report, of which `slow` were slow."""
