"""What a journal holds: a value, a sum, or a message, each waiting for Redis.

Three shapes, because three things can be done about a second one:

    Register   the newest write of a key; a later one takes its place
    Delta      what one writer adds to one counter, under a number of its own; later
               amounts join it until it is sent, then it is frozen
    Posting    a message or a job; each is kept, in order
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mcp_crew_redis._core.script_batches import Call
from mcp_crew_redis._wire.header import (
    HEADER_BYTES,
    MAX_EXPIRES_AT_MS,
    seal,
    seal_tombstone,
    unseal,
)
from mcp_crew_redis.store.journal.calls import (
    EVENT,
    EVENT_SCRIPTS,
    MARK_AT,
    TRANSACT,
    TRANSACTION,
    pack_call,
)

__all__ = [
    "OVERHEAD",
    "Delta",
    "Entry",
    "Posting",
    "Register",
    "entry_of",
    "posting_of",
]

OVERHEAD: Final = 256
"""Bytes that an entry is taken to cost besides its own: objects and table rows."""


@dataclass(slots=True, eq=False, kw_only=True)
class Register:
    """The newest write of one key.

    Attributes:
        key: Whose.
        tenant_id: The tenant's name, which the key carries too.
        sealed: Header and payload as they will stand; a tombstone for a delete.
        stamp: The header's place in the order of writes, in microseconds.
        expires_at_ms: When it is over by the server's clock, in milliseconds since
            1970.
        is_tombstone: Whether it is a delete.
        is_uncertain: It was sent and not answered, so it may stand in Redis already.
        is_wall_time: Its stamp is this machine's wall clock: the server's had not been
            measured yet.
        since_us: When its key began to wait, by the same clock as its stamp.
        trouble: Why it cannot be synchronised without a decision of its owner; empty
            while it can.
    """

    key: bytes
    tenant_id: str
    sealed: bytes
    stamp: int
    expires_at_ms: int
    is_tombstone: bool
    is_uncertain: bool = False
    is_wall_time: bool = False
    since_us: int = 0
    trouble: str = ""

    @classmethod
    def of(cls, key: bytes, tenant_id: str, sealed: bytes) -> Register:
        """Return the entry for bytes as they would stand in Redis."""
        header = unseal(sealed)
        return cls(
            key=key,
            tenant_id=tenant_id,
            sealed=sealed,
            stamp=header.stamp,
            expires_at_ms=header.expires_at_ms or 0,
            is_tombstone=header.is_tombstone,
            since_us=header.stamp,
        )

    @property
    def size(self) -> int:
        """Bytes that it counts in the journal."""
        return OVERHEAD + len(self.key) + len(self.sealed)

    @property
    def name(self) -> bytes:
        """The key by which it waits."""
        return self.key

    @property
    def made_us(self) -> int:
        """When it was written, in microseconds since 1970."""
        return self.stamp

    @property
    def payload(self) -> bytes:
        """The encoded value; empty for a tombstone."""
        return self.sealed[HEADER_BYTES:]

    def shift(self, step_us: int) -> None:
        """Move it in time; nobody may have seen its stamp."""
        self.stamp += step_us
        self.since_us += step_us
        expires_at_ms = self.expires_at_ms + step_us // 1_000
        self.expires_at_ms = min(expires_at_ms, MAX_EXPIRES_AT_MS)
        if self.is_tombstone:
            self.sealed = seal_tombstone(self.stamp, self.expires_at_ms)
        else:
            self.sealed = seal(
                *(self.stamp, self.payload, self.expires_at_ms),
                max_bytes=len(self.sealed),
            )


@dataclass(slots=True, eq=False, kw_only=True)
class Delta:
    """What one writer adds to one counter under one number.

    Attributes:
        key: The counter's.
        tenant_id: The tenant's name.
        writer: Who adds; the server remembers the last number of each.
        sequence: Its number: the server applies it once.
        amount: The sum; grows until it is frozen.
        ttl_ms: The time to live that the last amount asked for.
        made_us: When the first amount was added, in microseconds since 1970.
        is_frozen: It was sent, or is about to be: nothing may be added any more.
        frozen_us: When that was; 0 before.
        is_wall_time: As for a register, of `made_us`.
        trouble: As for a register.
    """

    key: bytes
    tenant_id: str
    writer: str
    sequence: int
    amount: int
    ttl_ms: int
    made_us: int
    is_frozen: bool = False
    frozen_us: int = 0
    is_wall_time: bool = False
    trouble: str = ""

    @property
    def size(self) -> int:
        """Bytes that it counts in the journal."""
        return OVERHEAD + len(self.key) + len(self.writer)

    @property
    def name(self) -> bytes:
        """The key by which it waits."""
        return self.key

    def shift(self, step_us: int) -> None:
        """Move it in time."""
        self.made_us += step_us


@dataclass(slots=True, eq=False, kw_only=True)
class Posting:
    """A message or a job that will be handed on, once, in order.

    Attributes:
        id: Its name, made here; whoever takes it remembers names.
        tenant_id: The tenant's name.
        kind: Which relay hands it on.
        order_key: Postings with the same one are handed on one after the other.
        body: What the relay makes of it.
        made_us: When it was accepted, in microseconds since 1970.
        is_wall_time: As for a register, of `made_us`.
        trouble: As for a register.
    """

    id: str
    tenant_id: str
    kind: str
    order_key: bytes
    body: bytes
    made_us: int
    is_wall_time: bool = False
    trouble: str = ""

    @property
    def size(self) -> int:
        """Bytes that it counts in the journal."""
        return OVERHEAD + len(self.id) + len(self.order_key) + len(self.body)

    @property
    def name(self) -> bytes:
        """The key by which it waits."""
        return self.order_key

    def shift(self, step_us: int) -> None:
        """Move it in time."""
        self.made_us += step_us


Entry = Register | Delta | Posting


def entry_of(call: Call, tenant_id: str) -> Register | Delta | Posting | None:
    """Return the entry for a script that was run already, and may have to run again.

    Args:
        call: `sync_merge`, `counter_add` or one that adds an event; None for any other.
        tenant_id: Whose key it is.
    """
    name, keys, args = call
    if name == "sync_merge" and isinstance(args[0], bytes):
        register = Register.of(keys[0], tenant_id, args[0])
        register.is_uncertain = True
        return register
    if name in EVENT_SCRIPTS:
        return posting_of(call, tenant_id, int(args[-1]))
    return _delta_of(call, tenant_id) if name == "counter_add" else None


def posting_of(call: Call, tenant_id: str, made_us: int) -> Posting:
    """Return the posting for a script that adds an event, of that time.

    Its first key is what it is in order with, its mark the name.
    """
    name, keys, _ = call
    is_transaction = name == TRANSACT
    return Posting(
        id=keys[MARK_AT[name]].decode(),
        tenant_id=tenant_id,
        kind=TRANSACTION if is_transaction else EVENT,
        order_key=keys[1] if is_transaction else keys[0],
        body=pack_call(call),
        made_us=made_us,
    )


def _delta_of(call: Call, tenant_id: str) -> Delta:
    _, keys, (writer, *numbers) = call
    sequence, amount, ttl_ms, made_us = (int(number) for number in numbers)
    return Delta(
        key=keys[0],
        tenant_id=tenant_id,
        writer=str(writer),
        sequence=sequence,
        amount=amount,
        ttl_ms=ttl_ms,
        made_us=made_us,
        is_frozen=True,
        frozen_us=made_us,
    )
