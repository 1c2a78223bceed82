"""Bytes to values: the parser, and what keeps hostile bytes from hurting it."""

from __future__ import annotations

from collections import Counter
from typing import Final

from msgpack import Unpacker, unpackb

from mcp_crew_redis._wire.extensions import (
    BAD_PAYLOAD,
    FROZENSET,
    MAX_NESTING,
    READERS,
    SET,
    TUPLE,
)
from mcp_crew_redis.errors import CodecError

__all__ = ["unpack"]

_SCAN_FROM: Final = 4_096  # bytes; what less can promise is harmless
_MAX_EQUAL_HASHES: Final = 64
_OTHER_KEYS: Final = "a map with keys other than str and bytes"


def unpack(data: bytes | memoryview) -> object:
    """Return the value of `data`, whoever wrote it.

    Raises:
        CodecError: It is not one encoded value.
    """
    try:
        return _unpack(data, _STRICT[0])
    except CodecError as error:
        if str(error) != _OTHER_KEYS:
            raise
    return _unpack(data, _OPEN[0])


class _Hooks:
    """A parser's settings at one depth of tuples and sets.

    The strict kind leaves dicts to C and stops at a key that is neither str nor bytes;
    the open kind takes any key, but looks at their hashes. Those of str and bytes are
    seeded per process; those of numbers are not, and a map of 100,000 chosen ones would
    take minutes to build.
    """

    __slots__ = ("_depth", "extension", "is_strict")

    def __init__(self, depth: int, *, is_strict: bool) -> None:
        self._depth = depth
        self.is_strict = is_strict
        self.extension = self._extension

    def _extension(self, code: int, payload: bytes) -> object:
        read = READERS.get(code)
        if read is not None:
            try:
                return read(payload)
            except (*BAD_PAYLOAD, IndexError):
                raise CodecError(f"a malformed extension of type {code}") from None
        if code not in (TUPLE, SET, FROZENSET):
            raise CodecError(f"extension type {code} is not known to this release")
        if self._depth == MAX_NESTING:
            raise CodecError(f"over {MAX_NESTING} tuples and sets within each other")
        deeper = (_STRICT if self.is_strict else _OPEN)[self._depth + 1]
        members = _unpack(payload, deeper)
        if not isinstance(members, list):
            raise CodecError(f"a malformed extension of type {code}")
        if code == TUPLE:
            return tuple(members)
        _check_hashes(members)
        return set(members) if code == SET else frozenset(members)


_STRICT: Final = tuple(_Hooks(i, is_strict=True) for i in range(MAX_NESTING + 1))
_OPEN: Final = tuple(_Hooks(i, is_strict=False) for i in range(MAX_NESTING + 1))


def _unpack(data: bytes | memoryview, hooks: _Hooks) -> object:
    try:
        if len(data) > _SCAN_FROM:
            _scan(data)
        if hooks.is_strict:
            return unpackb(data, ext_hook=hooks.extension, timestamp=3)
        return unpackb(
            data,
            ext_hook=hooks.extension,
            timestamp=3,
            strict_map_key=False,
            object_pairs_hook=_to_dict,
        )
    except CodecError:
        raise
    except Exception as error:  # noqa: BLE001 - the parser has many ways to say no
        if hooks.is_strict and "strict_map_key" in str(error):
            raise CodecError(_OTHER_KEYS) from None
        raise CodecError(f"not an encoded value ({type(error).__name__})") from None


def _scan(data: bytes | memoryview) -> None:
    """Refuse containers that promise more members than there are bytes.

    The parser makes room for what an array promises before it looks further: 1,000 of
    them, one in the other, would ask for a thousand times the value's size.
    """
    unpacker = Unpacker(None, max_buffer_size=len(data))
    unpacker.feed(data)
    unpacker.skip()


def _to_dict(pairs: list[tuple[object, object]]) -> dict[object, object]:
    _check_hashes([key for key, _ in pairs])
    return dict(pairs)


def _check_hashes(members: list[object]) -> None:
    if len(members) <= _MAX_EQUAL_HASHES:
        return
    # Counted by their hashes, equal ones meet in one entry instead of in a chain.
    _, most = Counter(map(hash, members)).most_common(1)[0]
    if most > _MAX_EQUAL_HASHES:
        raise CodecError("keys or members chosen to collide")
