"""Going through a tenant's keys by SCAN, a bounded page at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from mcp_crew_redis._wire.header import MAGIC
from mcp_crew_redis._wire.keys import META_NAMESPACE, MetaKey, ParsedKey, TenantKeys
from mcp_crew_redis.store.context import StoreContext
from mcp_crew_redis.types import DataClass, DataType

__all__ = [
    "BATCH",
    "Found",
    "OnProgress",
    "Progress",
    "Recent",
    "Walk",
    "batches",
    "is_floor",
    "is_tombstone",
    "may_be_tombstone",
]

PAGE: Final = 512
"""Places of the database that one SCAN looks at: about 0.1 ms for the server."""
BATCH: Final = 128
"""Keys of one script, or of one round trip of look-ups."""
MAX_REMEMBERED: Final = 100_000
"""Keys that a walk remembers, to give none twice."""

T = TypeVar("T")
Found = tuple[bytes, ParsedKey]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a walk is.

    Attributes:
        cursor: SCAN's own position; 0 at the end of a pass. It does not say how much
            is left.
        pages: Pages looked at.
        seen: Keys of the tenant found, in all passes.
        removed: Keys removed so far; always 0 for `usage`.
        floor: The purge's stamp; 0 for `usage`.
    """

    cursor: int
    pages: int
    seen: int
    removed: int = 0
    floor: int = 0


OnProgress = Callable[[Progress], None]


class Recent:
    """The keys seen lately, up to a bound: SCAN may give one twice."""

    def __init__(self) -> None:
        self._keys: dict[bytes, None] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def is_new(self, key: bytes) -> bool:
        """Whether `key` was not seen; from now on it is."""
        if key in self._keys:
            return False
        if len(self._keys) >= MAX_REMEMBERED:
            del self._keys[next(iter(self._keys))]
        self._keys[key] = None
        return True


class Walk:
    """Gives the keys that this layer wrote for one tenant, page by page.

        walk = Walk(context, keys)
        while (page := await walk.next()) is not None: ...

    Args:
        context: The store's parts.
        keys: The tenant's.
        pattern: A glob; without it, everything of the tenant.

    Attributes:
        cursor: SCAN's position after the last page; None before the first.
        pages: Pages given.
    """

    def __init__(
        self, context: StoreContext, keys: TenantKeys, pattern: bytes | None = None
    ) -> None:
        self.cursor: int | None = None
        self.pages = 0
        self._port = context.port
        self._space = context.keys
        self._tenant = keys.tenant_id
        # The character after the id: the brace, or the slash before a shard's number.
        everything = f"{keys.prefix}*:{{{keys.tenant_id}[}}/]*"
        self._pattern = pattern or everything.encode("ascii")

    @property
    def is_over(self) -> bool:
        """Whether everything has been looked at."""
        return self.cursor == 0

    async def next(self) -> list[Found] | None:
        """Return what the next page holds, maybe nothing; None at the end.

        Raises:
            UnavailableError: Redis did not answer; calling again goes on from there.
        """
        if self.is_over:
            return None
        reply = await self._port.send(
            "SCAN", self.cursor or 0, "MATCH", self._pattern, "COUNT", PAGE
        )
        self.cursor = int(reply[0])
        self.pages += 1
        return self._of_tenant(reply[1])

    def _of_tenant(self, page: Iterable[bytes]) -> list[Found]:
        # Whatever the glob let in: only what parses as this very tenant's counts.
        parsed = ((key, self._space.parse(key)) for key in page)
        return [
            (key, found)
            for key, found in parsed
            if found is not None and found.tenant == self._tenant
        ]


def batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut `items` into pieces of `BATCH`."""
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]


def is_floor(key: ParsedKey) -> bool:
    """Whether it is the tenant's floor, which outlives every purge."""
    return key.namespace == META_NAMESPACE and key.identifier == MetaKey.FLOOR


def may_be_tombstone(data_type: DataType) -> bool:
    """Whether deletes of this type leave tombstones; those of counters do not."""
    return (
        data_type.data_class is DataClass.SYNCHRONISED
        and data_type is not DataType.COUNTER
    )


def is_tombstone(head: object) -> bool:
    """Whether a value that starts with these two bytes remembers a delete."""
    return (
        isinstance(head, bytes)
        and len(head) > 1
        and head[0] == MAGIC
        and head[1] % 2 == 1
    )
