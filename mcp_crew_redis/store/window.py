"""The replay window: what Redis has acknowledged and may still lose.

A server that dies loses what its log had not brought to the disk (up to a second with
`appendfsync everysec`), a failover what the replica had not received. Living processes
still know what they wrote: they put it back before anything else is sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from mcp_crew_redis._core.script_batches import Call
from mcp_crew_redis._wire.header import unseal
from mcp_crew_redis._wire.keys import KeySpace, MetaKey
from mcp_crew_redis.clock import Clock
from mcp_crew_redis.errors import CrewRedisError, UnavailableError
from mcp_crew_redis.log import get_logger
from mcp_crew_redis.store.journal.entries import OVERHEAD, entry_of
from mcp_crew_redis.store.journal.journal import Journal
from mcp_crew_redis.store.stamps import StampSource

__all__ = ["MAX_WINDOW_BYTES", "ReplayWindow", "WindowStatistics"]

log = get_logger(__name__)

MAX_WINDOW_BYTES: Final = 16 * 1024 * 1024
LARGE: Final = 4_096
"""Bytes of a value after which the window is measured at once."""
STRIDE: Final = 256
"""Other writes between two measurements."""
SEARCH: Final = 1_000
LAG_US: Final = 2_000_000
"""Microseconds that an answer may come after its write was stamped."""
FLOOR: Final = "floor_raise"
ADD: Final = "counter_add"
MERGE: Final = "sync_merge"
APPLIED, FOUND = 1, 2
"""Outcomes of both: done now, or found done."""

Ack = tuple[int, bytes, bytes | Call]


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


def _ignore(_tenant_id: str, _floor: int) -> None:
    """Nobody purges again."""


class ReplayWindow:
    """The last acknowledged writes, bounded by time and by bytes.

    Args:
        clock: Local time, as connections have it.
        stamps: The order of writes; a write's stamp is its time here.
        keys: Says whose a key is.
        journal: Takes what a new server refuses for now.
        seconds: How far it reaches back; 0 for no window.
        memory_us: How long deletes are remembered, in microseconds.
        max_bytes: Limit of keys and values together.

    Attributes:
        acks: What was acknowledged, oldest first: when, by the server's clock (of what
            was written at once, its stamp), its key, and a value's bytes or a script's
            arguments.
        is_open: Whether anything is remembered at all.
        statistics: What became of it.
        on_floor: Called with a tenant and its floor when a new server had lost that a
            purge raised it: what was purged may stand again.
    """

    def __init__(
        self,
        clock: Clock,
        stamps: StampSource,
        keys: KeySpace,
        journal: Journal,
        *,
        seconds: float,
        memory_us: int,
        max_bytes: int = MAX_WINDOW_BYTES,
    ) -> None:
        self.acks: deque[Ack] = deque()
        self.is_open = seconds > 0
        self.statistics = WindowStatistics()
        self.on_floor: Callable[[str, int], None] = _ignore
        self._monotonic, self._now_us = clock.monotonic, stamps.hybrid.now_us
        self._keys = keys
        self._journal = journal
        self._reach_us = round(seconds * 1e6) + LAG_US
        self._memory_us = memory_us
        self._max_bytes = max_bytes
        self._size = self._measured = 0  # bytes of so many of the oldest acks
        # Counters deleted and tenants purged: what was acknowledged before is void.
        self._void: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self.acks)

    def __repr__(self) -> str:
        return f"<ReplayWindow {self._reach_us - LAG_US} us, {len(self)} writes>"

    @property
    def size(self) -> int:
        """Bytes remembered."""
        self.prune()
        return self._size

    # --- remembering ------------------------------------------------------------------

    def note(self, key: bytes, at: int, what: bytes | Call) -> None:
        """Remember an acknowledged write: a value's bytes, or a repeatable script."""
        if self.is_open:
            self.acks.append((at, key, what))
            if len(self.acks) % STRIDE == 0 or len(what) > LARGE:
                self.prune()

    def note_floor(self, tenant_id: str, floor: int) -> None:
        """Remember a purge, and forget what it has purged."""
        key = self._keys.tenant(tenant_id).meta(MetaKey.FLOOR)
        self._forget(key, floor)
        self.note(key, floor, (FLOOR, (key,), (floor,)))

    def forget_counter(self, key: bytes) -> None:
        """Forget a counter that was deleted: it must not come back."""
        self._forget(key, self._now_us())

    def _forget(self, key: bytes, until: int) -> None:
        if self.is_open:
            self._void.pop(key, None)  # to the end: the oldest is the first
            self._void[key] = until
            if len(self._void) % STRIDE == 0:
                self._forget_void(self._now_us() - self._reach_us)

    @property
    def is_empty(self) -> bool:
        """Whether a new server would be sent nothing."""
        return not self.acks

    def has_newer(self, key: bytes, stamp: int) -> bool:
        """Whether a later write of a key has been acknowledged just now.

        Answers come nearly in the order of stamps: many older ones end the search.
        """
        older = 0
        for at, name, what in reversed(self.acks):
            if name == key and isinstance(what, bytes):
                return unseal(what).stamp > stamp
            if at > stamp:
                continue
            if (older := older + 1) > SEARCH:
                break
        return False

    def prune(self) -> None:
        """Let go what is older than the window reaches, or too much for it."""
        if self.acks:
            # Not by now alone: long after a crash all of it is still of use. Not by
            # the last one alone: its stamp may be far ahead.
            newest = min(self.acks[-1][0], self._now_us())
            self._prune(newest - self._reach_us)

    def _prune(self, since_us: int) -> None:
        acks = self.acks
        for _, _, what in islice(reversed(acks), len(acks) - self._measured):
            self._size += _size(what)
        while acks and (acks[0][0] < since_us or self._size > self._max_bytes):
            at, _, what = acks.popleft()
            self._size -= _size(what)
            self.statistics.overflowed += at >= since_us
        self._measured = len(acks)
        self._forget_void(since_us)

    def _forget_void(self, since_us: int) -> None:
        while self._void:
            key = next(iter(self._void))
            if self._void[key] >= since_us:
                break
            del self._void[key]

    # --- putting back -----------------------------------------------------------------

    def calls(self, since: float) -> list[Call]:
        """Return what to run on a server that is another one than before.

        Args:
            since: Monotonic seconds at which the old one was last known to live: what
                it had acknowledged longer ago than the window reaches is safe.
        """
        ago_us = round((self._monotonic() - since) * 1e6)
        self._prune(self._now_us() - ago_us - self._reach_us)
        values: dict[bytes, bytes] = {}
        floors: list[Call] = []
        others: list[Call] = []
        for stamp, key, what in self.acks:
            if not isinstance(what, bytes):
                if what[0] == FLOOR:
                    floors.append(what)
                elif stamp > self._void_until(key):
                    others.append(what)
            elif (written := unseal(what).stamp) > self._void_until(key):
                held = values.get(key)
                if held is None or unseal(held).stamp < written:
                    values[key] = what
        merges = [self._merge(key, sealed) for key, sealed in values.items()]
        return [*floors, *merges, *others]

    def _void_until(self, key: bytes) -> int:
        if not self._void:
            return 0
        floor = self._keys.tenant(self._tenant(key)).meta(MetaKey.FLOOR)
        return max(self._void.get(key, 0), self._void.get(floor, 0))

    def _merge(self, key: bytes, sealed: bytes) -> Call:
        floor = self._keys.tenant(self._tenant(key)).meta(MetaKey.FLOOR)
        ends_ms = unseal(sealed).expires_at_ms or 0
        return MERGE, (key, floor), (sealed, ends_ms, self._memory_us)

    def _tenant(self, key: bytes) -> str:
        parsed = self._keys.parse(key)
        assert parsed is not None, "a key that this layer did not build"
        return parsed.tenant

    def restored(self, calls: Sequence[Call], replies: Sequence[object]) -> bool:
        """Take the answers; what was refused for now goes to the journal.

        Returns:
            Whether the server may be used: not while it does not take a floor.
        """
        restored = refused = 0
        is_usable = True
        for call, reply in zip(calls, replies, strict=True):
            if isinstance(reply, CrewRedisError):
                refused += 1
                is_refused_floor = call[0] == FLOOR
                if is_refused_floor and isinstance(reply, UnavailableError):
                    is_usable = False
                else:
                    self._defer(call)
            elif call[0] == FLOOR:
                self._note_again(call)
                self.on_floor(self._tenant(call[1][0]), int(call[2][0]))
            elif isinstance(reply, list) and int(reply[0]) in (APPLIED, FOUND):
                # Found: by a replay that was interrupted, it may be as young.
                restored += int(reply[0]) == APPLIED
                self._note_again(call)
        self.statistics.replays += 1
        self.statistics.restored += restored
        log.warning(
            "window.replayed",
            write_count=len(calls),
            restored_count=restored,
            refused_count=refused,
        )
        return is_usable

    def _note_again(self, call: Call) -> None:
        """Remember anew what this server has only now: it may die too."""
        name, keys, args = call
        what = bytes(args[0]) if name == MERGE else call  # type: ignore[arg-type] # the sealed value
        self.note(keys[0], self._now_us(), what)

    def _defer(self, call: Call) -> None:
        entry = entry_of(call, self._tenant(call[1][0]))
        if entry is not None and not self._journal.adopt(entry):
            self.statistics.not_restored += 1


def _size(what: bytes | Call) -> int:
    return OVERHEAD + (len(what) if isinstance(what, bytes) else 0)
