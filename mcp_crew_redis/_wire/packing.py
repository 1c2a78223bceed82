"""Values to bytes: the packer, and what it is told about types it does not know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Final

import numpy as np
from msgpack import ExtType, Packer, StackError, Unpacker
from pydantic import BaseModel

from mcp_crew_redis._wire.extensions import (
    FROZENSET,
    INTEGER,
    MAX_NESTING,
    SET,
    TUPLE,
    WRITERS,
    write_integer,
)
from mcp_crew_redis._wire.locate import locate
from mcp_crew_redis._wire.validation import type_name
from mcp_crew_redis.errors import CodecError

__all__ = ["pack"]

_MAX_DEPTH: Final = 1_024


def pack(value: object) -> bytes:
    """Return `value` as bytes.

    Raises:
        CodecError: A part of it cannot be encoded; names its type and where it is.
    """
    try:
        return _LEVELS[0].pack(value)
    except Exception as error:  # noqa: BLE001 - models and enums run users' code
        # Without the cause: its text and its arguments hold the value.
        raise CodecError(_unencodable(value, error)) from None


class _Level:
    """A packer's settings at one depth of tuples and sets."""

    __slots__ = ("_depth", "default")

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self.default = self._default  # bound once, not on every call

    def pack(self, value: object) -> bytes:
        # A new packer each time is as fast as a kept one, needs no care about being
        # entered twice, and does not keep the buffer of the largest value ever seen.
        packer = Packer(default=self.default, strict_types=True, buf_size=1_024)
        packed: bytes = packer.pack(value)
        if len(packed) > _MAX_DEPTH and (b"\x90" in packed or b"\x80" in packed):
            _check_depth(packed)
        return packed

    def _default(self, value: object) -> object:
        extension = self._extension(value)
        if extension is not None:
            return extension
        plainer = _plainer(value)
        return plainer if _is_native(plainer) else self._default(plainer)

    def _extension(self, value: Any) -> object | None:
        kind = type(value)
        if kind is tuple:
            return _ext(TUPLE, self._deeper().pack(list(value)))
        if kind is int:
            return _ext(INTEGER, write_integer(value))
        if kind in _SETS:
            return _ext(_SETS[kind], self._members(value))
        found = WRITERS.get(kind) or _inherited(value)
        if found is None:
            return None
        code, write = found
        return _ext(code, write(value))

    def _members(self, value: Any) -> bytes:
        pack = self._deeper().pack
        members = sorted([pack(member) for member in value])
        header: bytes = Packer().pack_array_header(len(members))
        return header + b"".join(members)

    def _deeper(self) -> _Level:
        if self._depth == MAX_NESTING:
            raise CodecError(f"over {MAX_NESTING} tuples and sets within each other")
        return _LEVELS[self._depth + 1]


_LEVELS: Final = tuple(_Level(depth) for depth in range(MAX_NESTING + 1))
_SETS: Final[dict[type, int]] = {set: SET, frozenset: FROZENSET}
# Codes of numpy's bool, integers and float16 to 64: what Python has a number for.
_NUMBERS: Final = "?bBhHiIlLqQefd"
_NATIVE: Final = frozenset({type(None), bool, float, str, bytes, list, dict})


def _check_depth(packed: bytes) -> None:
    """Refuse the one depth that the packer writes and the parser does not read.

    Both stop at 1,024 containers in each other, but the packer lets an empty one (0x80,
    0x90) pass as the 1,025th.
    """
    unpacker = Unpacker(None, max_buffer_size=len(packed))
    unpacker.feed(packed)
    try:
        unpacker.skip()
    except StackError:
        raise RecursionError from None


def _ext(code: int, payload: bytes) -> object:
    made: object = ExtType(code, payload)
    return made


def _inherited(value: object) -> tuple[int, Callable[[Any], bytes]] | None:
    for base, found in WRITERS.items():
        # An array's subclass may mean more than its numbers: a mask, a unit.
        if isinstance(value, base) and base is not np.ndarray:
            return found
    return None


def _is_native(value: object) -> bool:
    if type(value) is int:
        return -(2**63) <= value < 2**64
    return type(value) in _NATIVE


def _plainer(value: object) -> object:
    """Return `value` one step nearer to what has an encoding of its own."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, BaseModel):
        return value.model_dump(by_alias=False, warnings="none")
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, np.generic) and value.dtype.char in _NUMBERS:
        return value.item()
    for base, build in _BASES.items():
        if isinstance(value, base):
            return build(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise CodecError(f"{type_name(type(value))} cannot be encoded")


# The base's own method and not its constructor: a subclass may have its own __str__.
_BASES: Final[dict[type, Callable[[Any], object]]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    bytes: lambda value: b"".join((value,)),
    dict: dict,
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
}


def _can_encode(value: object) -> bool:
    try:
        _LEVELS[0].pack(value)
    except Exception:  # noqa: BLE001 - see pack
        return False
    return True


def _unencodable(value: object, error: Exception) -> str:
    if isinstance(error, CodecError):
        reason = str(error)
    elif isinstance(error, UnicodeError):
        reason = "a str with a lone surrogate"
    elif isinstance(error, RecursionError) or "recursion limit" in str(error):
        reason = "nested too deep, or within itself"
    else:
        reason = f"raised {type(error).__name__}"
    if "nested" in reason or "within" in reason:
        return f"cannot encode the value: {reason}"
    where, kind = locate(value, _can_encode)
    return f"cannot encode {where} of type {type_name(kind)}: {reason}"
