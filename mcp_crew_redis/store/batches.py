"""Many values of one tenant at once, in one round trip."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from mcp_crew_redis._wire.keys import TenantKeys
from mcp_crew_redis.errors import (
    CrewRedisError,
    DataError,
    InvalidIdentifierError,
    UnavailableError,
)
from mcp_crew_redis.store.context import StoreContext
from mcp_crew_redis.store.fallback import Fallback
from mcp_crew_redis.store.gate import Gate
from mcp_crew_redis.store.graves import Graves
from mcp_crew_redis.store.kinds import VALUE_TYPES, check_keyed, is_plain
from mcp_crew_redis.store.ordered import DUPLICATE, REFUSED, Order
from mcp_crew_redis.store.values import Values
from mcp_crew_redis.types import DataType, WriteOutcome

__all__ = ["READ_CHUNK", "WRITE_CHUNK", "Batches"]

READ_CHUNK: Final = 500
"""Keys of one MGET."""
WRITE_CHUNK: Final = 128
"""Keys of one script: it holds up the server for less than a millisecond."""
WRITE_CHUNK_BYTES: Final = 1024 * 1024


class _Item(NamedTuple):
    key: bytes
    payload: bytes
    lives_ms: int


class Batches:
    """Operations on many values of one tenant and type.

    What is larger than a chunk takes several commands: reads still one round trip,
    ordered writes one for each chunk. A chunk of an ordered write is atomic, the whole
    is not.
    """

    __slots__ = ("_dirty", "_fallback", "_gate", "_graves", "_order", "_values")

    def __init__(
        self,
        context: StoreContext,
        gate: Gate,
        order: Order,
        fallback: Fallback,
        values: Values,
    ) -> None:
        self._gate = gate
        self._order = order
        self._values = values
        self._fallback, self._dirty = fallback, fallback.dirty
        self._graves = Graves(context, gate, order, fallback)

    # --- reading ----------------------------------------------------------------------

    async def get_many(
        self,
        keys: TenantKeys,
        data_type: DataType,
        identifiers: Iterable[str],
        into: Any,
    ) -> dict[str, Any]:
        """Return what there is, by identifier.

        A key that holds another Redis type counts as absent: MGET does not tell.
        """
        may_miss = is_plain(data_type)
        names = _unique(identifiers)
        encoded = [keys.key(data_type, name) for name in names]
        try:
            stored = await self._stored(encoded)
        except UnavailableError:
            if not may_miss:
                raise
            stored = self._waiting(encoded)
        found: dict[str, Any] = {}
        decode = self._values.decoded
        for name, key in zip(names, encoded, strict=True):
            data = stored.get(key)
            sealed = self._values.opened(data) if data else None
            if sealed is not None:
                found[name] = decode(sealed.payload, into)
        return found

    async def _stored(self, keys: list[bytes]) -> dict[bytes, bytes | None]:
        """Return what stands under each key, or what waits for it."""
        if not self._dirty:
            return dict(zip(keys, await self._fetch(keys), strict=True))
        waiting = self._waiting(keys)
        others = [key for key in keys if key not in waiting]
        return {**dict(zip(others, await self._fetch(others), strict=True)), **waiting}

    def _waiting(self, keys: list[bytes]) -> dict[bytes, bytes | None]:
        dirty, data = self._dirty, self._fallback.data
        return {key: data(dirty[key]) for key in keys if key in dirty}

    async def _fetch(self, keys: list[bytes]) -> list[bytes | None]:
        if not keys:
            return []
        if len(keys) <= READ_CHUNK:
            return list(await self._gate.read("MGET", *keys))
        commands: list[tuple[bytes | str, ...]]
        commands = [("MGET", *part) for part in _parts(keys, READ_CHUNK)]
        replies = await self._gate.read_many(commands)
        raise_first(replies)
        return [data for reply in replies for data in reply]

    # --- writing ----------------------------------------------------------------------

    async def set_many(
        self,
        keys: TenantKeys,
        data_type: DataType,
        values: Mapping[str, object],
        ttl: float | None,
        kind: str | None,
    ) -> WriteOutcome:
        """Store all values; each is checked before the first is sent."""
        has_no_order = is_plain(data_type)
        room = self._values
        items = [
            _Item(
                keys.key(data_type, identifier),
                room.encoded(value),
                room.lifetime_ms(data_type, ttl, kind),
            )
            for identifier, value in values.items()
        ]
        outcomes = {WriteOutcome.STORED}
        if has_no_order and items:
            outcomes.add(await self._set_plain(keys, items))
        elif items:
            for chunk in _chunks(items):
                outcomes.add(await self._set_ordered(keys, chunk))
        is_deferred = WriteOutcome.DEFERRED in outcomes
        return WriteOutcome.DEFERRED if is_deferred else WriteOutcome.STORED

    async def _set_plain(
        self, keys: TenantKeys, items: Sequence[_Item]
    ) -> WriteOutcome:
        stamps = [self._fallback.stamp() for _ in items]
        data = [
            (item.key, self._values.sealed(stamp, item.payload, item.lives_ms))
            for item, stamp in zip(items, stamps, strict=True)
        ]
        commands = [
            ("SET", key, sealed, "PX", item.lives_ms)
            for (key, sealed), item in zip(data, items, strict=True)
        ]
        try:
            await self._order.prepared(keys)
            raise_first(await self._gate.write_plain_many(commands))
        except UnavailableError as error:
            await self._fallback.keep(keys, data, error)
            return WriteOutcome.DEFERRED
        except asyncio.CancelledError:
            self._fallback.doubt(item.key for item in items)
            raise
        for item, stamp in zip(items, stamps, strict=True):
            self._fallback.replaced(item.key, stamp)
        return WriteOutcome.STORED

    async def _set_ordered(
        self, keys: TenantKeys, items: Sequence[_Item]
    ) -> WriteOutcome:
        left = list(items)
        data: list[tuple[int, bytes]] = []  # the stamp and the bytes of each one left

        async def once(lowest: int) -> tuple[int, int, None]:
            nonlocal left, data
            data = [self._sealed(item, lowest) for item in left]
            args: list[bytes | int] = []
            for item, (_, sealed) in zip(left, data, strict=True):
                args += (sealed, item.lives_ms)
            names = [*(item.key for item in left), floor]
            answer = await self._gate.write("set_newer_many", names, args)
            sent = list(zip(left, data, answer[::2], answer[1::2], strict=True))
            for item, (stamp, sealed), outcome, _ in sent:
                if outcome not in REFUSED:
                    self._fallback.landed(item.key, stamp, sealed)
            left = [item for item, _, outcome, _ in sent if outcome in REFUSED]
            stood = (stands for _, _, outcome, stands in sent if outcome in REFUSED)
            return (min(REFUSED) if left else DUPLICATE), max(stood, default=0), None

        try:
            floor = await self._order.prepared(keys)
            outcome, stands, _ = await once(0)
            if outcome in REFUSED:
                await self._order.insist(once, stands)
        except UnavailableError as error:
            if len(data) != len(left):  # not sent yet, or refused before
                data = [self._sealed(item, 0) for item in left]
            kept = [
                (item.key, sealed) for item, (_, sealed) in zip(left, data, strict=True)
            ]
            await self._fallback.keep(keys, kept, error)
            return WriteOutcome.DEFERRED
        except asyncio.CancelledError:
            self._fallback.doubt(item.key for item in items)
            raise
        return WriteOutcome.STORED

    def _sealed(self, item: _Item, lowest: int) -> tuple[int, bytes]:
        # What stands may be too far ahead to be followed; `lowest` is above it.
        stamp = max(self._fallback.stamp(), lowest)
        return stamp, self._values.sealed(stamp, item.payload, item.lives_ms)

    async def delete_many(
        self, keys: TenantKeys, data_type: DataType, identifiers: Iterable[str]
    ) -> int:
        """Delete all and return how many there were."""
        check_keyed(data_type)
        names = _unique(identifiers)
        encoded = [keys.key(data_type, name) for name in names]
        if not encoded:
            return 0
        if data_type is DataType.COUNTER:
            return await self._delete_counters(encoded)
        has_no_order = VALUE_TYPES[data_type]
        dig = self._graves.clear if has_no_order else self._graves.bury
        count = 0
        for part in _parts(encoded, READ_CHUNK if has_no_order else WRITE_CHUNK):
            count += (await dig(keys, part))[0]
        return count

    async def _delete_counters(self, keys: list[bytes]) -> int:
        commands: list[tuple[bytes | str, ...]]
        commands = [("UNLINK", *part) for part in _parts(keys, READ_CHUNK)]
        replies = await self._gate.write_plain_many(commands)
        raise_first(replies)
        for key in keys:
            self._values.forget(key)
        return sum(replies)


def _unique(identifiers: Iterable[str]) -> list[str]:
    if isinstance(identifiers, str | bytes):
        raise DataError("identifiers are several: pass a list, not one str")
    try:
        return list(dict.fromkeys(identifiers))
    except TypeError:
        raise InvalidIdentifierError("identifiers are several str") from None


def _parts(keys: list[bytes], size: int) -> Iterator[list[bytes]]:
    for start in range(0, len(keys), size):
        yield keys[start : start + size]


def _chunks(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    """Cut by number and by bytes: one command must not hold up the server for long."""
    chunk: list[_Item] = []
    size = 0
    for item in items:
        if chunk and (
            len(chunk) == WRITE_CHUNK or size + len(item.payload) > WRITE_CHUNK_BYTES
        ):
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += len(item.payload)
    if chunk:
        yield chunk


def raise_first(replies: Iterable[object]) -> None:
    """Raise the first error among the replies of a batch.

    Raises:
        CrewRedisError: There is one.
    """
    for reply in replies:
        if isinstance(reply, CrewRedisError):
            raise reply
