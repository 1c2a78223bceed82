"""What a journal asks of whoever keeps it beyond the process."""

from __future__ import annotations

from typing import Protocol

from mcp_crew_redis.store.journal.entries import Entry

__all__ = ["InMemory", "Keeper"]


class Keeper(Protocol):
    """Keeps the entries of one journal somewhere that outlives the process.

    Neither `put` nor `drop` raises: where entries cannot be kept any more, `reason`
    says why, and the journal goes on in memory.
    """

    @property
    def is_durable(self) -> bool:
        """Whether entries outlive the process now."""
        ...

    @property
    def reason(self) -> str | None:
        """Why entries that should outlive the process do not; None if all is well."""
        ...

    def put(self, entry: Entry) -> None:
        """Keep an entry, or its new state. Has been written when this returns."""
        ...

    def drop(self, entry: Entry) -> None:
        """Keep it no longer: it stands in Redis, or somebody has decided so."""
        ...

    async def committed(self) -> None:
        """Return when all that was put is as safe as was asked for.

        Cancelling leaves it put.
        """
        ...

    def close(self) -> None:
        """Give up the files; those with entries stay for the next process."""
        ...


class InMemory:
    """Keeps nothing: the journal lives as long as the process."""

    is_durable = False
    reason: str | None = None

    def put(self, entry: Entry) -> None:
        """Do nothing."""

    def drop(self, entry: Entry) -> None:
        """Do nothing."""

    async def committed(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""
