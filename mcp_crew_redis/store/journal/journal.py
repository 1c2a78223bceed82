"""The journal: what was accepted and does not stand in Redis yet. Bounded, no await.

put, add, post ---> tables in memory ---> keeper (files, if a folder is set)
                         |
batch() <---- fair over tenants ---- remove() once it stands in Redis
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from mcp_crew_redis.errors import FallbackFullError
from mcp_crew_redis.store.journal.entries import Delta, Entry, Posting, Register
from mcp_crew_redis.store.journal.keeping import InMemory, Keeper
from mcp_crew_redis.store.journal.schedule import Schedule
from mcp_crew_redis.store.journal.tables import Tables
from mcp_crew_redis.store.tally import INT64_MAX, INT64_MIN

__all__ = ["MAX_BYTES", "MAX_ENTRIES", "Journal"]

MAX_BYTES: Final = 64 * 1024 * 1024
MAX_ENTRIES: Final = 100_000


def _nobody() -> None:
    """Nobody waits for entries."""


class Journal(Tables):
    """Pending entries by key, in memory, and told to a keeper.

    Belongs to no event loop: what one loop left is synchronised by the next.

    Args:
        max_bytes: Limit of all entries together.
        max_entries: Likewise.
        keeper: Keeps them beyond the process.

    Attributes:
        keeper: Who keeps them beyond the process.
        on_entry: Called when an entry has been accepted.
        size: Bytes of all entries.
        depth: Number of entries.
        accepted: Writes accepted since the beginning.
    """

    def __init__(
        self,
        *,
        max_bytes: int = MAX_BYTES,
        max_entries: int = MAX_ENTRIES,
        keeper: Keeper | None = None,
    ) -> None:
        super().__init__()
        self.keeper: Keeper = keeper or InMemory()
        self.on_entry: Callable[[], None] = _nobody
        self.size = self.depth = self.accepted = 0
        self._troubled = 0
        self._max_bytes, self._max_entries = max_bytes, max_entries
        self._waiting = Schedule()

    def __len__(self) -> int:
        return self.depth

    def __repr__(self) -> str:
        return f"<Journal {self.depth} entries, {self.size} bytes>"

    # --- acceptance -------------------------------------------------------------------

    def put(self, *registers: Register) -> None:
        """Accept writes, each in the place of an older one of its key.

        One that is older than what waits already counts as accepted and replaced.

        Raises:
            FallbackFullError: They do not fit, all together; nothing was accepted.
        """
        newer = [one for one in registers if not self.knows(one)]
        self.accepted += len(registers) - len(newer)
        held = [self.registers.get(register.key) for register in newer]
        grown = sum(register.size for register in newer)
        grown -= sum(old.size for old in held if old is not None)
        self._admit(grown, held.count(None))
        for register, old in zip(newer, held, strict=True):
            if old is not None:
                register.since_us = old.since_us
                self._troubled -= bool(old.trouble)
            self.registers[register.key] = register
            self._accepted(register)
        self.on_entry()

    def add(self, delta: Delta) -> None:
        """Accept an amount; it joins the writer's open delta of that counter, if any.

        One that was sent already is kept apart, under its number, and in the order of
        its writer's numbers: the server takes a lower one after a higher for repeated.

        Raises:
            FallbackFullError: It does not fit; nothing was accepted.
        """
        held = self.open_delta(delta.key, delta.writer)
        total = delta.amount + (held.amount if held else 0)
        may_join = held is not None and not delta.is_frozen
        if held is not None and may_join and INT64_MIN <= total <= INT64_MAX:
            held.amount, held.ttl_ms = total, delta.ttl_ms
            self._accepted(held)
        else:
            self._admit(delta.size, 1)
            self.enqueue(delta)
            self._accepted(delta)
        self.on_entry()

    def post(self, posting: Posting) -> None:
        """Accept a message.

        Raises:
            FallbackFullError: It does not fit; nothing was accepted.
        """
        self._admit(posting.size, 1)
        self.postings.setdefault(posting.order_key, deque()).append(posting)
        self._accepted(posting)
        self.on_entry()

    def adopt(self, entry: Entry) -> bool:
        """Accept what another process left; False if it does not fit."""
        if self.knows(entry):
            return True
        try:
            if isinstance(entry, Register):
                self.put(entry)
            elif isinstance(entry, Delta):
                self.add(entry)  # its writer is gone: nothing joins it
            else:
                self.post(entry)
        except FallbackFullError:
            return False
        return True

    def _admit(self, size: int, count: int) -> None:
        if self.size + size > self._max_bytes and size > 0:
            limit = f"{self._max_bytes} bytes"
        elif self.depth + count > self._max_entries and count > 0:
            limit = f"{self._max_entries} entries"
        else:
            self.size += size
            self.depth += count
            return
        raise FallbackFullError(
            f"Redis is away and the local journal is full ({limit}): nothing was "
            "accepted; try again when Redis is back"
        )

    def _accepted(self, entry: Entry) -> None:
        self.accepted += 1
        if entry.trouble:
            self._troubled += 1  # adopted so
        else:
            self._waiting.add(entry.tenant_id, entry.name)
        self.keeper.put(entry)

    # --- what waits -------------------------------------------------------------------

    def freeze(self, delta: Delta, now_us: int) -> None:
        """Let nothing more be added to a delta: it is about to be sent."""
        if not delta.is_frozen:
            delta.is_frozen, delta.frozen_us = True, now_us
            self.keeper.put(delta)  # or another process would number it anew

    def batch(self, count: int, size: int) -> list[Entry]:
        """Take the next entries for Redis, at most one of each key.

        Each must be given back, by `remove` or by `again`.

        Args:
            count: At most that many, at least one if any waits.
            size: Stop when they have that many bytes.
        """
        taken: list[Entry] = []
        total = 0
        for _, key in self._waiting.take():
            entry = self.first(key)
            if entry is not None:
                taken.append(entry)
                total += entry.size
            if len(taken) >= count or total >= size:
                break
        return taken

    def again(self, entry: Entry) -> None:
        """Give an entry back that was not synchronised, or is in trouble."""
        if self.holds(entry):
            self._waiting.add(entry.tenant_id, entry.name)

    def trouble(self, entry: Entry, reason: str) -> None:
        """Have an entry wait for a decision of its owner."""
        if self.holds(entry) and not entry.trouble:
            entry.trouble = reason
            self._troubled += 1
            self.keeper.put(entry)
            if self.first(entry.name) is not None:  # what stands behind it may go on
                self._waiting.add(entry.tenant_id, entry.name)

    def doubt(self, register: Register) -> None:
        """Take note that an entry may stand in Redis although nothing was heard."""
        if self.holds(register) and not register.is_uncertain:
            register.is_uncertain = True
            self.keeper.put(register)

    def resume(self, entry: Entry) -> bool:
        """Have an entry in trouble tried again; False if it is held no more."""
        if not entry.trouble or not self.holds(entry):
            return False
        entry.trouble = ""
        self._troubled -= 1
        self._waiting.add(entry.tenant_id, entry.name)
        self.keeper.put(entry)
        return True

    @property
    def has_work(self) -> bool:
        """Whether `batch` would return any; entries in trouble do not count."""
        return bool(self._waiting)

    # --- the end of entries -----------------------------------------------------------

    def remove(self, entry: Entry) -> bool:
        """Drop an entry; False if a later write has taken its place."""
        if not self.holds(entry):
            if self.first(entry.name) is not None:
                self._waiting.add(entry.tenant_id, entry.name)
            return False
        self._drop(entry)
        return True

    def _drop(self, entry: Entry) -> None:
        name = entry.name
        self.take_out(entry)
        self.size -= entry.size
        self.depth -= 1
        self._troubled -= bool(entry.trouble)
        if self.first(name) is None:
            self._waiting.discard(entry.tenant_id, name)
        else:
            self._waiting.add(entry.tenant_id, name)
        self.keeper.drop(entry)

    def replaced(self, key: bytes, stamp: int) -> None:
        """Drop a pending write of a key: a newer one of ours stands in Redis."""
        register = self.registers.get(key)
        if register is not None and register.stamp <= stamp:
            self._drop(register)

    def forget(self, tenant_id: str, floor: int) -> int:
        """Drop all of a tenant that is not newer than its floor; return how many."""
        doomed = [
            entry
            for entry in self.live()
            if entry.tenant_id == tenant_id and entry.made_us <= floor
        ]
        for entry in doomed:
            self._drop(entry)
        return len(doomed)

    # --- all of them ------------------------------------------------------------------

    @property
    def share_used(self) -> float:
        """How full it is, from 0 to 1, by entries or by bytes."""
        return max(self.depth / self._max_entries, self.size / self._max_bytes)

    @property
    def unresolved(self) -> int:
        """How many entries wait for a decision; bounded work."""
        return self._troubled

    def shift(self, step_us: int) -> None:
        """Move what was stamped by the wall clock, now that the server's is known.

        None of it has been sent, so nobody has seen the stamps that it had.
        """
        for entry in list(self.live()):
            if entry.is_wall_time:
                entry.is_wall_time = False
                entry.shift(step_us)
                self.keeper.put(entry)
