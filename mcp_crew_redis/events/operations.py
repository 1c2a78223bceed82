"""What one transaction is to do: collected, kept in a journal, made a script's call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from mcp_crew_redis._core.port import Call
from mcp_crew_redis._core.scripts import Argument
from mcp_crew_redis._wire.codec import MsgpackCodec
from mcp_crew_redis._wire.header import MAX_EXPIRES_AT_MS, seal, seal_tombstone
from mcp_crew_redis._wire.keys import MetaKey, TenantKeys
from mcp_crew_redis._wire.streams import book_key, scheduled_bodies_key, scheduled_key
from mcp_crew_redis.errors import CodecError, DataError, ValueTooLargeError
from mcp_crew_redis.events.calls import MAX_SCHEDULED
from mcp_crew_redis.store.tally import INT64_MAX, INT64_MIN

__all__ = ["MAX_BYTES", "MAX_OPERATIONS", "SCRIPT", "Batch", "Message", "Sum", "Write"]

MAX_OPERATIONS: Final = 1_000
MAX_BYTES: Final = 8 * 1024 * 1024
"""Limit of all keys, values and events of one transaction together."""
SCRIPT: Final = "transact"
_FORMAT: Final = 1
_CODEC: Final = MsgpackCodec(max_bytes=4 * MAX_BYTES)


class Write(NamedTuple):
    """What is to become of one value.

    Attributes:
        kind: S for a synchronised value, T for its tombstone, P for a value without
            order, U for its end.
        payload: The encoded value; empty for T and U.
        lives_ms: Its time to live; of U 0.
        if_stamp: What must stand there; None for anything, 0 for nothing.
    """

    kind: str
    payload: bytes
    lives_ms: int
    if_stamp: int | None = None

    def bytes_at(self, stamp: int) -> bytes:
        """Return what is to stand in Redis."""
        ends_ms = min(stamp // 1_000 + self.lives_ms, MAX_EXPIRES_AT_MS)
        if self.kind == "T":
            return seal_tombstone(stamp, ends_ms)
        if self.kind == "U":
            return b""
        size = len(self.payload) + 64  # the limit was looked at before
        return seal(stamp, self.payload, ends_ms, max_bytes=size)


class Sum(NamedTuple):
    """What is to be added to one counter."""

    identifier: str
    amount: int
    lives_ms: int


class Message(NamedTuple):
    """One event.

    Attributes:
        stream: The key of its stream.
        event_type: Its type.
        event_id: Its name.
        mark: The key that remembers its name; empty unless it is idempotent.
        delay_ms: How long it waits, in milliseconds; 0 for now.
        head: The envelope, packed.
        body: The payload, encoded.
    """

    stream: bytes
    event_type: str
    event_id: str
    mark: bytes
    delay_ms: int
    head: bytes
    body: bytes


@dataclass(slots=True, eq=False)
class Batch:
    """The operations of one transaction. Bounded; nothing is awaited.

    Attributes:
        id: The transaction's name.
        keys: The tenant's.
        writes: By key; a later write takes the place of an earlier one.
        sums: By key; amounts for one counter are added up.
        messages: In order.
        size: Bytes of all of them.
    """

    id: str
    keys: TenantKeys
    writes: dict[bytes, Write] = field(default_factory=dict)
    sums: dict[bytes, Sum] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    size: int = 0

    def __len__(self) -> int:
        return len(self.writes) + len(self.sums) + len(self.messages)

    @property
    def is_conditional(self) -> bool:
        """Whether it applies only if something stands as it was read."""
        return any(write.if_stamp is not None for write in self.writes.values())

    @property
    def mark(self) -> bytes:
        """The key that remembers that it was applied."""
        return book_key(self.keys, "transaction", self.id)

    @property
    def floor(self) -> bytes:
        """The key of the tenant's floor; also what its transactions wait under."""
        return self.keys.meta(MetaKey.FLOOR)

    @property
    def event_types(self) -> frozenset[str]:
        """The types of its events."""
        return frozenset(message.event_type for message in self.messages)

    # --- collecting -------------------------------------------------------------------

    def write(self, key: bytes, write: Write) -> None:
        """Take in a write; raises as `Transaction.set`."""
        old = self.writes.get(key)
        if old is not None and old.if_stamp is not None:
            if write.if_stamp not in (None, old.if_stamp):
                raise DataError("two conditions on the same value exclude each other")
            write = write._replace(if_stamp=old.if_stamp)
        grown = len(write.payload) - (len(old.payload) if old else -len(key))
        self._admit(grown, old is None)
        self.writes[key] = write

    def add(self, key: bytes, one: Sum) -> None:
        """Take in an amount; raises as `Transaction.increment`."""
        old = self.sums.get(key)
        amount = one.amount + (old.amount if old else 0)
        if not INT64_MIN <= amount <= INT64_MAX:
            raise DataError("a counter adds a signed 64-bit integer")
        self._admit(0 if old else len(key), old is None)
        self.sums[key] = one._replace(amount=amount)

    def send(self, message: Message) -> None:
        """Take in an event; raises as `Transaction.publish`."""
        _, _, _, mark, _, head, body = message
        self._admit(len(message.stream) + len(mark) + len(head) + len(body), True)
        self.messages.append(message)

    def _admit(self, size: int, is_new: bool) -> None:  # noqa: FBT001 - a private one
        if is_new and len(self) >= MAX_OPERATIONS:
            raise DataError(f"a transaction has at most {MAX_OPERATIONS} operations")
        if self.size + size > MAX_BYTES:
            raise ValueTooLargeError(self.size + size, MAX_BYTES)
        self.size += size

    # --- the script -------------------------------------------------------------------

    def call(self, stamp: int, mark_ms: int, memory_us: int = 0) -> Call:
        """Return the script that applies it; it may be run twice.

        Args:
            stamp: Of its values.
            mark_ms: How long it is remembered.
            memory_us: 0 while its caller waits; else it comes late, and how long such
                are remembered.
        """
        places: dict[bytes, int] = {self.mark: 1, self.floor: 2}
        args: list[Argument] = [mark_ms, memory_us]

        def place(key: bytes) -> int:
            return places.setdefault(key, len(places) + 1)

        for key, write in self.writes.items():
            condition = "" if write.if_stamp is None else write.if_stamp
            kind = "S" if write.kind == "T" else write.kind
            sealed = write.bytes_at(stamp)
            args += (kind, place(key), sealed, write.lives_ms, condition)
        for key, one in self.sums.items():
            args += ("C", place(key), one.amount, one.lives_ms, "")
        for message in self.messages:
            mark = place(message.mark) if message.mark else 0
            kind, key, more = "E", message.stream, str(mark)
            if message.delay_ms:
                kind, key = "L", scheduled_key(self.keys)
                places_of = (
                    place(scheduled_bodies_key(self.keys)),
                    place(message.stream),
                )
                numbers = (*places_of, mark, message.delay_ms, MAX_SCHEDULED)
                more = " ".join((*map(str, numbers), message.event_id))
            args += (kind, place(key), message.head, message.body, more)
        return SCRIPT, list(places), (*args, stamp)

    # --- the journal ------------------------------------------------------------------

    def pack(self) -> bytes:
        """Return it as bytes, without stamps and conditions."""
        return _CODEC.encode(
            {
                "v": _FORMAT,
                "w": [[key, *write[:3]] for key, write in self.writes.items()],
                "c": [[key, *one] for key, one in self.sums.items()],
                "e": [list(message) for message in self.messages],
            }
        )

    @classmethod
    def unpack(cls, name: str, keys: TenantKeys, data: bytes) -> Batch:
        """Invert `pack`.

        Raises:
            CodecError: It is none of ours, or one of a newer release.
        """
        fields: Any = _CODEC.decode(data)
        if not isinstance(fields, Mapping) or fields.get("v") != _FORMAT:
            raise CodecError("a transaction of another release")
        try:
            return cls(
                name,
                keys,
                {key: Write(*rest) for key, *rest in fields["w"]},
                {key: Sum(*rest) for key, *rest in fields["c"]},
                [Message(*each) for each in fields["e"]],
                len(data),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CodecError(f"no transaction: {type(error).__name__}") from None
