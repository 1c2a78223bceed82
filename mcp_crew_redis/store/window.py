"""The replay window: what Redis has acknowledged and may still lose.

A server that dies loses what its log had not brought to the disk (up to a second with
`appendfsync everysec`), a failover what the replica had not received. Living processes
still know what they wrote: they put it back before anything else is sent.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from mcp_crew_redis._core.script_batches import Call
from mcp_crew_redis._wire.header import unseal
from mcp_crew_redis._wire.keys import KeySpace, MetaKey
from mcp_crew_redis.clock import Clock
from mcp_crew_redis.errors import CrewRedisError, UnavailableError
from mcp_crew_redis.log import get_logger
from mcp_crew_redis.store import window_names as names
from mcp_crew_redis.store.conflicts import WindowStatistics
from mcp_crew_redis.store.event_acks import EventAcks
from mcp_crew_redis.store.journal.calls import EVENT_SCRIPTS, SCHEDULE
from mcp_crew_redis.store.journal.entries import OVERHEAD, entry_of
from mcp_crew_redis.store.journal.journal import Journal
from mcp_crew_redis.store.stamps import StampSource

__all__ = ["MAX_WINDOW_BYTES", "ReplayWindow"]

log = get_logger(__name__)

MAX_WINDOW_BYTES: Final = 16 * 1024 * 1024
STRIDE: Final = 256  # one write of so many looks whether others are too old
LAG_US: Final = 2_000_000
"""Microseconds that an answer may come after its write was stamped."""


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
        landed: Takes key, stamp and bytes of what Redis has acknowledged; what is older
            need not wait in the journal any more. A closure: it is a hot path.
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
        # By key, what was acknowledged longest ago first: when, by the server's clock
        # (of what was written at once, its stamp), its stamp, and its bytes.
        self._values: OrderedDict[bytes, names.Value] = OrderedDict()
        # By counter, writer and number, or by floor: when, the key, and the script.
        self._scripts: OrderedDict[names.Name, tuple[int, bytes, Call]] = OrderedDict()
        self._events = EventAcks()
        self._size = [0]  # bytes of both; a list, for `landed` to change
        self.is_open = seconds > 0
        self.statistics = WindowStatistics()
        self.on_floor: Callable[[str, int], None] = lambda _tenant, _floor: None
        self._monotonic, self._now_us = clock.monotonic, stamps.hybrid.now_us
        self._keys = keys
        self._journal = journal
        self._reach_us = round(seconds * 1e6) + LAG_US
        self._memory_us = memory_us
        self._max_bytes = max_bytes
        self._void: dict[bytes, int] = {}  # until when acks of a counter or tenant are
        self.landed = self._make_landed()

    def __repr__(self) -> str:
        counts = f"{len(self._values)} values, {len(self._scripts)} scripts"
        return f"<ReplayWindow {counts}, {len(self._events)} events>"

    @property
    def size(self) -> int:
        """Bytes remembered."""
        return self._size[0] + self._events.size

    # --- remembering ------------------------------------------------------------------

    def _make_landed(self) -> Callable[[bytes, int, bytes], None]:
        values, size, limit = self._values, self._size, self._max_bytes
        get, to_end, prune = values.get, values.move_to_end, self.prune
        dirty, replaced = self._journal.registers, self._journal.replaced
        if not self.is_open:
            return lambda key, stamp, _: replaced(key, stamp) if dirty else None

        def landed(key: bytes, stamp: int, sealed: bytes) -> None:
            old = get(key)
            if old is None:
                size[0] += len(sealed) + OVERHEAD
            elif old[1] <= stamp:
                size[0] += len(sealed) - len(old[2])
                to_end(key)
            else:
                return  # answers of two connections: the later write is known already
            values[key] = stamp, stamp, sealed
            if dirty:
                replaced(key, stamp)
            if size[0] > limit or not stamp % STRIDE:
                prune()

        return landed

    def brought(self, key: bytes, sealed: bytes) -> None:
        """Remember what was written some time ago and acknowledged only now."""
        stamp = unseal(sealed).stamp
        if self.is_open and self.newest(key) <= stamp:
            self.landed(key, stamp, sealed)
            if key in self._values:  # unless it is too large for the window
                self._values[key] = self._now_us(), stamp, sealed

    def note(self, key: bytes, at: int, call: Call) -> None:
        """Remember an acknowledged script whose repetition is harmless."""
        if self.is_open and call[0] in EVENT_SCRIPTS:
            if self._events.note(at, key, call):
                self.prune()
        elif self.is_open:
            name = names.name_of(key, call)
            if name in self._scripts:
                self._scripts.move_to_end(name)
            else:
                self._size[0] += OVERHEAD
            self._scripts[name] = at, key, call
            if len(self._scripts) % STRIDE == 0:
                self.prune()

    def note_floor(self, tenant_id: str, floor: int) -> None:
        """Remember a purge, and forget what it has purged."""
        key = self._keys.tenant(tenant_id).meta(MetaKey.FLOOR)
        self._forget(key, floor)
        self.note(key, floor, (names.FLOOR, (key,), (floor,)))

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
        return not (self._values or self._scripts or self._events)

    def newest(self, key: bytes) -> int:
        """Return the stamp of a key's last acknowledged write; 0 if none is known."""
        held = self._values.get(key)
        return 0 if held is None else held[1]

    def prune(self) -> None:
        """Let go what is older than the window reaches, or too much for it."""
        # Not by now alone: long after a crash all of it is still of use. Not by the
        # last one alone: its stamp may be far ahead.
        newest = (
            names.last_of(self._scripts),
            names.last_of(self._values),
            self._events.last_us,
        )
        self._prune(min(max(newest), self._now_us()) - self._reach_us)

    def _prune(self, since_us: int) -> None:
        size, values, scripts = self._size, self._values, self._scripts
        while values:
            key = next(iter(values))
            at, _, sealed = values[key]
            if at >= since_us and size[0] <= self._max_bytes:
                break
            del values[key]
            size[0] -= len(sealed) + OVERHEAD
            self.statistics.overflowed += at >= since_us
        while scripts:  # small, and nobody else can put them back
            name = next(iter(scripts))
            at = scripts[name][0]
            if at >= since_us and size[0] <= self._max_bytes:
                break
            del scripts[name]
            size[0] -= OVERHEAD
            self.statistics.overflowed += at >= since_us
        self.statistics.overflowed += self._events.prune(since_us)
        self._forget_void(since_us)

    def _forget_void(self, since_us: int) -> None:
        void = self._void
        while void and void[oldest := next(iter(void))] < since_us:
            del void[oldest]

    # --- putting back -----------------------------------------------------------------

    def calls(self, since: float) -> list[Call]:
        """Return what to run on a server that is another one than before.

        Args:
            since: Monotonic seconds at which the old one was last known to live: what
                it had acknowledged longer ago than the window reaches is safe.
        """
        ago_us = round((self._monotonic() - since) * 1e6)
        self._prune(self._now_us() - ago_us - self._reach_us)
        scripts = self._scripts.values()
        floors = [call for _, _, call in scripts if call[0] == names.FLOOR]
        others = [
            call
            for at, key, call in scripts
            if call[0] != names.FLOOR and at > self._void_until(key)
        ]
        # A lower number of a writer that comes after a higher one is not added.
        others.sort(key=lambda call: (call[1][0], str(call[2][0]), int(call[2][1])))
        merges = [
            self._merge(key, sealed)
            for key, (_, stamp, sealed) in self._values.items()
            if stamp > self._void_until(key)
        ]
        return [*floors, *merges, *others, *self._events.calls(self._void_until)]

    def _void_until(self, key: bytes) -> int:
        if not self._void:
            return 0
        floor = self._keys.tenant(self._tenant(key)).meta(MetaKey.FLOOR)
        return max(self._void.get(key, 0), self._void.get(floor, 0))

    def _merge(self, key: bytes, sealed: bytes) -> Call:
        floor = self._keys.tenant(self._tenant(key)).meta(MetaKey.FLOOR)
        ends_ms = unseal(sealed).expires_at_ms or 0
        return names.MERGE, (key, floor), (sealed, ends_ms, self._memory_us)

    def _tenant(self, key: bytes) -> str:
        parsed = self._keys.parse(key)
        assert parsed is not None, "a key that this layer did not build"
        return parsed.tenant

    def restored(self, calls: Sequence[Call], replies: Sequence[object]) -> bool:
        """Take the answers; what was refused for now goes to the journal.

        Returns:
            Whether the server may be used: not while it does not take a floor.
        """
        restored, refused, is_usable = 0, 0, True
        for call, reply in zip(calls, replies, strict=True):
            if isinstance(reply, CrewRedisError):
                refused += 1
                is_floor = call[0] == names.FLOOR
                is_usable &= not (is_floor and isinstance(reply, UnavailableError))
                self._defer(call)
            elif call[0] == names.FLOOR:
                self._note_again(call)
                self.on_floor(self._tenant(call[1][0]), int(call[2][0]))
            elif isinstance(reply, list) and int(reply[0]) in names.YOUNG:
                restored += int(reply[0]) == names.APPLIED
                self._note_again(call)
            elif call[0] == SCHEDULE and isinstance(reply, list) and int(reply[0]):
                self._defer(call)  # as many wait already as may
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
        if name == names.MERGE and isinstance(args[0], bytes):
            self.brought(keys[0], args[0])
        elif name in EVENT_SCRIPTS:
            self._events.renew(self._now_us(), keys[0], call)
        elif name != names.MERGE:
            self.note(keys[0], self._now_us(), call)

    def _defer(self, call: Call) -> None:
        entry = entry_of(call, self._tenant(call[1][0]))
        if entry is not None and not self._journal.adopt(entry):
            self.statistics.not_restored += 1
