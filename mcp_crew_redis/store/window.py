"""The replay window: what Redis has acknowledged and may still lose.

A server that dies loses what its log had not brought to the disk (up to a second with
`appendfsync everysec`), a failover what the replica had not received. Living processes
still know what they wrote: they put it back before anything else is sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from mcp_crew_redis._core.port import Call
from mcp_crew_redis._wire.header import unseal
from mcp_crew_redis._wire.keys import KeySpace, MetaKey
from mcp_crew_redis.clock import Clock
from mcp_crew_redis.errors import CrewRedisError, FallbackFullError
from mcp_crew_redis.log import get_logger
from mcp_crew_redis.store.journal.entries import OVERHEAD, Delta, Register
from mcp_crew_redis.store.journal.journal import Journal

__all__ = ["MAX_WINDOW_BYTES", "ReplayWindow"]

log = get_logger(__name__)

MAX_WINDOW_BYTES: Final = 16 * 1024 * 1024
FLOOR: Final = "floor_raise"
ADD: Final = "counter_add"
MERGE: Final = "sync_merge"


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


class ReplayWindow:
    """The last acknowledged writes, bounded by time and by bytes.

    Args:
        clock: Local time.
        keys: Says whose a key is.
        journal: Takes what a new server refuses for now.
        seconds: How far it reaches back; 0 for no window.
        memory_us: How long deletes are remembered, in microseconds.
        max_bytes: Limit of keys and values together.

    Attributes:
        size: Bytes remembered.
        statistics: What became of it.
    """

    def __init__(
        self,
        clock: Clock,
        keys: KeySpace,
        journal: Journal,
        *,
        seconds: float,
        memory_us: int,
        max_bytes: int = MAX_WINDOW_BYTES,
    ) -> None:
        self.size = 0
        self.statistics = WindowStatistics()
        self._monotonic = clock.monotonic
        self._keys = keys
        self._journal = journal
        self._seconds = seconds
        self._memory_us = memory_us
        self._max_bytes = max_bytes if seconds > 0 else 0
        # When, under which key, and what: a value's bytes, or a script's arguments.
        self._acks: deque[tuple[float, bytes, bytes | Call]] = deque()

    def __len__(self) -> int:
        return len(self._acks)

    def __repr__(self) -> str:
        return f"<ReplayWindow {self._seconds} s, {len(self)} writes>"

    # --- remembering ------------------------------------------------------------------

    def note(self, key: bytes, sealed: bytes) -> None:
        """Remember an acknowledged value or tombstone."""
        self._acks.append((self._monotonic(), key, sealed))
        self.size += OVERHEAD + len(sealed)
        if self._acks[0][0] < self._acks[-1][0] - self._seconds or (
            self.size > self._max_bytes
        ):
            self._prune(self._acks[-1][0] - self._seconds)

    def note_script(self, key: bytes, call: Call) -> None:
        """Remember an acknowledged script whose repetition is harmless."""
        self._acks.append((self._monotonic(), key, call))
        self.size += OVERHEAD
        self._prune(self._acks[-1][0] - self._seconds)

    def note_floor(self, tenant_id: str, floor: int) -> None:
        """Remember a purge, and forget what it has purged."""
        head = b"{%s}" % tenant_id.encode()
        self._forget(lambda each: head in each)
        key = self._keys.tenant(tenant_id).meta(MetaKey.FLOOR)
        self.note_script(key, (FLOOR, (key,), (floor,)))

    def forget_key(self, key: bytes) -> None:
        """Forget a counter that was deleted: it must not come back."""
        if any(each == key for _, each, _ in self._acks):
            self._forget(lambda each: each == key)

    def _forget(self, is_doomed: Callable[[bytes], bool]) -> None:
        kept = [ack for ack in self._acks if not is_doomed(ack[1])]
        self._acks = deque(kept)
        self.size = sum(_size(what) for _, _, what in kept)

    def _prune(self, since: float) -> None:
        acks = self._acks
        while acks and (acks[0][0] < since or self.size > self._max_bytes):
            at, _, what = acks.popleft()
            self.size -= _size(what)
            if at >= since and self._max_bytes:
                self.statistics.overflowed += 1

    # --- putting back -----------------------------------------------------------------

    def calls(self, since: float) -> list[Call]:
        """Return what to run on a server that is another one than before.

        Args:
            since: When the old one was last known to live: what it had acknowledged
                longer ago than the window is safe.
        """
        self._prune(since - self._seconds)
        values: dict[bytes, bytes] = {}
        floors: list[Call] = []
        others: list[Call] = []
        for _, key, what in self._acks:
            if isinstance(what, bytes):
                held = values.get(key)
                if held is None or unseal(held).stamp < unseal(what).stamp:
                    values[key] = what
            else:
                (floors if what[0] == FLOOR else others).append(what)
        merges = [self._merge(key, sealed) for key, sealed in values.items()]
        return [*floors, *merges, *others]

    def _merge(self, key: bytes, sealed: bytes) -> Call:
        floor = self._keys.tenant(self._tenant(key)).meta(MetaKey.FLOOR)
        ends_ms = unseal(sealed).expires_at_ms or 0
        return MERGE, (key, floor), (sealed, ends_ms, self._memory_us)

    def _tenant(self, key: bytes) -> str:
        parsed = self._keys.parse(key)
        assert parsed is not None, "a key that this layer did not build"
        return parsed.tenant

    def restored(self, calls: Sequence[Call], replies: Sequence[object]) -> None:
        """Take the answers; what was refused for now goes to the journal."""
        restored = refused = 0
        for call, reply in zip(calls, replies, strict=True):
            if isinstance(reply, CrewRedisError):
                refused += 1
                self._defer(call)
            elif isinstance(reply, list) and int(reply[0]) == 1:
                restored += 1
        told = self.statistics
        told.replays += 1
        told.restored += restored
        log.warning(
            "window.replayed",
            write_count=len(calls),
            restored_count=restored,
            refused_count=refused,
        )

    def _defer(self, call: Call) -> None:
        name, keys, args = call
        tenant = self._tenant(keys[0])
        try:
            if name == MERGE:
                register = Register.of(keys[0], tenant, bytes(args[0]))  # type: ignore[arg-type] # the sealed value
                register.is_uncertain = True
                self._journal.put(register)
            elif name == ADD:
                writer, sequence, amount, ttl_ms, made_us = args
                delta = Delta(
                    key=keys[0],
                    tenant_id=tenant,
                    writer=str(writer),
                    sequence=int(sequence),
                    amount=int(amount),
                    ttl_ms=int(ttl_ms),
                    made_us=int(made_us),
                    is_frozen=True,
                    frozen_us=int(made_us),
                )
                self._journal.add(delta)
        except FallbackFullError:
            self.statistics.not_restored += 1


def _size(what: bytes | Call) -> int:
    return OVERHEAD + (len(what) if isinstance(what, bytes) else 0)
