"""Many values of one tenant at once, in one round trip."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from mcp_crew_redis._wire.keys import TenantKeys
from mcp_crew_redis.errors import CrewRedisError, DataError, InvalidIdentifierError
from mcp_crew_redis.store.context import StoreContext
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

    __slots__ = ("_gate", "_graves", "_order", "_values")

    def __init__(
        self, context: StoreContext, gate: Gate, order: Order, values: Values
    ) -> None:
        self._gate = gate
        self._order = order
        self._values = values
        self._graves = Graves(context, gate, order)

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
        is_plain(data_type)
        names = _unique(identifiers)
        encoded = [keys.key(data_type, name) for name in names]
        found: dict[str, Any] = {}
        decode = self._values.decoded
        for name, data in zip(names, await self._fetch(encoded), strict=True):
            sealed = self._values.opened(data) if data else None
            if sealed is not None:
                found[name] = decode(sealed.payload, into)
        return found

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
        if not items:
            return WriteOutcome.STORED
        floor = await room.prepared(keys)
        if has_no_order:
            await self._set_plain(items)
        else:
            for chunk in _chunks(items):
                await self._set_ordered(chunk, floor)
        return WriteOutcome.STORED

    async def _set_plain(self, items: Sequence[_Item]) -> None:
        commands = [
            ("SET", key, self._seal(payload, lives_ms), "PX", lives_ms)
            for key, payload, lives_ms in items
        ]
        raise_first(await self._gate.write_plain_many(commands))

    async def _set_ordered(self, items: Sequence[_Item], floor: bytes) -> None:
        left = list(items)

        async def once(lowest: int) -> tuple[int, int, None]:
            nonlocal left
            pairs = [self._pair(item, lowest) for item in left]
            args = [argument for pair in pairs for argument in pair]
            names = [*(item.key for item in left), floor]
            answer, is_doubtful = await self._gate.write_surely(
                "set_newer_many", names, args
            )
            if is_doubtful:
                return DUPLICATE, 0, None
            told = list(zip(left, answer[::2], answer[1::2], strict=True))
            left = [item for item, outcome, _ in told if outcome in REFUSED]
            stood = (stamp for _, outcome, stamp in told if outcome in REFUSED)
            return (min(REFUSED) if left else DUPLICATE), max(stood, default=0), None

        outcome, stands, _ = await once(0)
        if outcome in REFUSED:
            await self._order.insist(once, stands)

    def _pair(self, item: _Item, lowest: int) -> tuple[bytes, int]:
        # What stands may be too far ahead to be followed; `lowest` is above it.
        stamp = max(self._order.stamp(), lowest)
        sealed = self._values.sealed(stamp, item.payload, item.lives_ms)
        return sealed, item.lives_ms

    def _seal(self, payload: bytes, lives_ms: int) -> bytes:
        return self._values.sealed(self._order.stamp(), payload, lives_ms)

    async def delete_many(
        self, keys: TenantKeys, data_type: DataType, identifiers: Iterable[str]
    ) -> int:
        """Delete all and return how many there were."""
        check_keyed(data_type)
        names = _unique(identifiers)
        encoded = [keys.key(data_type, name) for name in names]
        if not encoded:
            return 0
        if VALUE_TYPES.get(data_type, True):
            commands: list[tuple[bytes | str, ...]]
            commands = [("UNLINK", *part) for part in _parts(encoded, READ_CHUNK)]
            replies = await self._gate.write_plain_many(commands)
            raise_first(replies)
            for key in encoded:
                self._values.forget(key)
            return sum(replies)
        floor = await self._values.prepared(keys)
        count = 0
        for part in _parts(encoded, WRITE_CHUNK):
            count += await self._graves.bury(part, floor)
        return count


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
