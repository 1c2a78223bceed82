"""Conflicts: whoever wrote later elsewhere is kept, unless the user merges the two."""

from __future__ import annotations

import asyncio
import inspect
from itertools import count
from typing import Final

from mcp_crew_redis._wire.header import Sealed, seal, unseal
from mcp_crew_redis._wire.keys import MetaKey
from mcp_crew_redis._wire.ttl import ttl_ms
from mcp_crew_redis.errors import CodecError, DataError
from mcp_crew_redis.log import get_logger
from mcp_crew_redis.store.conflicts import (
    Conflict,
    ConflictLog,
    MergeConflict,
    Merged,
    SyncStatistics,
)
from mcp_crew_redis.store.context import StoreContext
from mcp_crew_redis.store.fallback import Fallback
from mcp_crew_redis.store.journal.entries import Register
from mcp_crew_redis.store.ordered import MAX_TRIES, REFUSED
from mcp_crew_redis.types import DataType

__all__ = ["MERGE_TIMEOUT", "Resolver"]

log = get_logger(__name__)

MERGE_TIMEOUT: Final = 5.0
"""Seconds that a merge callback may take."""
MAX_MERGING: Final = 128
"""Merges whose answer is not known, at a time."""


class Resolver:
    """Decides what stands where a write that waited has met a newer one.

    Args:
        context: The store's parts.
        fallback: Takes note of what stands in Redis.
        statistics: Counted in.
        merge: Asked for a value that is better than either; None keeps the newer one.

    Attributes:
        conflicts: The last ones.
    """

    def __init__(
        self,
        context: StoreContext,
        fallback: Fallback,
        statistics: SyncStatistics,
        merge: MergeConflict | None,
    ) -> None:
        self.conflicts = ConflictLog()
        self.statistics = statistics
        self._context = context
        self._port, self._keys = context.port, context.keys
        self._fallback = fallback
        self._journal = fallback.journal
        self._merge = merge
        self._now_us = context.stamps.hybrid.now_us
        # What a merge has sent and not heard of: asked again, it would merge twice.
        self._merging: dict[bytes, bytes] = {}

    async def resolve(self, register: Register) -> None:
        """Ask the merge callback, and leave what stands if it has nothing better.

        Raises:
            UnavailableError: Redis did not answer.
        """
        attempts = count(1)
        while True:
            data = await self._port.send("GET", register.key)
            if data is not None and data == self._merging.get(register.key):
                self._merged(register)  # it had landed, unheard
                return
            conflict, left_ms = self._describe(register, data)
            sealed = await self._ask(conflict, left_ms)
            if not self._journal.holds(register):
                self.statistics.superseded += 1  # written again here meanwhile
                return
            if sealed is None:
                break
            if await self._write(register, sealed):
                self._merged(register)
                return
            if next(attempts) == MAX_TRIES:
                break
        self.statistics.conflicts += 1
        self._merging.pop(register.key, None)
        self.conflicts.add(conflict, len(register.sealed) + len(data or b""))
        if (known := self.conflicts.count) & (known - 1) == 0:
            log.warning("journal.conflict_found", count=known)

    def _merged(self, register: Register) -> None:
        self.statistics.merged += 1
        if sealed := self._merging.pop(register.key, b""):
            self._fallback.brought(register.key, sealed)

    def _describe(self, register: Register, data: bytes | None) -> tuple[Conflict, int]:
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
            remote_stamp=remote.stamp if remote else register.stamp,
        )
        return conflict, register.expires_at_ms - self._now_us() // 1_000

    def _decoded(self, payload: bytes | memoryview) -> object:
        try:
            return self._context.codec.decode(payload, None)
        except DataError:
            return None

    async def _ask(self, conflict: Conflict, left_ms: int) -> bytes | None:
        """Return what the callback wants written, sealed; None for nothing.

        One above what was merged: whoever has written since then has a higher stamp.
        """
        if self._merge is None:
            return None
        try:
            async with asyncio.timeout(MERGE_TIMEOUT):
                answer = self._merge(conflict)
                if inspect.isawaitable(answer):
                    answer = await answer
            return None if answer is None else self._sealed(conflict, answer, left_ms)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            log.warning("journal.merge_failed", exc_info=error)
        except Exception as error:
            log.warning("journal.merge_failed", exc_info=error)
        return None

    def _sealed(self, conflict: Conflict, merged: Merged, left_ms: int) -> bytes:
        if not isinstance(merged, Merged):
            raise TypeError(f"a merge returns Merged or None, not {type(merged)}")
        lives_ms = max(1, left_ms) if merged.ttl is None else ttl_ms(merged.ttl)
        context = self._context
        return seal(
            conflict.remote_stamp + 1,
            context.codec.encode(merged.value),
            self._now_us() // 1_000 + lives_ms,
            max_bytes=context.max_value_bytes,
        )

    async def _write(self, register: Register, sealed: bytes) -> bool:
        """Write over the very write that was merged, and over no other."""
        if len(self._merging) >= MAX_MERGING:
            del self._merging[next(iter(self._merging))]
        self._merging[register.key] = sealed
        floor = self._keys.tenant(register.tenant_id).meta(MetaKey.FLOOR)
        lives_ms = (unseal(sealed).expires_at_ms or 0) - self._now_us() // 1_000
        names, args = (register.key, floor), (sealed, max(1, lives_ms))
        reply = await self._port.run("set_newer", names, args, is_repeatable=True)
        return int(reply[0]) not in REFUSED


def _opened(data: bytes | None) -> Sealed | None:
    try:
        return unseal(data) if data else None
    except CodecError:
        return None
