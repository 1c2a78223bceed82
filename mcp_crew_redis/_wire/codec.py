"""Values to bytes and back: msgpack with extension types. Never pickle.

What the packer knows by itself (None, bool, int, float, str, bytes, list, dict) never
leaves C. Everything else is taken one step at a time:

    pydantic model, dataclass   a mapping of its fields       read back with `into=`
    Enum member                 its value                     read back with `into=`
    numpy number                Python's number
    subclass of a builtin       the builtin (a NamedTuple is a tuple)
    the rest                    an extension type, see `extensions.py`

`bytearray` and `memoryview` come back as `bytes`. Equal sets give equal bytes.
"""

from __future__ import annotations

from typing import Protocol, TypeVar, overload

from mcp_crew_redis._wire.header import MAX_VALUE_BYTES
from mcp_crew_redis._wire.packing import pack
from mcp_crew_redis._wire.unpacking import unpack
from mcp_crew_redis._wire.validation import convert
from mcp_crew_redis.errors import CodecError

__all__ = ["Codec", "MsgpackCodec"]

T = TypeVar("T")


class Codec(Protocol):
    """Turns values into bytes and back."""

    def encode(self, value: object) -> bytes:
        """Return `value` as bytes.

        Raises:
            CodecError: It cannot be encoded; names the type and where it is.
        """
        ...

    @overload
    def decode(self, data: bytes | memoryview) -> object: ...
    @overload
    def decode(self, data: bytes | memoryview, into: type[T]) -> T: ...
    @overload
    def decode(self, data: bytes | memoryview, into: type[T] | None) -> object: ...
    def decode(
        self, data: bytes | memoryview, into: type[T] | None = None
    ) -> T | object:
        """Return the value, validated as `into` when that is given.

        Raises:
            CodecError: The bytes are not an encoded value, or not an `into`.
        """
        ...


class MsgpackCodec:
    """The codec of every value: msgpack and the extension types.

    Safe on any bytes: the only error is `CodecError`, time and memory are linear in
    their number. It holds no state, so one may serve the whole process.

    Args:
        max_bytes: More than this is not decoded.
    """

    __slots__ = ("_max_bytes",)

    def __init__(self, *, max_bytes: int = MAX_VALUE_BYTES) -> None:
        self._max_bytes = max_bytes

    def encode(self, value: object) -> bytes:
        """Return `value` as bytes. See `Codec.encode`."""
        return pack(value)

    @overload
    def decode(self, data: bytes | memoryview) -> object: ...
    @overload
    def decode(self, data: bytes | memoryview, into: type[T]) -> T: ...
    @overload
    def decode(self, data: bytes | memoryview, into: type[T] | None) -> object: ...
    def decode(
        self, data: bytes | memoryview, into: type[T] | None = None
    ) -> T | object:
        """Return the value of `data`. See `Codec.decode`."""
        if len(data) > self._max_bytes:
            raise CodecError(
                f"{len(data)} bytes to decode, the limit is {self._max_bytes}"
            )
        value = unpack(data)
        return value if into is None else convert(value, into)
