"""Which data types the store writes, and how; who writes the others."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from mcp_crew_redis.errors import DataError
from mcp_crew_redis.types import DataClass, DataType

__all__ = ["KEYED_TYPES", "VALUE_TYPES", "check_keyed", "is_plain", "refused"]

VALUE_TYPES: Final[Mapping[DataType, bool]] = MappingProxyType(
    {
        data_type: data_type.data_class is DataClass.CACHE
        for data_type in DataType
        if data_type.data_class is not DataClass.OWNED
        and data_type is not DataType.COUNTER
    }
)
"""The types of values, and whether their writes are plain: without order."""

KEYED_TYPES: Final = frozenset({*VALUE_TYPES, DataType.COUNTER})
"""The types whose keys may be deleted, counted, listed and given a time to live."""

_OWNERS: Final[Mapping[DataType, str]] = MappingProxyType(
    {
        DataType.EMBEDDING: "tenant.embeddings",
        DataType.SESSION: "tenant.sessions",
        DataType.RATE_LIMIT: "tenant.rate_limits",
        DataType.EVENT: "tenant.events",
        DataType.TASK: "tenant.tasks",
    }
)


def is_plain(data_type: DataType) -> bool:
    """Return whether values of this type are written without order.

    Raises:
        DataError: Values of this type are not written here; says where they are.
    """
    try:
        return VALUE_TYPES[data_type]
    except (KeyError, TypeError):
        raise refused(data_type) from None


def check_keyed(data_type: DataType) -> None:
    """Refuse a type whose keys are not the store's.

    Raises:
        DataError: Its keys are another module's; says whose.
    """
    try:
        is_keyed = data_type in KEYED_TYPES
    except TypeError:
        is_keyed = False
    if not is_keyed:
        raise refused(data_type)


def refused(data_type: object) -> DataError:
    """Return the error for a type that an operation does not serve."""
    if not isinstance(data_type, str) or data_type not in set(DataType):
        return DataError(f"not a DataType; accepted: {', '.join(sorted(KEYED_TYPES))}")
    known = DataType(data_type)
    if known is DataType.COUNTER:
        return DataError(
            "a counter is no value: increment() changes and reads it (amount=0 reads)"
        )
    return DataError(f"{known.value} is written and read by {_OWNERS[known]} only")
