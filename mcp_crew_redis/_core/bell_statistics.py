"""What the bell knows of itself, as a frozen value."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["BellCounts", "BellMode", "BellStatistics"]


class BellMode(StrEnum):
    """How listeners hear of changes."""

    TRACKING = "tracking"  # the server tells; while it can, see `is_healthy`
    POLLING = "polling"  # it will not: who is not healthy is told when to look


@dataclass(frozen=True, slots=True, kw_only=True)
class BellStatistics:
    """Figures of one bell.

    Attributes:
        mode: How listeners hear of changes.
        is_healthy: Whether every change is told now.
        healthy_since: Unix seconds, None while it is not.
        listeners: Registrations.
        prefixes: What the server is asked for now.
        pushes: Messages received.
        keys: Names received; one key may be named many times.
        flushes: Times that the server said a database was emptied.
        losses: Times that listeners were told of a loss.
        dials: Connections made.
        dial_failures: Dials that failed, refused tracking included.
        listener_failures: Calls of listeners that raised.
    """

    mode: BellMode
    is_healthy: bool
    healthy_since: float | None
    listeners: int
    prefixes: tuple[bytes, ...]
    pushes: int
    keys: int
    flushes: int
    losses: int
    dials: int
    dial_failures: int
    listener_failures: int


@dataclass(slots=True)
class BellCounts:
    """What a bell counts; see `BellStatistics`."""

    pushes: int = 0
    keys: int = 0
    flushes: int = 0
    losses: int = 0
    dials: int = 0
    dial_failures: int = 0
