"""How often and how much the janitor does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["SHARES", "JanitorPace"]

SHARES: Final = 64
"""Into how many numbers the tenants are divided among the processes."""

_HOUR: Final = 3_600.0
_DAY: Final = 24 * _HOUR


@dataclass(frozen=True, slots=True, kw_only=True)
class JanitorPace:
    """The janitor's times, in seconds.

    Attributes:
        lease: How long its part of the tenants is its own without a renewal.
        report: Between two reports of losses.
        recheck: Before it looks again at a stream that a group holds back, at most.
        idle: After which consumers that hold nothing, and empty streams, are removed.
        stale: After which a group that holds back and has nobody is reported.
        survey: Between two looks at everything while there is no bell.
        retry: The longest pause before it tries again what Redis did not answer.
    """

    lease: float = 15.0
    report: float = 10.0
    recheck: float = 30.0
    idle: float = _HOUR
    stale: float = 7 * _DAY
    survey: float = 5.0
    retry: float = 5.0
