"""How long each kind of data lives: one table, and the rules around it.

Every key expires, or is on the named permanent list. A time to live taken from the
table is moved by up to 5 % either way, so that what was written together does not
expire together; one that the caller names is taken as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from random import Random
from types import MappingProxyType
from typing import Final

from mcp_crew_redis._wire.keys import META_NAMESPACE, KeySpace, MetaKey
from mcp_crew_redis._wire.streams import stream_name
from mcp_crew_redis.errors import ConfigurationError, DataError, InvalidTtlError
from mcp_crew_redis.types import DataType, EmbeddingType, Importance, KnowledgeType

__all__ = [
    "DEFAULT_KINDS",
    "JITTER",
    "MAX_TTL",
    "MIN_TTL",
    "OTHER_KIND",
    "PERMANENT_META",
    "TTL_TABLE",
    "WINDOW_FACTOR",
    "InvalidTtlError",
    "TtlPolicy",
    "is_permanent",
    "ttl_ms",
]

_MINUTE: Final = 60.0
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR

MIN_TTL: Final = 0.001
"""Seconds; what is shorter rounds to no time at all."""
MAX_TTL: Final = 10 * 365 * _DAY
"""Seconds; ten years. Beyond it lie mistakes: milliseconds, or points in time."""
JITTER: Final = 0.05
WINDOW_FACTOR: Final = 2.0
"""A rate limit's state lives this many windows."""
OTHER_KIND: Final = "other"
"""The row of a data type for kinds that have no row of their own."""

TTL_TABLE: Final[Mapping[DataType, Mapping[str, float]]] = MappingProxyType(
    {
        DataType.TOOLS: {
            "mongodb": 8 * _HOUR,
            "redis": 4 * _HOUR,
            "chatwoot": 2 * _HOUR,
            "qdrant": 4 * _HOUR,
            OTHER_KIND: 4 * _HOUR,
        },
        DataType.CONVERSATION: {
            Importance.HIGH: 7 * _DAY,
            Importance.MEDIUM: 3 * _DAY,
            Importance.LOW: 1 * _DAY,
        },
        DataType.KNOWLEDGE: {
            KnowledgeType.PRODUCT: 30 * _DAY,
            KnowledgeType.PROCEDURE: 30 * _DAY,
            KnowledgeType.CUSTOMER: 14 * _DAY,
            KnowledgeType.GENERAL: 7 * _DAY,
            KnowledgeType.MARKET: 3 * _DAY,
        },
        DataType.EVENT: {
            "default": 24 * _HOUR,
            "alert": 7 * _DAY,
            "audit": 7 * _DAY,
            "telemetry": 1 * _HOUR,
        },
        DataType.EMBEDDING: {
            EmbeddingType.DOCUMENT: 30 * _DAY,
            EmbeddingType.QUERY: 6 * _HOUR,
            EmbeddingType.CONVERSATION: 3 * _DAY,
        },
        DataType.SESSION: {"idle": 30 * _MINUTE, "absolute": 24 * _HOUR},
        DataType.TASK: {
            "result": 1 * _HOUR,
            "dead_letter": 7 * _DAY,
            "idempotency": 24 * _HOUR,
        },
        DataType.CACHE: {"default": 1 * _HOUR},
        DataType.STATE: {"default": 24 * _HOUR},
        DataType.COUNTER: {"default": 24 * _HOUR},
    }
)
"""Seconds per data type and kind. A rate limit has none: see `TtlPolicy.window_ms`."""

DEFAULT_KINDS: Final[Mapping[DataType, str]] = MappingProxyType(
    {
        DataType.TOOLS: OTHER_KIND,
        DataType.CONVERSATION: Importance.MEDIUM,
        DataType.KNOWLEDGE: KnowledgeType.GENERAL,
        DataType.EVENT: "default",
        DataType.EMBEDDING: EmbeddingType.DOCUMENT,
        DataType.SESSION: "idle",
        DataType.TASK: "result",
        DataType.CACHE: "default",
        DataType.STATE: "default",
        DataType.COUNTER: "default",
    }
)
"""The row that is used when the caller names no kind."""

PERMANENT_META: Final = frozenset({MetaKey.FLOOR, MetaKey.TYPES})
"""With `KeySpace.tenants`, all that never expires. The floor must outlive every journal
that might still be replayed, and nobody knows how long those live."""


def ttl_ms(ttl: float) -> int:
    """Return `ttl` seconds as whole milliseconds, at least one.

    Raises:
        InvalidTtlError: It is not a number from 0.001 to 315,360,000 (ten years).
    """
    if isinstance(ttl, bool) or not isinstance(ttl, int | float):
        raise InvalidTtlError(f"ttl is a number of seconds, not {type(ttl).__name__}")
    if not MIN_TTL <= ttl <= MAX_TTL:  # so is NaN, which compares with nothing
        raise InvalidTtlError(
            f"ttl must be {MIN_TTL} to {MAX_TTL:.0f} seconds (ten years)"
        )
    return round(ttl * 1_000)


def is_permanent(space: KeySpace, key: bytes) -> bool:
    """Return whether `key` is on the list of keys that never expire.

    An event's stream is: with its expiry all would go that nobody has acknowledged. The
    janitor bounds it.
    """
    if key == space.tenants or stream_name(space, key) is not None:
        return True
    parsed = space.parse(key)
    return (
        parsed is not None
        and parsed.namespace == META_NAMESPACE
        and parsed.identifier in PERMANENT_META
    )


class TtlPolicy:
    """The table with the user's changes, and the chance that spreads expiries.

    Args:
        overrides: Seconds by `"<data type>.<kind>"`, or by `"<data type>"` alone for
            the row used when no kind is named: `{"tools.mongodb": 600, "cache": 60}`.
            Tools take any MCP's name as a kind, events any type's.
        random: Source of the jitter.

    Raises:
        ConfigurationError: An override names no row, or its value is out of range.
    """

    __slots__ = ("_random", "_table")

    def __init__(
        self, overrides: Mapping[str, float] | None = None, *, random: Random
    ) -> None:
        self._random = random.random
        self._table = {kind: dict(rows) for kind, rows in TTL_TABLE.items()}
        for name, seconds in (overrides or {}).items():
            self._override(name, seconds)

    def seconds(self, data_type: DataType, kind: str | None = None) -> float:
        """Return the table's time to live in seconds, without jitter.

        Raises:
            DataError: The type has no such kind; names those it has.
        """
        rows = self._table.get(data_type)
        if rows is None:
            raise DataError(
                f"{data_type} has no time to live of its own: it follows its window"
            )
        if kind is None:
            return rows[DEFAULT_KINDS[data_type]]
        found = rows.get(kind, rows.get(OTHER_KIND))
        if found is None or not kind:
            raise DataError(f"{data_type} has no such kind; accepted: {_names(rows)}")
        return found

    def has(self, data_type: DataType, kind: str) -> bool:
        """Whether the table has a row of that name."""
        return kind in self._table.get(data_type, ())

    def milliseconds(
        self,
        data_type: DataType,
        *,
        kind: str | None = None,
        ttl: float | None = None,
    ) -> int:
        """Return what to give to `PX`.

        Args:
            data_type: Selects the rows of the table.
            kind: Selects the row; without it the type's usual one.
            ttl: Seconds; wins over the table, and is not moved by chance.

        Raises:
            InvalidTtlError: `ttl` is outside the accepted range.
            DataError: The type has no such kind.
        """
        if ttl is not None:
            return ttl_ms(ttl)
        return self._jittered(self.seconds(data_type, kind))

    def window_ms(self, window: float) -> int:
        """Return how long the state of a rate limit over `window` seconds lives.

        Raises:
            InvalidTtlError: The window is outside the range of a time to live.
        """
        return round(ttl_ms(window) * WINDOW_FACTOR)

    def _jittered(self, seconds: float) -> int:
        moved = seconds * (1 - JITTER + 2 * JITTER * self._random())
        return max(1, round(moved * 1_000))

    def _override(self, name: str, seconds: float) -> None:
        type_name, dot, kind = name.partition(".")
        rows = self._table.get(type_name)  # type: ignore[call-overload]  # a DataType is a str
        if rows is None:
            raise ConfigurationError(
                f"no time to live is called {name!r}; accepted are <type> and "
                f"<type>.<kind> with the types {_names(self._table)}"
            )
        kind = kind if dot else DEFAULT_KINDS[DataType(type_name)]
        is_open = OTHER_KIND in rows or type_name == DataType.EVENT
        if not kind or (kind not in rows and not is_open):
            raise ConfigurationError(
                f"no time to live is called {name!r}; the kinds of {type_name} are "
                f"{_names(rows)}"
            )
        try:
            ttl_ms(seconds)
        except InvalidTtlError as error:
            raise ConfigurationError(f"time to live {name!r}: {error}") from None
        rows[kind] = float(seconds)


def _names(rows: Iterable[str]) -> str:
    return ", ".join(sorted(str(name) for name in rows))
