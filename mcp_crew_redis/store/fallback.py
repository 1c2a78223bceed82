"""The fallback: what an operation does when Redis does not answer.

A write goes to the journal under its stamp and counts as done, a read of what the
journal holds is answered from there. Everything else fails as it did without it:
nothing is made up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from mcp_crew_redis._wire.keys import TenantKeys
from mcp_crew_redis.errors import (
    FallbackFullError,
    OverloadedError,
    RefusedError,
    UnavailableError,
)
from mcp_crew_redis.store.counting import may_have_happened
from mcp_crew_redis.store.entry import Entry
from mcp_crew_redis.store.journal.entries import Posting, Register
from mcp_crew_redis.store.journal.journal import Journal
from mcp_crew_redis.store.stamps import StampSource
from mcp_crew_redis.store.window import ReplayWindow

__all__ = ["Fallback", "is_away"]

_ANSWERS: Final = frozenset({"OOM"})
"""Refusals that are an answer to this very write: waiting would not help it."""


def is_away(error: UnavailableError) -> bool:
    """Whether the journal may take a write that ended so.

    Not when a limit of ours was reached, nor when Redis has no memory left: then the
    caller has to know, for going on would only make it worse.
    """
    if isinstance(error, RefusedError):
        return error.code not in _ANSWERS
    return not isinstance(error, (OverloadedError, FallbackFullError))


class Fallback:
    """Writes into the journal and reads from it.

    Args:
        journal: What waits for Redis.
        stamps: The order of writes.
        window: Remembers what Redis has acknowledged.

    Attributes:
        journal: What waits for Redis.
        dirty: The pending write of each key; a table of the journal's.
        is_closing: The crew is at its end.
        replaced: Takes a key and a stamp that stands in Redis now: an older write that
            waits under that key need not wait any more.
        brought: Takes key and bytes of what was written some time ago and is
            acknowledged only now.
        landed: Takes key, stamp and bytes of an ordered write that Redis has
            acknowledged: it is remembered, and an older one need not wait any more.
    """

    __slots__ = (
        "_newest",
        "_stamps",
        "brought",
        "dirty",
        "is_closing",
        "journal",
        "landed",
        "replaced",
    )

    def __init__(
        self, journal: Journal, stamps: StampSource, window: ReplayWindow
    ) -> None:
        self.journal = journal
        self.dirty = journal.registers
        self.is_closing = False
        self.replaced = journal.replaced
        self.landed = window.landed
        self.brought = window.brought
        self._newest = window.newest
        self._stamps = stamps

    # --- writing ----------------------------------------------------------------------

    async def keep(
        self,
        keys: TenantKeys,
        values: Sequence[tuple[bytes, bytes]],
        error: UnavailableError,
        *,
        are_deletes: bool = False,
    ) -> None:
        """Accept writes that Redis did not take, all or none.

        Returns when they are as safe as REDIS_CREW_JOURNAL_FSYNC asks for; cancelled
        before, they stay accepted.

        Args:
            keys: The tenant's.
            values: Keys, and what is to stand under them.
            error: What became of the attempt to send them.
            are_deletes: They need no memory to speak of: kept although Redis has none.

        Raises:
            FallbackFullError: The journal is full.
            UnavailableError: `error`, if it is not for the journal.
        """
        is_refused_delete = are_deletes and isinstance(error, RefusedError)
        if not is_refused_delete and not self.takes(error):
            raise error
        is_uncertain = may_have_happened(error)
        registers: list[Register] = []
        for key, data in values:
            register = Register.of(key, keys.tenant_id, data)
            register.is_uncertain = is_uncertain
            register.is_wall_time = not self._stamps.is_ready
            if self._finds_its_place(register):
                registers.append(register)
        try:
            self.journal.put(*registers)
        except FallbackFullError as full:
            if is_uncertain:
                raise error from full  # it may stand in Redis, which is more to know
            raise
        await self.committed()

    def takes(self, error: UnavailableError) -> bool:
        """Whether the journal may take a write that ended so: see `is_away`.

        Not at the end of its crew, when nobody would be left to synchronise it.
        """
        is_kept = not self.is_closing or self.journal.keeper.is_durable
        return is_kept and is_away(error)

    def _finds_its_place(self, register: Register) -> bool:
        """Whether a write is newer than all that is known of its key.

        Where what is known is beyond this clock (a stamp far ahead, or one by the
        server's clock before this process has measured it) the write comes after it:
        its caller is here.
        """
        held = self.dirty.get(register.key)
        known = max(held.stamp if held is not None else 0, self._newest(register.key))
        if known < register.stamp:
            return True
        if known <= self._stamps.hybrid.last:
            return False
        register.shift(known + 1 - register.stamp)
        if held is not None and held.stamp == known:
            register.is_wall_time = held.is_wall_time
        return True

    def doubt(self, keys: Iterable[bytes]) -> None:
        """Take note that a later write of each key may stand: its caller has gone."""
        for key in keys if self.dirty else ():
            if (held := self.dirty.get(key)) is not None:
                self.journal.doubt(held)

    async def committed(self) -> None:
        """Return when all accepted writes are as safe as was asked for."""
        keeper = self.journal.keeper
        if keeper.is_durable:
            await keeper.committed()

    def stamp(self) -> int:
        """Return a stamp; by this machine's clock until the server's is known."""
        stamps = self._stamps
        return stamps.stamp() if stamps.is_ready else stamps.hybrid.stamp()

    async def post(self, posting: Posting) -> None:
        """Accept a message or a job for a relay; returns and is cancelled as `keep`.

        Raises:
            FallbackFullError: The journal is full.
        """
        posting.is_wall_time = not self._stamps.is_ready
        self.journal.post(posting)
        await self.committed()

    # --- reading ----------------------------------------------------------------------

    def live(self, register: Register) -> bool:
        """Whether a pending write is a value that is not over yet."""
        if register.is_tombstone:
            return False
        return register.expires_at_ms * 1_000 > self._stamps.hybrid.now_us()

    def data(self, register: Register) -> bytes | None:
        """Return the bytes of a pending value; None for none."""
        return register.sealed if self.live(register) else None

    def seconds_left(self, register: Register) -> float | None:
        """Return how long a pending value still lives; None for none."""
        if not self.live(register):
            return None
        return register.expires_at_ms / 1e3 - self._stamps.hybrid.now_us() / 1e6

    def entry(self, register: Register, value: object) -> Entry[object]:
        """Return what is known of a pending value."""
        age_us = self._stamps.hybrid.now_us() - register.stamp
        return Entry(
            value=value,
            source="journal",
            age=max(0, age_us) / 1e6,
            is_stale=True,
            stamp=register.stamp,
            expires_at=register.expires_at_ms / 1e3,
        )
