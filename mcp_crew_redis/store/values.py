"""One value at a time: set, get, delete and what is asked about it."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from mcp_crew_redis._wire.header import (
    HEADER_BYTES,
    MAX_EXPIRES_AT_MS,
    Sealed,
    seal,
    unseal,
)
from mcp_crew_redis._wire.keys import TenantKeys
from mcp_crew_redis.errors import (
    DataError,
    UnavailableError,
    ValueTooLargeError,
)
from mcp_crew_redis.store.context import StoreContext
from mcp_crew_redis.store.deferring import DeferringCounters
from mcp_crew_redis.store.entry import Entry
from mcp_crew_redis.store.fallback import Fallback
from mcp_crew_redis.store.gate import Gate
from mcp_crew_redis.store.graves import Graves
from mcp_crew_redis.store.kinds import VALUE_TYPES, check_keyed, is_plain
from mcp_crew_redis.store.ordered import REFUSED, Order
from mcp_crew_redis.types import DataType, DeleteOutcome, WriteOutcome

__all__ = ["Values"]

STORED: Final = WriteOutcome.STORED


class Values:
    """Operations on one value of one tenant.

    Positional, because every one of them is called through a facade.

    Args:
        context: The store's parts.
        gate: The way to Redis.
        order: The stamps.
        fallback: What happens when Redis does not answer.
        counters: Told of each counter that was deleted, and asked for their entries.
    """

    def __init__(
        self,
        context: StoreContext,
        gate: Gate,
        order: Order,
        fallback: Fallback,
        counters: DeferringCounters,
    ) -> None:
        self.forget = counters.forget
        self._counters = counters
        self._fallback, self._dirty = fallback, fallback.dirty
        self._replaced, self._landed = fallback.replaced, fallback.landed
        self._order = order
        self._noted = order.noted
        self._stamps = context.stamps
        self._follow = context.stamps.follow
        self._read, self._write = gate.read, gate.write
        self._write_surely = gate.write_surely
        self._read_script, self._write_plain = gate.read_script, gate.write_plain
        self._graves = Graves(context, gate, order, fallback)
        self._encode, self.decoded = context.codec.encode, context.codec.decode
        self._policy_ms = context.ttl.milliseconds
        self._max_bytes = context.max_value_bytes
        self._max_payload = context.max_value_bytes - HEADER_BYTES

    # --- reading ----------------------------------------------------------------------

    async def get(
        self,
        keys: TenantKeys,
        data_type: DataType,
        identifier: str,
        into: Any,
        default: object,
    ) -> Any:
        """Return the value, or `default` when there is none."""
        may_miss = is_plain(data_type)
        key = keys.key(data_type, identifier)
        if self._dirty and (waits := self._dirty.get(key)) is not None:
            data = self._fallback.data(waits)
        else:
            try:
                data = await self._read("GET", key)
            except UnavailableError:
                if may_miss:  # a cache that cannot be asked has nothing
                    return default
                raise
        if not data:  # an empty string is nothing of ours, and as good as nothing
            return default
        # As `opened`; the hottest path of the store does without the call.
        stamp, _, is_tombstone, payload = unseal(data)
        self._follow(stamp)
        return default if is_tombstone else self.decoded(payload, into)

    async def get_entry(
        self, keys: TenantKeys, data_type: DataType, identifier: str, into: Any
    ) -> Entry[Any] | None:
        """Return the value with its age and origin, None when there is none."""
        if data_type is DataType.COUNTER and into is None:
            return await self._counters.entry(keys, identifier)
        is_plain(data_type)
        key = keys.key(data_type, identifier)
        if self._dirty and (waits := self._dirty.get(key)) is not None:
            if not self._fallback.live(waits):
                return None
            return self._fallback.entry(waits, self.decoded(waits.payload, into))
        data = await self._read("GET", key)
        sealed = self.opened(data) if data else None
        if sealed is None:
            return None
        if not self._stamps.is_ready:
            await self._stamps.ready()  # for the age
        expires = sealed.expires_at_ms
        return Entry(
            value=self.decoded(sealed.payload, into),
            source="redis",
            age=max(0, self._stamps.hybrid.now_us() - sealed.stamp) / 1e6,
            is_stale=False,
            stamp=sealed.stamp,
            expires_at=None if expires is None else expires / 1e3,
        )

    def opened(self, data: bytes) -> Sealed | None:
        """Take stored bytes apart; None for a tombstone, which counts as absent.

        Whether a value is over is for Redis alone to say: a header's `expires_at` is
        the writer's clock, and no two clocks are equal.

        Raises:
            CodecError: The bytes are not ours, or of a newer release.
        """
        sealed = unseal(data)
        self._follow(sealed.stamp)
        return None if sealed.is_tombstone else sealed

    # --- writing ----------------------------------------------------------------------

    async def set(
        self,
        keys: TenantKeys,
        data_type: DataType,
        identifier: str,
        value: object,
        ttl: float | None,
        kind: str | None,
    ) -> WriteOutcome:
        """Store a value; everything is checked before anything is sent."""
        has_no_order = is_plain(data_type)
        key = keys.key(data_type, identifier)
        lives_ms = self.lifetime_ms(data_type, ttl, kind)
        payload = self.encoded(value)
        stamp, sealed = 0, b""
        try:
            floor = self._noted.get(keys.tenant_id) or await self._order.prepare(keys)
            stamp = self._stamps.stamp()
            sealed = self.sealed(stamp, payload, lives_ms)
            if has_no_order:
                await self._write_plain(
                    "SET", key, sealed, "PX", lives_ms, is_repeatable=True
                )
                if self._dirty:
                    self._replaced(key, stamp)
                return STORED
            outcome, stands = await self._write(
                "set_newer", (key, floor), (sealed, lives_ms)
            )
        except UnavailableError as error:
            if not sealed:  # nothing was sent
                sealed = self.sealed(self._fallback.stamp(), payload, lives_ms)
            await self._fallback.keep(keys, ((key, sealed),), error)
            return WriteOutcome.DEFERRED
        except asyncio.CancelledError:
            self._fallback.doubt((key,))
            raise
        if outcome in REFUSED:
            return await self._insist(keys, (key, floor), payload, lives_ms, stands)
        self._landed(key, stamp, sealed)
        return STORED

    async def _insist(
        self,
        keys: TenantKeys,
        names: tuple[bytes, bytes],
        payload: bytes,
        lives_ms: int,
        stands: int,
    ) -> WriteOutcome:
        stamp, sealed = 0, b""

        async def again(above: int) -> tuple[int, int, None]:
            nonlocal stamp, sealed
            stamp, sealed = above, self.sealed(above, payload, lives_ms)
            outcome, stands = await self._write("set_newer", names, (sealed, lives_ms))
            return outcome, stands, None

        try:
            await self._order.insist(again, stands)
        except UnavailableError as error:
            await self._fallback.keep(keys, ((names[0], sealed),), error)
            return WriteOutcome.DEFERRED
        except asyncio.CancelledError:
            self._fallback.doubt(names[:1])
            raise
        self._landed(names[0], stamp, sealed)
        return STORED

    async def delete(
        self, keys: TenantKeys, data_type: DataType, identifier: str
    ) -> DeleteOutcome:
        """Delete a value; a synchronised one leaves a tombstone."""
        key = self._key(keys, data_type, identifier)
        if data_type is DataType.COUNTER:
            was_live = await self._write_plain("UNLINK", key)
            self.forget(key)
        else:
            dig = self._graves.clear if VALUE_TYPES[data_type] else self._graves.bury
            was_live, is_deferred = await dig(keys, (key,))
            if is_deferred:
                return DeleteOutcome.DEFERRED
        return DeleteOutcome.DELETED if was_live else DeleteOutcome.ABSENT

    # --- shared with the batches ------------------------------------------------------

    def lifetime_ms(
        self, data_type: DataType, ttl: float | None, kind: str | None
    ) -> int:
        """Return milliseconds by the policy; an explicit `ttl` wins."""
        if kind is not None and not isinstance(kind, str):
            raise DataError(f"a kind is a str, not {type(kind).__name__}")
        if kind is not None and ttl is not None:
            self._policy_ms(data_type, kind=kind)  # unused, but it must exist
        return self._policy_ms(data_type, kind=kind, ttl=ttl)

    def encoded(self, value: object) -> bytes:
        """Return the payload, within the size that a value may have."""
        payload = self._encode(value)
        if len(payload) > self._max_payload:
            raise ValueTooLargeError(len(payload) + HEADER_BYTES, self._max_bytes)
        return payload

    def sealed(self, stamp: int, payload: bytes, lives_ms: int) -> bytes:
        """Return header and payload."""
        expires_at_ms = min(stamp // 1_000 + lives_ms, MAX_EXPIRES_AT_MS)
        return seal(stamp, payload, expires_at_ms, max_bytes=self._max_bytes)

    @staticmethod
    def _key(keys: TenantKeys, data_type: DataType, identifier: str) -> bytes:
        check_keyed(data_type)
        return keys.key(data_type, identifier)
