"""How an entry of the journal lands in Redis, and what each answer means for it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

from mcp_crew_redis._core.port import Call
from mcp_crew_redis._wire.header import MAX_STAMP, Sealed, seal, unseal
from mcp_crew_redis._wire.keys import MetaKey
from mcp_crew_redis.errors import CodecError, CrewRedisError, DataError
from mcp_crew_redis.log import get_logger
from mcp_crew_redis.store.conflicts import (
    Conflict,
    ConflictLog,
    MergeConflict,
    Merged,
)
from mcp_crew_redis.store.context import StoreContext
from mcp_crew_redis.store.counters import MEMORY, Counters
from mcp_crew_redis.store.counting import Added
from mcp_crew_redis.store.fallback import Fallback
from mcp_crew_redis.store.journal.entries import Delta, Entry, Posting, Register
from mcp_crew_redis.store.ordered import MAX_TRIES, REFUSED
from mcp_crew_redis.types import DataType

__all__ = ["Landing", "Relay", "SyncStatistics", "landed"]

log = get_logger(__name__)

MERGE_TIMEOUT: Final = 5.0
"""Seconds that a merge callback may take."""
NEWER, APPLIED, DUPLICATE, OTHER, OVER, PURGED, FORGOTTEN = range(7)
"""The outcomes of sync_merge.lua."""
_MICROSECONDS: Final = 1_000_000


def landed(reply: object) -> bool:
    """Whether a script's answer says that it has written now, or had before."""
    return isinstance(reply, list) and int(reply[0]) in (APPLIED, DUPLICATE)


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
        counters: Counters,
        merge: MergeConflict | None = None,
    ) -> None:
        self.statistics = SyncStatistics()
        self.conflicts = ConflictLog()
        self.relays: dict[str, Relay] = {}
        self.merge = merge
        self._context = context
        self._port, self._keys = context.port, context.keys
        self._fallback = fallback
        self._journal = fallback.journal
        self._counters = counters
        self._memory_us = round(context.tombstone_ttl * _MICROSECONDS)
        self._now_us = context.stamps.hybrid.now_us
        # What a merge has sent and not heard of: asked again, it would merge twice.
        self._merging: dict[bytes, bytes] = {}
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
            log.warning("journal.entry_unresolved", reason=entry.trouble)
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
                await self._resolve(register, stands)
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

    # --- conflicts --------------------------------------------------------------------

    async def _resolve(self, register: Register, stands: int) -> None:
        """Ask the merge callback, and leave what stands if it has nothing better."""
        for _ in range(MAX_TRIES):
            data = await self._port.send("GET", register.key)
            if data is not None and data == self._merging.pop(register.key, None):
                self.statistics.merged += 1  # it had landed, unheard
                return
            conflict, left_ms = self._describe(register, data, stands)
            merged = await self._ask(conflict)
            if merged is None:
                break
            stands = conflict.remote_stamp
            if await self._write(register, merged, stands + 1, left_ms):
                self.statistics.merged += 1
                return
        self.statistics.conflicts += 1
        self.conflicts.add(conflict, len(register.sealed) + len(data or b""))
        log.info("journal.conflict_found", data_type=str(conflict.data_type))

    def _describe(
        self, register: Register, data: bytes | None, stands: int
    ) -> tuple[Conflict, int]:
        parsed = self._keys.parse(register.key)
        assert parsed is not None, "a key that this layer did not build"
        remote = _opened(data)
        conflict = Conflict(
            tenant_id=register.tenant_id,
            data_type=DataType(parsed.namespace),
            identifier=parsed.identifier,
            local=None if register.is_tombstone else self._decoded(register.payload),
            remote=self._decoded(remote.payload) if remote else None,
            is_local_delete=register.is_tombstone,
            is_remote_delete=remote is None or remote.is_tombstone,
            local_stamp=register.stamp,
            remote_stamp=remote.stamp if remote else stands,
        )
        return conflict, register.expires_at_ms - self._now_us() // 1_000

    def _decoded(self, payload: bytes | memoryview) -> object:
        try:
            return self._context.codec.decode(payload, None)
        except DataError:
            return None

    async def _ask(self, conflict: Conflict) -> Merged | None:
        if self.merge is None:
            return None
        try:
            async with asyncio.timeout(MERGE_TIMEOUT):
                answer = self.merge(conflict)
                if inspect.isawaitable(answer):
                    answer = await answer
        except Exception as error:
            log.warning("journal.merge_failed", exc_info=error)
            return None
        return answer

    async def _write(
        self, register: Register, merged: Merged, stamp: int, left_ms: int
    ) -> bool:
        """Write a merged value over the very write that was merged, and no other."""
        lives_ms = max(1, left_ms if merged.ttl is None else round(merged.ttl * 1e3))
        context = self._context
        sealed = seal(
            stamp,
            context.codec.encode(merged.value),
            self._now_us() // 1_000 + lives_ms,
            max_bytes=context.max_value_bytes,
        )
        self._merging[register.key] = sealed
        names = (register.key, self._floor(register))
        args = (sealed, lives_ms)
        # One above what was merged: whoever has written since then has a higher one.
        reply = await self._port.run("set_newer", names, args, is_repeatable=True)
        del self._merging[register.key]
        if int(reply[0]) in REFUSED:
            return False
        self._fallback.landed(register.key, stamp, sealed)
        return True


def _opened(data: bytes | None) -> Sealed | None:
    try:
        return unseal(data) if data else None
    except CodecError:
        return None
