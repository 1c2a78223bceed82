"""What becomes of what waited; conflicts: written here, and elsewhere since."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Final

from mcp_crew_redis.types import DataType

__all__ = [
    "MAX_CONFLICTS",
    "Conflict",
    "ConflictLog",
    "MergeConflict",
    "Merged",
    "SyncStatistics",
    "WindowStatistics",
]

MAX_CONFLICTS: Final = 1_000
"""Conflicts remembered; the oldest goes first."""
MAX_BYTES: Final = 4 * 1024 * 1024
"""Bytes of losing values remembered with them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """A write that waited for Redis and found a newer one there.

    Attributes:
        tenant_id: Whose.
        data_type: What it is.
        identifier: Its name.
        local: The value that was written here; None for a delete.
        remote: The value that stands in Redis; None where that is a delete.
        is_local_delete: Whether the write here was a delete.
        is_remote_delete: Whether what stands is one.
        local_stamp: When it was written here, in microseconds since 1970.
        remote_stamp: When what stands was written.
    """

    tenant_id: str
    data_type: DataType
    identifier: str
    local: object
    remote: object
    is_local_delete: bool
    is_remote_delete: bool
    local_stamp: int
    remote_stamp: int


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge callback returns to have it written over what stands.

    Attributes:
        value: The merged value.
        ttl: Its seconds to live; None for as long as the losing write had left.
    """

    value: object
    ttl: float | None = None


MergeConflict = Callable[[Conflict], Merged | Awaitable[Merged | None] | None]
"""Decides a conflict: `Merged(value)` is written, None leaves what stands in Redis."""


@dataclass(slots=True)
class SyncStatistics:
    """What became of entries, since the beginning.

    Attributes:
        applied: Written into Redis.
        duplicates: Found there already: only the answer had been lost.
        superseded: Perhaps written before, and replaced by a newer write since.
        conflicts: A newer write of somebody else stands, and was kept.
        merged: Likewise, and the merge callback's value was written.
        expired: Over before Redis came back.
        purged: Of a tenant that was purged since.
    """

    applied: int = 0
    duplicates: int = 0
    superseded: int = 0
    conflicts: int = 0
    merged: int = 0
    expired: int = 0
    purged: int = 0

    def as_dict(self) -> dict[str, int]:
        """Return it as plain data."""
        return asdict(self)


class ConflictLog:
    """The last conflicts, bounded by number and by the bytes of their values.

    Attributes:
        count: Conflicts since the beginning.
    """

    def __init__(self) -> None:
        self.count = 0
        self._size = 0
        self._entries: deque[tuple[int, Conflict]] = deque()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, conflict: Conflict, size: int) -> None:
        """Remember a conflict whose values have `size` bytes."""
        self.count += 1
        self._entries.append((size, conflict))
        self._size += size
        while len(self._entries) > MAX_CONFLICTS or (
            self._size > MAX_BYTES and len(self._entries) > 1
        ):
            self._size -= self._entries.popleft()[0]

    def latest(self) -> list[Conflict]:
        """Return those remembered, the newest last."""
        return [conflict for _, conflict in self._entries]


@dataclass(slots=True)
class WindowStatistics:
    """What became of the window.

    Attributes:
        restored: Writes that a new server had lost and has again.
        replays: How often another server was met.
        overflowed: Writes that left the window early, because of its size.
        not_restored: Writes that a new server refused and no journal could take.
    """

    restored: int = 0
    replays: int = 0
    overflowed: int = 0
    not_restored: int = 0
