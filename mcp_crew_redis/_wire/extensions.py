"""The msgpack extension types: Python's scalars and arrays as bytes, and back.

    code  type                       payload (integers big endian)
    1     datetime                   i64 wall clock in µs since 1970, u8 kind and fold,
                                     unless naive: i64 offset in µs, zone name
    2     date                       u32 days, 1 = 0001-01-01
    3     time                       u8 fold, u64 µs since midnight, unless naive: i64
                                     offset in µs
    4     timedelta                  signed integer, µs
    5     UUID                       16 bytes
    6     Decimal                    ASCII digits, exact
    7     int beyond 64 bits         signed integer
    8     numpy array                u8 dtype, u8 dimensions, u32 each, little-endian C
    16    tuple                      msgpack array
    17    set                        msgpack array, members in the order of their bytes
    18    frozenset                  the same

The last three hold packed values; the codec itself handles them. Readers never trust a
payload: whatever it holds, they raise one of `BAD_PAYLOAD` or return a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import lru_cache
from struct import Struct
from struct import error as struct_error
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np

from mcp_crew_redis.errors import CodecError

__all__ = [
    "BAD_PAYLOAD",
    "FROZENSET",
    "INTEGER",
    "MAX_NESTING",
    "READERS",
    "SET",
    "TUPLE",
    "WRITERS",
    "write_integer",
]

DATETIME: Final = 1
DATE: Final = 2
TIME: Final = 3
TIMEDELTA: Final = 4
UUID_CODE: Final = 5
DECIMAL: Final = 6
INTEGER: Final = 7
ARRAY: Final = 8
TUPLE: Final = 16
SET: Final = 17
FROZENSET: Final = 18

# How deep tuples and sets may lie in each other. Each level is a packer of its own that
# goes 1,024 containers deep by itself, at 440 bytes of C stack each: 20 levels overflow
# the usual 8 MiB and end the process, 8 use half of it.
MAX_NESTING: Final = 8

# What the readers below raise on a payload that is not what its code says.
BAD_PAYLOAD: Final = (ValueError, TypeError, ArithmeticError, struct_error)

_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - wall clocks are counted from it
_MICROSECOND: Final = timedelta(microseconds=1)
_NAIVE, _OFFSET, _ZONE, _FOLD = 0, 1, 2, 0x80
_WALL = Struct(">qB")
_I64 = Struct(">q")
_U32 = Struct(">I")
_CLOCK = Struct(">BQ")
_ZONE_NAME = re.compile(r"[A-Za-z0-9_+-]{1,32}(?:/[A-Za-z0-9_+-]{1,32}){0,3}")
_MAX_DIMENSIONS: Final = 32  # what every numpy that we allow can hold
_MAX_DECIMAL_BYTES: Final = 4_096

# Fixed-width numbers only: an object array would need pickle.
_DTYPES: Final = tuple(
    np.dtype(name).newbyteorder("<")
    for name in (
        *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32"),
        *("int64", "uint64", "float16", "float32", "float64"),
        *("complex64", "complex128"),
    )
)
_DTYPE_CODES: Final = {dtype: code for code, dtype in enumerate(_DTYPES)}


@lru_cache(maxsize=256)
def _zone(name: str) -> tzinfo | None:
    """Return the zone, or None where this machine does not know it.

    The name may come from anybody: only the shape of real ones reaches the file system.
    """
    if _ZONE_NAME.fullmatch(name) is None:
        return None
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return None


def _write_datetime(value: datetime) -> bytes:
    wall = (value.replace(tzinfo=None, fold=0) - _EPOCH) // _MICROSECOND
    fold = _FOLD if value.fold else 0
    offset = value.utcoffset()
    if offset is None:
        return _WALL.pack(wall, _NAIVE | fold)
    offset_us = _I64.pack(offset // _MICROSECOND)
    zone = value.tzinfo
    if isinstance(zone, ZoneInfo) and zone.key is not None:
        return _WALL.pack(wall, _ZONE | fold) + offset_us + zone.key.encode("ascii")
    return _WALL.pack(wall, _OFFSET | fold) + offset_us


def _read_datetime(payload: bytes) -> datetime:
    wall, mark = _WALL.unpack_from(payload)
    kind = mark & ~_FOLD
    value = (_EPOCH + timedelta(microseconds=wall)).replace(fold=mark >> 7)
    if kind == _NAIVE and len(payload) == _WALL.size:
        return value
    offset = timedelta(microseconds=_I64.unpack_from(payload, _WALL.size)[0])
    rest = payload[_WALL.size + _I64.size :]
    fixed = value.replace(tzinfo=timezone(offset) if offset else UTC)
    if kind == _OFFSET and not rest:
        return fixed
    if kind != _ZONE:
        raise ValueError
    zoned = value.replace(tzinfo=_zone(rest.decode("ascii")))
    # Another edition of the zone's rules, or none: the instant is worth more.
    return zoned if zoned.utcoffset() == offset else fixed


def _write_date(value: date) -> bytes:
    return _U32.pack(value.toordinal())


def _read_date(payload: bytes) -> date:
    return date.fromordinal(_U32.unpack(payload)[0])


def _write_time(value: time) -> bytes:
    seconds = (value.hour * 60 + value.minute) * 60 + value.second
    clock = _CLOCK.pack(value.fold, seconds * 1_000_000 + value.microsecond)
    offset = value.utcoffset()
    if value.tzinfo is not None and offset is None:
        # Its offset depends on a date that it does not have.
        raise CodecError("a time with a zone cannot be stored; store a datetime")
    return clock if offset is None else clock + _I64.pack(offset // _MICROSECOND)


def _read_time(payload: bytes) -> time:
    fold, passed = _CLOCK.unpack_from(payload)
    seconds, microsecond = divmod(passed, 1_000_000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    value = time(hour, minute, second, microsecond, fold=fold)
    if len(payload) == _CLOCK.size:
        return value
    offset = timedelta(microseconds=_I64.unpack(payload[_CLOCK.size :])[0])
    return value.replace(tzinfo=timezone(offset) if offset else UTC)


def write_integer(value: int) -> bytes:
    """Return `value` as the fewest signed big-endian bytes."""
    return value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)


def _read_integer(payload: bytes) -> int:
    return int.from_bytes(payload, "big", signed=True)


def _write_timedelta(value: timedelta) -> bytes:
    return write_integer(value // _MICROSECOND)


def _read_timedelta(payload: bytes) -> timedelta:
    return timedelta(microseconds=_read_integer(payload))


def _write_uuid(value: UUID) -> bytes:
    return value.bytes


def _read_uuid(payload: bytes) -> UUID:
    return UUID(bytes=payload)


def _write_decimal(value: Decimal) -> bytes:
    digits = str(value).encode("ascii")
    if len(digits) > _MAX_DECIMAL_BYTES:
        raise CodecError(f"a Decimal of over {_MAX_DECIMAL_BYTES} digits")
    return digits


def _read_decimal(payload: bytes) -> Decimal:
    # Bounded, because what users then compute with it is not linear in its digits.
    if len(payload) > _MAX_DECIMAL_BYTES:
        raise ValueError
    return Decimal(payload.decode("ascii"))


def _write_array(value: np.ndarray[Any, Any]) -> bytes:
    code = _DTYPE_CODES.get(value.dtype.newbyteorder("<"))
    if code is None or value.ndim > _MAX_DIMENSIONS:
        raise CodecError(
            f"a numpy array of dtype {value.dtype.name[:32]} with {value.ndim} "
            f"dimensions; accepted are numbers and bool, {_MAX_DIMENSIONS} dimensions"
        )
    head = bytes((code, value.ndim)) + b"".join(map(_U32.pack, value.shape))
    return head + value.astype(_DTYPES[code], copy=False).tobytes()


def _read_array(payload: bytes) -> np.ndarray[Any, Any]:
    code, dimensions = payload[0], payload[1]
    body = 2 + 4 * dimensions
    if code >= len(_DTYPES) or dimensions > _MAX_DIMENSIONS or body > len(payload):
        raise ValueError
    shape = [_U32.unpack_from(payload, 2 + 4 * i)[0] for i in range(dimensions)]
    count = 1
    for length in shape:
        count *= length
    if count * _DTYPES[code].itemsize != len(payload) - body:
        raise ValueError
    flat = np.frombuffer(payload, _DTYPES[code], count, body)
    return flat.reshape(shape).copy()  # a view of bytes could not be written to


WRITERS: Final[dict[type, tuple[int, Callable[[Any], bytes]]]] = {
    datetime: (DATETIME, _write_datetime),  # before date, whose subclass it is
    date: (DATE, _write_date),
    time: (TIME, _write_time),
    timedelta: (TIMEDELTA, _write_timedelta),
    UUID: (UUID_CODE, _write_uuid),
    Decimal: (DECIMAL, _write_decimal),
    np.ndarray: (ARRAY, _write_array),
}
READERS: Final[dict[int, Callable[[bytes], object]]] = {
    DATETIME: _read_datetime,
    DATE: _read_date,
    TIME: _read_time,
    TIMEDELTA: _read_timedelta,
    UUID_CODE: _read_uuid,
    DECIMAL: _read_decimal,
    INTEGER: _read_integer,
    ARRAY: _read_array,
}
