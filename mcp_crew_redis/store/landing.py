"""How an entry of the journal lands in Redis, and what each answer means for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any, Final, Protocol
from uuid import uuid4

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

__all__ = ["Landing", "Relay", "Settled", "landed"]

log = get_logger(__name__)

NEWER, APPLIED, DUPLICATE, OTHER, OVER, PURGED, FORGOTTEN = range(7)
"""The outcomes of sync_merge.lua."""
_MICROSECONDS: Final = 1_000_000
MAX_INSISTED: Final = 10_000


def landed(reply: object) -> bool:
    """Whether a script's answer says that it has written now, or had before."""
    return isinstance(reply, list) and int(reply[0]) in (APPLIED, DUPLICATE)


class Settled(Enum):
    """What an answer means for an entry."""

    DONE = "done"  # the journal has dropped it
    CONFLICT = "conflict"  # somebody else's newer write stands: see `resolve`
    TROUBLED = "troubled"  # it waits for a decision


class Relay(Protocol):
    """Hands on the postings of one kind."""

    def call(self, posting: Posting) -> Call:
        """Return the script that takes it, which may be run twice.

        One that is older than its receiver's memory of names is for the dead letters:
        nobody could tell its repetition.
        """
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
        self._insisted: set[Register] = set()

    def employ(self, kind: str, relay: Relay) -> None:
        """Hand on postings of a kind from now on, those that waited for it too."""
        self.relays[kind] = relay
        for entry in self._journal.troubled():
            if isinstance(entry, Posting) and entry.kind == kind:
                self._journal.resume(entry)

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

    def release(self, batch: Iterable[Entry]) -> None:
        """Let callers go on who waited for something in this batch."""
        for entry in batch:
            if isinstance(entry, Delta):
                self._counters.release(entry.key)

    def doubt(self, entries: Iterable[Entry]) -> None:
        """Take note that entries may stand in Redis although nothing was heard."""
        for entry in entries:
            if isinstance(entry, Register):
                self._journal.doubt(entry)

    def insist(self, entry: Entry) -> bool:
        """Have an entry in trouble tried again, however old it is."""
        if isinstance(entry, Delta):
            if not self._journal.remove(entry):
                return False
            # Under another name: later numbers of its writer may have been added.
            again = replace(
                entry, writer=uuid4().hex, sequence=1, is_frozen=False, trouble=""
            )
            self._journal.add(again)
            return True
        if not self._journal.resume(entry):
            return False
        if isinstance(entry, Register):
            if len(self._insisted) >= MAX_INSISTED:
                self._insisted.clear()
            self._insisted.add(entry)
        return True

    def _call(self, entry: Entry) -> Call | None:
        if isinstance(entry, Register):
            is_insisted = entry in self._insisted
            self._insisted.discard(entry)
            memory_us = MAX_STAMP if is_insisted else self._memory_us
            args = (entry.sealed, entry.expires_at_ms, memory_us)
            return "sync_merge", (entry.key, self._floor(entry)), args
        if isinstance(entry, Delta):
            return self._add(entry)
        relay = self.relays.get(entry.kind)
        if relay is None:
            reason = f"nobody hands on postings of kind {entry.kind!r}"
            self._journal.trouble(entry, reason)
            return None
        try:
            return relay.call(entry)
        except Exception as error:  # noqa: BLE001 - a relay's own, or a strange posting
            # The others go on; this one waits for its owner.
            self._journal.trouble(entry, f"cannot be read: {type(error).__name__}")
            return None

    def _add(self, delta: Delta) -> Call | None:
        now_us = self._now_us()
        age = (now_us - delta.frozen_us) / _MICROSECONDS if delta.is_frozen else 0.0
        if age > MEMORY:
            reason = "sent and unanswered too long ago to be sent again"
            self._journal.trouble(delta, reason)
            return None
        if not self._counters.hold(delta.key):
            return None  # a batch of live callers is under way: with the next round
        self._journal.freeze(delta, now_us)
        return self._counters.call(delta, self._floor(delta))

    def _floor(self, entry: Entry) -> bytes:
        return self._keys.tenant(entry.tenant_id).meta(MetaKey.FLOOR)

    # --- after ------------------------------------------------------------------------

    def settle(self, entry: Entry, reply: object) -> Settled:
        """Judge one answer; nothing is awaited.

        What cannot be judged waits for a decision: one entry must not stop the others.
        """
        try:
            settled = self._settle(entry, reply)
        except Exception as error:  # noqa: BLE001 - a relay's own, or a strange answer
            settled = f"{type(error).__name__}: {error}"
        if isinstance(settled, str):
            self._journal.trouble(entry, settled)
            count = self._journal.unresolved
            if count & (count - 1) == 0:  # the 1st, 2nd, 4th, ...: no flood
                log.warning("journal.entry_unresolved", reason=settled, count=count)
            return Settled.TROUBLED
        if settled is Settled.DONE:
            self._journal.remove(entry)
        return settled

    async def resolve(self, register: Register) -> None:
        """See to a conflict that `settle` has found.

        Raises:
            UnavailableError: Redis did not answer; it is a conflict still.
        """
        await self._resolver.resolve(register)
        self._journal.remove(register)

    def _settle(self, entry: Entry, reply: object) -> Settled | str:
        if isinstance(reply, CrewRedisError):
            return str(reply)
        if isinstance(entry, Posting):
            complaint = self.relays[entry.kind].settle(entry, reply)
            self.statistics.applied += not complaint
            return complaint or Settled.DONE
        assert isinstance(reply, list)
        if isinstance(entry, Delta):
            return self._settle_delta(entry, reply)
        return self._settle_register(entry, int(reply[0]), int(reply[1]))

    def _settle_register(
        self, register: Register, outcome: int, stands: int
    ) -> Settled | str:
        self._context.stamps.follow(stands)
        told = self.statistics
        if outcome in (APPLIED, DUPLICATE):
            told.applied += outcome == APPLIED
            told.duplicates += outcome == DUPLICATE
            self._fallback.brought(register.key, register.sealed)
        elif outcome in (NEWER, OTHER):
            is_own = register.is_uncertain and outcome == NEWER
            if not is_own and self._journal.holds(register):
                return Settled.CONFLICT
            told.superseded += 1
        elif outcome == OVER:
            told.expired += 1
        elif outcome == PURGED:
            told.purged += 1
        else:
            return (
                "older than REDIS_CREW_TOMBSTONE_TTL, and nothing stands under its "
                "key: it may have been deleted since"
            )
        return Settled.DONE

    def _settle_delta(self, delta: Delta, reply: Sequence[Any]) -> Settled | str:
        status = Added(int(reply[0]))
        told = self.statistics
        if status in (Added.ADDED, Added.REPEATED):
            told.applied += status is Added.ADDED
            told.duplicates += status is Added.REPEATED
            if self._journal.holds(delta):  # else the counter was deleted meanwhile
                self._counters.landed(delta, int(reply[1]), self._floor(delta))
        elif status is Added.OUT_OF_ORDER:
            told.duplicates += 1  # a later one of the same writer has been added
        elif status is Added.PURGED:
            told.purged += 1
        elif status is Added.OVERFLOW:
            return "the counter would leave the range of 64-bit integers"
        else:
            return "the key holds something else than a counter"
        return Settled.DONE
