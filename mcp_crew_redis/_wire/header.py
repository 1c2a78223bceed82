r"""The 16 bytes before every stored value, and how they are read.

    offset  size  field
    0       1     magic       0xC7
    1       1     version in the high four bits (1), flags in the low four:
                  0x1 tombstone (no payload: the value was deleted)
    2       8     stamp       u64, microseconds, below 2^53
    10      6     expires_at  u48, Unix milliseconds; 0 = not known
    16      -     payload

All numbers are big endian, so stamps compare as raw bytes too (memcmp). In Lua, which
counts from 1, take them as numbers, exact below 2^53:

    local stamp = struct.unpack('>I8', value, 3)
    local expires_at = struct.unpack('>I6', value, 11)
    local is_tombstone = string.byte(value, 2) % 2 == 1
    local is_ours = string.byte(value, 1) == 0xC7

Not `string.sub(a, 3, 10) < string.sub(b, 3, 10)`: Lua compares strings by `strcoll`,
and the server takes its collation from its environment.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from mcp_crew_redis.errors import CodecError, ValueTooLargeError

__all__ = [
    "HEADER_BYTES",
    "MAGIC",
    "MAX_EXPIRES_AT_MS",
    "MAX_STAMP",
    "MAX_VALUE_BYTES",
    "VERSION",
    "Sealed",
    "seal",
    "seal_tombstone",
    "unseal",
]

MAGIC: Final = 0xC7
VERSION: Final = 1
HEADER_BYTES: Final = 16
MAX_STAMP: Final = 2**53 - 1  # the largest integer that Lua's numbers hold exactly
MAX_EXPIRES_AT_MS: Final = 2**48 - 1
MAX_VALUE_BYTES: Final = 8 * 1024 * 1024

_HEADER: Final = Struct(">BBQHI")  # expires_at as its high 16 and low 32 bits
_PLAIN_MARK: Final = VERSION << 4
_TOMBSTONE_MARK: Final = _PLAIN_MARK | 0x1
_VIEW_FROM: Final = 16_384  # bytes; below it a copy costs less than a view
_pack = _HEADER.pack
_unpack_from = _HEADER.unpack_from
_new = tuple.__new__  # skips the argument parsing of Sealed(...), half its cost


# A tuple and not a frozen dataclass: making one costs a third, on every read.
class Sealed(NamedTuple):
    """A value as it was stored.

    Attributes:
        stamp: When it was written, in microseconds of the hybrid clock.
        expires_at_ms: Unix milliseconds, or None when the header does not say.
        is_tombstone: Whether this stands for a deleted value; payload is then empty.
        payload: The encoded value; a view into the stored bytes when it is large.
    """

    stamp: int
    expires_at_ms: int | None
    is_tombstone: bool
    payload: bytes | memoryview


def seal(
    stamp: int,
    payload: bytes,
    expires_at_ms: int | None = None,
    *,
    is_tombstone: bool = False,
    max_bytes: int = MAX_VALUE_BYTES,
) -> bytes:
    """Return `payload` behind its header.

    Args:
        stamp: Microseconds, 0 to 2^53 - 1.
        payload: The encoded value.
        expires_at_ms: Unix milliseconds; None when the value does not expire.
        is_tombstone: Whether this stands for a deleted value.
        max_bytes: The limit for header and payload together.

    Raises:
        ValueTooLargeError: Over `max_bytes`; nothing was made.
        CodecError: A number does not fit its field.
    """
    size = HEADER_BYTES + len(payload)
    if size > max_bytes:
        raise ValueTooLargeError(size, max_bytes)
    expires = expires_at_ms or 0
    if not (0 <= stamp <= MAX_STAMP and 0 <= expires <= MAX_EXPIRES_AT_MS):
        raise CodecError("a header holds stamps below 2^53 and expiries below 2^48 ms")
    mark = _TOMBSTONE_MARK if is_tombstone else _PLAIN_MARK
    return _pack(MAGIC, mark, stamp, expires >> 32, expires & 0xFFFFFFFF) + payload


def seal_tombstone(stamp: int, expires_at_ms: int | None = None) -> bytes:
    """Return what stands where a value was deleted at `stamp`."""
    return seal(stamp, b"", expires_at_ms, is_tombstone=True)


def unseal(data: bytes) -> Sealed:
    """Take header and payload apart.

    Raises:
        CodecError: The bytes are not ours: too short, without the magic byte, of a
            newer version, or a stamp out of range. The message says which.
    """
    if len(data) < HEADER_BYTES:
        raise CodecError(
            f"not a value of this layer: {len(data)} bytes, the header alone has "
            f"{HEADER_BYTES}"
        )
    magic, mark, stamp, high, low = _unpack_from(data)
    if magic != MAGIC or not _PLAIN_MARK <= mark <= _TOMBSTONE_MARK:
        raise _foreign(magic, mark)
    if stamp > MAX_STAMP:
        raise CodecError("not a value of this layer: its stamp is not below 2^53")
    payload = (
        data[HEADER_BYTES:]
        if len(data) < _VIEW_FROM
        else memoryview(data)[HEADER_BYTES:]
    )
    expires = (high << 32 | low) or None
    return _new(Sealed, (stamp, expires, mark == _TOMBSTONE_MARK, payload))


def _foreign(magic: int, mark: int) -> CodecError:
    if magic != MAGIC:
        return CodecError("not a value of this layer: the magic byte is missing")
    if mark >> 4 > VERSION:
        return CodecError(
            f"written in format {mark >> 4} by a newer release; this one reads "
            f"format {VERSION}"
        )
    if mark >> 4 < VERSION:
        return CodecError(f"not a value of this layer: no format {mark >> 4} exists")
    return CodecError("written by a newer release: it carries a flag unknown here")
