"""How an entry of the journal lands in Redis, and what each answer means for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

from mcp_crew_redis._core.port import Call
from mcp_crew_redis._wire.header import MAX_STAMP
from mcp_crew_redis._wire.keys import MetaKey
from mcp_crew_redis.errors import CrewRedisError
from mcp_crew_redis.log import get_logger
from mcp_crew_redis.store.conflicts import MergeConflict, SyncStatistics
from mcp_crew_redis.store.context import StoreContext
from mcp_crew_redis.store.counters import MEMORY
from mcp_crew_redis.store.counting import Added
from mcp_crew_redis.store.deferring import DeferringCounters
from mcp_crew_redis.store.fallback import Fallback
from mcp_crew_redis.store.journal.entries import Delta, Entry, Posting, Register
from mcp_crew_redis.store.resolving import Resolver

__all__ = ["Landing", "Relay", "landed"]

log = get_logger(__name__)

NEWER, APPLIED, DUPLICATE, OTHER, OVER, PURGED, FORGOTTEN = range(7)
"""The outcomes of sync_merge.lua."""
_MICROSECONDS: Final = 1_000_000


def landed(reply: object) -> bool:
    """Whether a script's answer says that it has written now, or had before."""
    return isinstance(reply, list) and int(reply[0]) in (APPLIED, DUPLICATE)


class Relay(Protocol):
    """Hands on the postings of one kind."""

    def call(self, posting: Posting) -> Call:
        """Return the script that takes it, which may be run twice."""
        ...

    def settle(self, posting: Posting, reply: object) -> str:
        """Judge the answer: empty when it was taken, else what is wrong with it."""
        ...


class Landing:
    """Makes scripts of entries and judges the answers.

    Args:
        context: The store's parts.
        fallback: The journal, and who takes note of what stands in Redis.
        counters: Their callers wait while a delta is under way.
        merge: Decides conflicts; None keeps what stands in Redis.

    Attributes:
        statistics: What became of entries.
        conflicts: The last conflicts.
        relays: Who hands on postings, by kind.
    """

    def __init__(
        self,
        context: StoreContext,
        fallback: Fallback,
        counters: DeferringCounters,
        merge: MergeConflict | None = None,
    ) -> None:
        self.statistics = SyncStatistics()
        self.relays: dict[str, Relay] = {}
        self._resolver = Resolver(context, fallback, self.statistics, merge)
        self.conflicts = self._resolver.conflicts
        self._context = context
        self._port, self._keys = context.port, context.keys
        self._fallback = fallback
        self._journal = fallback.journal
        self._counters = counters
        self._memory_us = round(context.tombstone_ttl * _MICROSECONDS)
        self._now_us = context.stamps.hybrid.now_us
        self._insisted: set[bytes] = set()

    # --- before -----------------------------------------------------------------------

    def prepare(self, batch: Sequence[Entry]) -> tuple[list[Entry], list[Call]]:
        """Return what can be sent of a batch, and how; `release` must follow."""
        ready: list[Entry] = []
        calls: list[Call] = []
        for entry in batch:
            call = self._call(entry)
            if call is not None:
                ready.append(entry)
                calls.append(call)
        return ready, calls

    def release(self, batch: Sequence[Entry]) -> None:
        """Let callers go on who waited for something in this batch."""
        for entry in batch:
            if isinstance(entry, Delta):
                self._counters.release(entry.key)

    def insist(self, entry: Entry) -> bool:
        """Have an entry in trouble tried again, however old it is."""
        if not self._journal.resume(entry):
            return False
        if isinstance(entry, Delta):
            entry.frozen_us = self._now_us()
        else:
            self._insisted.add(entry.name)
        return True

    @staticmethod
    def doubt(entries: Sequence[Entry]) -> None:
        """Take note that entries may stand in Redis although nothing was heard."""
        for entry in entries:
            if isinstance(entry, Register):
                entry.is_uncertain = True

    def _call(self, entry: Entry) -> Call | None:
        if isinstance(entry, Register):
            names = (entry.key, self._floor(entry))
            memory_us = self._memory_us
            if entry.key in self._insisted:
                self._insisted.discard(entry.key)
                memory_us = MAX_STAMP
            args = (entry.sealed, entry.expires_at_ms, memory_us)
            return "sync_merge", names, args
        if isinstance(entry, Delta):
            return self._add(entry)
        relay = self.relays.get(entry.kind)
        if relay is None:
            entry.trouble = f"nobody hands on postings of kind {entry.kind!r}"
            return None
        return relay.call(entry)

    def _add(self, delta: Delta) -> Call | None:
        now_us = self._now_us()
        age = (now_us - delta.frozen_us) / _MICROSECONDS if delta.is_frozen else 0.0
        if age > MEMORY:
            delta.trouble = "sent and unanswered too long ago to be sent again"
            return None
        if not self._counters.hold(delta.key):
            return None  # a batch of live callers is under way: with the next round
        self._journal.freeze(delta, now_us)
        return self._counters.call(delta, self._floor(delta))

    def _floor(self, entry: Entry) -> bytes:
        return self._keys.tenant(entry.tenant_id).meta(MetaKey.FLOOR)

    # --- after ------------------------------------------------------------------------

    async def settle(self, entry: Entry, reply: object) -> bool:
        """Judge one answer.

        Returns:
            Whether the entry is done with. If not, it is in trouble: it waits for a
            decision.

        Raises:
            UnavailableError: Redis did not answer what a conflict had to ask.
        """
        if isinstance(reply, CrewRedisError):
            entry.trouble = str(reply)
        elif isinstance(entry, Register):
            assert isinstance(reply, list)
            await self._settle_register(entry, int(reply[0]), int(reply[1]))
        elif isinstance(entry, Delta):
            assert isinstance(reply, list)
            self._settle_delta(entry, reply)
        else:
            entry.trouble = self.relays[entry.kind].settle(entry, reply)
            if not entry.trouble:
                self.statistics.applied += 1
        if entry.trouble:
            count = self._journal.unresolved + 1
            if count & (count - 1) == 0:  # the 1st, 2nd, 4th, ...: no flood
                log.warning(
                    "journal.entry_unresolved", reason=entry.trouble, count=count
                )
            return False
        self._journal.remove(entry)
        return True

    async def _settle_register(
        self, register: Register, outcome: int, stands: int
    ) -> None:
        self._context.stamps.follow(stands)
        told = self.statistics
        if outcome in (APPLIED, DUPLICATE):
            told.applied += outcome == APPLIED
            told.duplicates += outcome == DUPLICATE
            self._fallback.landed(register.key, register.stamp, register.sealed)
        elif outcome in (NEWER, OTHER):
            if not self._journal.holds(register):
                told.superseded += 1  # by a later write of this process
            elif register.is_uncertain and outcome == NEWER:
                told.superseded += 1
            else:
                await self._resolver.resolve(register, stands)
        elif outcome == OVER:
            told.expired += 1
        elif outcome == PURGED:
            told.purged += 1
        else:
            register.trouble = (
                "older than REDIS_CREW_TOMBSTONE_TTL, and nothing stands under its "
                "key: it may have been deleted since"
            )

    def _settle_delta(self, delta: Delta, reply: Sequence[Any]) -> None:
        status = Added(int(reply[0]))
        told = self.statistics
        if status in (Added.ADDED, Added.REPEATED):
            told.applied += status is Added.ADDED
            told.duplicates += status is Added.REPEATED
            self._counters.landed(delta, int(reply[1]), self._floor(delta))
        elif status is Added.OUT_OF_ORDER:
            told.duplicates += 1  # a later one of the same writer has been added
        elif status is Added.PURGED:
            told.purged += 1
        elif status is Added.OVERFLOW:
            delta.trouble = "the counter would leave the range of 64-bit integers"
        else:
            delta.trouble = "the key holds something else than a counter"
