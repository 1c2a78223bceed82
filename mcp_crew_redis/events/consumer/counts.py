"""What one subscription has done: counters, and the frozen figures of a moment."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ConsumerCounts", "ConsumerStatistics"]


@dataclass(slots=True)
class ConsumerCounts:
    """Counters of one subscription in this process, since its start."""

    handled: int = 0
    failed: int = 0
    timeouts: int = 0
    dead: int = 0
    lost: int = 0
    expired: int = 0
    duplicates: int = 0
    redelivered: int = 0
    taken_away: int = 0
    reads: int = 0
    read_failures: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerStatistics:
    """One subscription in this process.

    Attributes:
        group: Its group.
        pattern: Its pattern.
        consumer: The name under which it reads.
        streams: Streams that it knows.
        held: Entries in this process that are not handled yet.
        unacknowledged: Handled entries whose acknowledgement is not sent yet.
        handled: Events whose handler returned.
        failed: Calls that raised, timeouts included.
        timeouts: Calls that took too long.
        dead: Dead letters made here.
        lost: Entries that were trimmed before they were handled.
        expired: Events that nobody needed any more.
        duplicates: Events that were skipped because they had been handled.
        redelivered: Entries that came again: taken over, or tried again.
        taken_away: Entries that another process took over while they were held here.
        reads: Requests for entries.
        read_failures: Those that Redis did not answer.
        partitions: Partitions it reads now, where a process has its share of them.
    """

    group: str
    pattern: str
    consumer: str
    streams: int
    held: int
    unacknowledged: int
    handled: int
    failed: int
    timeouts: int
    dead: int
    lost: int
    expired: int
    duplicates: int
    redelivered: int
    taken_away: int
    reads: int
    read_failures: int
    partitions: tuple[int, ...] = ()
