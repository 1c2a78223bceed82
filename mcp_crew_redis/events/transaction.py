"""`tenant.transaction()`: state and events of one tenant in one atomic step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Final, Self, Unpack

from mcp_crew_redis._wire.header import MAX_STAMP
from mcp_crew_redis._wire.keys import TenantKeys
from mcp_crew_redis._wire.streams import mark_key
from mcp_crew_redis._wire.ttl import ttl_ms
from mcp_crew_redis._wire.uuid7 import id_text
from mcp_crew_redis.errors import DataError, LifecycleError
from mcp_crew_redis.events.event import EventReceipt
from mcp_crew_redis.events.kinds import EventPriority
from mcp_crew_redis.events.line import Lines
from mcp_crew_redis.events.making import new_id
from mcp_crew_redis.events.operations import Batch, Message, Sum, Write
from mcp_crew_redis.events.options import EventAttributes
from mcp_crew_redis.events.transacting import Transactor
from mcp_crew_redis.store.counting import check_amount
from mcp_crew_redis.store.kinds import is_plain
from mcp_crew_redis.types import DataType, WriteOutcome

__all__ = ["Transaction", "TransactionResult"]

_NO_COUNTERS: Final[Mapping[str, int]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionResult:
    """What became of a transaction.

    Attributes:
        outcome: STORED, or DEFERRED: in the journal, applied when Redis is back.
        stamp: The place of all its values in the order of writes, for an `if_stamp`
            that follows; None without values, and while it is deferred.
        receipts: Of its events, in the order of their publishing.
        counters: What each counter has come to, by identifier; none while it is
            deferred.
    """

    outcome: WriteOutcome
    stamp: int | None = None
    receipts: tuple[EventReceipt, ...] = ()
    counters: Mapping[str, int] = field(default_factory=lambda: _NO_COUNTERS)


class Transaction:
    """Writes and events of one tenant, collected and applied at the end, all or none.

        async with tenant.transaction() as tx:
            tx.set(DataType.STATE, "order:7", {"state": "paid"}, if_stamp=entry.stamp)
            tx.increment(DataType.COUNTER, "orders-paid")
            tx.publish("order.paid", {"order": 7})
        tx.result.receipts[0].event_id

    Its methods do not wait: they check and encode at once, and raise there. Reads are
    the tenant's and see Redis, not what is collected here. A body that raises sends
    nothing. At most 1,000 operations and 8 MiB.

    The end raises:

    - ConflictError: a value is not the one that `if_stamp` names. Nothing was applied.
    - DataError: a counter would leave 64 bits, or a key holds something else. Likewise.
    - OutcomeUnknownError: it was sent twice and answered never. All of it may have been
      applied, or nothing; do not repeat it unless that is harmless.
    - FallbackFullError, UnavailableError: nothing was applied.

    Without Redis it waits in the journal as one entry and is applied as a whole: values
    that somebody has overwritten meanwhile stay as they are. With an `if_stamp` it
    cannot wait, and raises UnavailableError. What waits is not seen by reads.
    Transactions of one tenant made by one process are applied in their order; those
    behind one that waits, wait too. The order between events that were published alone
    and those of transactions is kept while Redis answers.

    Cancelled at its end, it is applied as a whole or not at all.
    """

    __slots__ = ("_batch", "_keys", "_lines", "_result", "_state", "_transactor")

    def __init__(self, transactor: Transactor, keys: TenantKeys, lines: Lines) -> None:
        self._transactor = transactor
        self._keys = keys
        self._lines = lines
        self._batch = Batch(id_text(new_id()), keys)
        self._state = "new"
        self._result: TransactionResult | None = None

    def __repr__(self) -> str:
        return f"<Transaction {self._keys.tenant_id} {self._state} {len(self._batch)}>"

    async def __aenter__(self) -> Self:
        if self._state != "new":
            raise LifecycleError("a transaction is used once")
        self._state = "open"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._state = "closed"
        if kind is None:
            self._result = await self._apply()

    @property
    def result(self) -> TransactionResult:
        """What became of it.

        Raises:
            LifecycleError: It is not over, or it failed.
        """
        if self._result is None:
            raise LifecycleError("a transaction has a result once it has ended well")
        return self._result

    # --- state ------------------------------------------------------------------------

    def set(
        self,
        data_type: DataType,
        identifier: str,
        value: object,
        *,
        ttl: float | None = None,
        kind: str | None = None,
        if_stamp: int | None = None,
    ) -> None:
        """Store a value; arguments as `tenant.set`. A later one takes its place.

        Args:
            data_type: Of the value.
            identifier: Its name.
            value: What to store.
            ttl: Seconds; wins over the policy's row `kind`.
            kind: The row.
            if_stamp: Only if the value that stands has this stamp, as `get_entry` says;
                0: only if there is none.

        Raises:
            DataError: As `tenant.set`; or it contradicts an earlier condition, or there
                are too many operations.
            ValueTooLargeError: The value, or all of them together.
            LifecycleError: Outside of the `async with`.
        """
        self._check_open()
        code = "P" if is_plain(data_type) else "S"
        key = self._keys.key(data_type, identifier)
        values = self._transactor.values
        lives_ms = values.lifetime_ms(data_type, ttl, kind)
        condition = _condition(if_stamp)
        self._batch.write(key, Write(code, values.encoded(value), lives_ms, condition))

    def delete(
        self, data_type: DataType, identifier: str, *, if_stamp: int | None = None
    ) -> None:
        """Delete a value; counters are deleted by `tenant.delete` alone.

        Raises:
            DataError: As `set`.
            LifecycleError: Outside of the `async with`.
        """
        self._check_open()
        code = "U" if is_plain(data_type) else "T"
        lives_ms = 0 if code == "U" else self._transactor.mark_ms
        key = self._keys.key(data_type, identifier)
        self._batch.write(key, Write(code, b"", lives_ms, _condition(if_stamp)))

    def increment(
        self,
        data_type: DataType,
        identifier: str,
        amount: int = 1,
        *,
        ttl: float | None = None,
    ) -> None:
        """Add to a counter; amounts for the same one are added up.

        Raises:
            DataError: It is no counter, or the amount no 64-bit integer; as `set`.
            LifecycleError: Outside of the `async with`.
        """
        self._check_open()
        if data_type is not DataType.COUNTER:
            is_plain(data_type)
            raise DataError("counters are of DataType.COUNTER, values of other types")
        check_amount(amount)
        lives_ms = self._transactor.values.lifetime_ms(data_type, ttl, None)
        key = self._keys.key(data_type, identifier)
        self._batch.add(key, Sum(identifier, amount, lives_ms))

    # --- events -----------------------------------------------------------------------

    def publish(
        self,
        event_type: str,
        payload: object,
        *,
        priority: EventPriority = EventPriority.NORMAL,
        key: str | None = None,
        delay: float | None = None,
        idempotent: bool = False,
        **attributes: Unpack[EventAttributes],
    ) -> str:
        """Publish an event with the rest; arguments as `tenant.events.publish`.

        Returns:
            Its id; the receipt is in the result.

        Raises:
            InvalidEventTypeError: The type is not one.
            CodecError: The payload is not what the schema asks for, or no value.
            InvalidTtlError: The delay is out of range.
            DataError: As `set`.
            LifecycleError: Outside of the `async with`.
        """
        self._check_open()
        line = self._lines.of(event_type, priority)
        draft = line.draft(payload, key, attributes)
        delay_ms = ttl_ms(delay) if delay else 0
        ends_ms = draft.envelope.expires_ms
        if ends_ms is not None and ends_ms <= self._transactor.now_ms() + delay_ms:
            raise DataError("expires_in is to be longer than delay")
        name = id_text(draft.envelope.id)
        message = Message(
            stream=draft.stream,
            event_type=line.event_type,
            event_id=name,
            mark=mark_key(self._keys, name) if idempotent else b"",
            delay_ms=delay_ms,
            head=draft.head,
            body=draft.body,
        )
        self._batch.send(message)
        return name

    # --- the end ----------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._state != "open":
            raise LifecycleError("a transaction is filled inside its `async with`")

    async def _apply(self) -> TransactionResult:
        batch = self._batch
        applied = await self._transactor.apply(batch) if len(batch) else None
        if not len(batch):
            return TransactionResult(outcome=WriteOutcome.STORED)
        if applied is None:
            outcome = WriteOutcome.DEFERRED
            receipts = [
                EventReceipt(each.event_id, outcome=outcome) for each in batch.messages
            ]
            return TransactionResult(outcome=outcome, receipts=tuple(receipts))
        stamp, told = applied
        sums = (one.identifier for one in batch.sums.values())
        counters = dict(zip(sums, map(int, told), strict=False))
        return TransactionResult(
            outcome=WriteOutcome.STORED,
            stamp=stamp if batch.writes else None,
            receipts=_receipts(batch, told[len(counters) :]),
            counters=MappingProxyType(counters),
        )


def _receipts(batch: Batch, places: Iterable[str]) -> tuple[EventReceipt, ...]:
    receipts: list[EventReceipt] = []
    for message, told in zip(batch.messages, places, strict=True):
        place = told.removeprefix("=")
        at = None if place == "-" else place
        receipts.append(EventReceipt(message.event_id, at, place != told))
    return tuple(receipts)


def _condition(if_stamp: int | None) -> int | None:
    if if_stamp is None:
        return None
    if type(if_stamp) is not int or not 0 <= if_stamp <= MAX_STAMP:
        raise DataError("if_stamp is the stamp of an entry, or 0 for: there is none")
    return if_stamp
