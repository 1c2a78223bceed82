"""Priorities by weights: 8, 4, 2 and 1 of 15, and nobody starves.

Smooth weighted round-robin: each turn every lane that has something gains its weight,
the richest is served and pays the sum. Over 15 turns each gets exactly its share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mcp_crew_redis.events.consumer.table import LANE_COUNT

__all__ = ["WEIGHTS", "LaneWheel", "shares"]

WEIGHTS: Final = (8, 4, 2, 1)


class LaneWheel:
    """Says which lane is served next."""

    __slots__ = ("_purses",)

    def __init__(self) -> None:
        self._purses = [0] * LANE_COUNT

    def next(self, has: Sequence[object], forced: int = -1) -> int:
        """Return the lane whose turn it is among those that have something; or -1.

        Args:
            has: By lane, true where there is something.
            forced: Serve this lane, which has something, and have it pay all the same.
        """
        purses, best, total = self._purses, -1, 0
        for lane in range(LANE_COUNT):
            if has[lane]:
                weight = WEIGHTS[lane]
                total += weight
                purses[lane] += weight
                if best < 0 or purses[lane] > purses[best]:
                    best = lane
        best = forced if forced >= 0 else best
        if best >= 0:
            purses[best] -= total
        return best

    def charge(self, has: Sequence[object], lane: int, turns: int) -> None:
        """Have a lane pay for so many turns that it has taken at once."""
        purses, total = self._purses, 0
        for each in range(LANE_COUNT):
            if has[each] or each == lane:
                purses[each] += WEIGHTS[each] * turns
                total += WEIGHTS[each]
        purses[lane] -= total * turns


def shares(room: int, ready: Sequence[bool]) -> list[int]:
    """Divide room among the lanes that are ready, by weight, each at least one.

    Args:
        room: How many there are to divide; the sum may be up to three more.
        ready: By lane.
    """
    total = sum(w for w, is_ready in zip(WEIGHTS, ready, strict=True) if is_ready)
    if total == 0 or room <= 0:
        return [0] * LANE_COUNT
    return [
        -(-room * weight // total) if is_ready else 0  # rounded up
        for weight, is_ready in zip(WEIGHTS, ready, strict=True)
    ]
