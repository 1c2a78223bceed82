"""What a user sees of the journal: figures, conflicts, and what needs a decision."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from mcp_crew_redis.errors import OperationTimeoutError
from mcp_crew_redis.store.conflicts import Conflict
from mcp_crew_redis.store.journal.entries import Entry
from mcp_crew_redis.store.store import Store

__all__ = ["JournalStatistics", "JournalView", "Unresolved"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalStatistics:
    """The journal at one moment, and what became of its entries so far.

    Attributes:
        depth: Entries that wait for Redis.
        bytes: What they take, keys and bookkeeping included.
        share_used: Of the limit of entries or of bytes, whichever is nearer; 0 to 1.
        oldest_age: Seconds that the oldest has waited; 0 when none waits.
        unresolved: Entries that wait for a decision; part of `depth`.
        accepted: Writes accepted since the start.
        applied: Entries written into Redis.
        duplicates: Entries that stood there already: only an answer had been lost.
        superseded: Entries replaced by a newer write of this process.
        conflicts: Entries that lost against somebody else's newer write.
        merged: Conflicts that the merge callback has decided.
        expired: Entries whose own time was over.
        purged: Entries of a tenant purged since.
        restored: Acknowledged writes that a new server had lost and has again.
        not_restored: Acknowledged writes that a new server refused to take back while
            the journal was full: they are lost if it had not kept them.
        window_bytes: What is remembered to be put back.
        window_overflowed: Writes that left the replay window before their time.
        is_durable: Whether entries outlive the process.
        disk_trouble: Why they do not although they should; None if all is well.
        sync_trouble: Why synchronisation does not get on; None if it does.
    """

    depth: int
    bytes: int
    share_used: float
    oldest_age: float
    unresolved: int
    accepted: int
    applied: int
    duplicates: int
    superseded: int
    conflicts: int
    merged: int
    expired: int
    purged: int
    restored: int
    not_restored: int
    window_bytes: int
    window_overflowed: int
    is_durable: bool
    disk_trouble: str | None
    sync_trouble: str | None

    def as_dict(self) -> dict[str, object]:
        """Return it as plain data, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Unresolved:
    """An entry that waits for a decision.

    Attributes:
        tenant_id: Whose.
        kind: "value", "counter" or the kind of a posting.
        identifier: The name of the value or counter; empty for a posting.
        reason: Why it was not simply written.
    """

    tenant_id: str
    kind: str
    identifier: str
    reason: str
    _entry: Entry


class JournalView:
    """The journal of a running crew.

    Args:
        store: Whose.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def __repr__(self) -> str:
        return f"<JournalView {self._store.journal!r}>"

    def statistics(self) -> JournalStatistics:
        """Return the figures of this moment; bounded work."""
        store, journal = self._store, self._store.journal
        oldest, now_us = journal.oldest_us(), store.context.stamps.hybrid.now_us()
        window = store.window
        return JournalStatistics(
            depth=journal.depth,
            bytes=journal.size,
            share_used=journal.share_used,
            oldest_age=0.0 if oldest is None else max(0, now_us - oldest) / 1e6,
            unresolved=journal.unresolved,
            accepted=journal.accepted,
            **store.landing.statistics.as_dict(),
            restored=window.statistics.restored,
            not_restored=window.statistics.not_restored,
            window_bytes=window.size,
            window_overflowed=window.statistics.overflowed,
            is_durable=journal.keeper.is_durable,
            disk_trouble=journal.keeper.reason,
            sync_trouble=store.sync.reason,
        )

    def conflicts(self) -> list[Conflict]:
        """Return the last conflicts, at most 1,000, the newest last."""
        return self._store.landing.conflicts.latest()

    # --- decisions --------------------------------------------------------------------

    def unresolved(self) -> list[Unresolved]:
        """Return the entries that wait for a decision: `discard` or `apply` them."""
        return [self._told(entry) for entry in self._store.journal.troubled()]

    def discard(self, entries: Iterable[Unresolved]) -> int:
        """Drop entries for good and return how many there were."""
        journal = self._store.journal
        count = sum(journal.remove(entry._entry) for entry in entries)  # noqa: SLF001
        self._store.sync.kick()  # what stood behind them
        return count

    def apply(self, entries: Iterable[Unresolved]) -> int:
        """Try entries again, even those too old; return how many there were.

        A newer value still wins; a key under which nothing stands is written.
        """
        count = 0
        for entry in entries:
            count += self._store.landing.insist(entry._entry)  # noqa: SLF001
        self._store.sync.kick()
        return count

    def _told(self, entry: Entry) -> Unresolved:
        parsed = self._store.keys.parse(entry.name)
        kind = getattr(
            entry, "kind", "counter" if hasattr(entry, "writer") else "value"
        )
        return Unresolved(
            entry.tenant_id,
            kind,
            parsed.identifier if parsed is not None else "",
            entry.trouble,
            entry,
        )

    # --- waiting ----------------------------------------------------------------------

    async def drained(self, timeout: float) -> None:  # noqa: ASYNC109 - the contract
        """Return when nothing waits for Redis but what waits for a decision.

        Args:
            timeout: Seconds.

        Raises:
            OperationTimeoutError: Something still waits.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._store.sync.settled()
        except TimeoutError:
            raise OperationTimeoutError(timeout, sent=False) from None
