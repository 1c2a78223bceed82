"""What travels with an event besides its payload: one msgpack array, shortest first.

    [1, id, occurred_ms, source, correlation, causation, trace, tracestate,
     schema_version, key, expires_ms, extensions]

Trailing fields that say nothing are left out. An id that is a UUID takes 16 bytes; one
of version 7 begins with the time, which is then not said again. The type, the priority
and the tenant are the stream's; `m` and `d` are the two fields of an entry: this, and
the payload.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgpack

from mcp_crew_redis.errors import CodecError

__all__ = [
    "BODY",
    "ENVELOPE",
    "Envelope",
    "Fields",
    "expires_ms",
    "full_envelope",
    "pack_envelope",
    "unpack_envelope",
    "unpack_fields",
]

ENVELOPE: Final = b"m"
BODY: Final = b"d"
_VERSION: Final = 1
_FIELDS: Final = 12
_EXPIRES: Final = 10  # the place of `expires_ms`
_LEAST_FIELDS: Final = 3  # version, id, time
_HEAD_FIELDS: Final = 4  # and the source
_NOTHING: Final = (1, b"", 0, "", None, None, None, None, 1, None, None, None)
_MAX_BYTES: Final = 64 * 1024
_MAX_NAME: Final = 256  # characters of an id or a key; nothing longer is written
_ID_BYTES: Final = 16
_TIME_BYTES: Final = 6  # at the beginning of a UUID of version 7
_TRACE_BYTES: Final = 26

_packb = msgpack.Packer(use_bin_type=True, autoreset=True).pack
_unpackb = msgpack.unpackb
_make = tuple.__new__

Fields = tuple[Any, ...]
"""The first of an envelope's fields, at least three."""


class Envelope(NamedTuple):
    """The fields of an envelope, as they are packed.

    Attributes:
        version: Of this format.
        id: The event's name: 16 bytes of a UUID, or text.
        occurred_ms: When it happened, in milliseconds since 1970; None for the moment
            that its id was made at.
        source: Who says so; empty for nobody in particular.
        correlation: The id of what all of this belongs to; None for the event's own.
        causation: The id of the event that led to this one.
        trace: W3C trace context: version, trace id, parent id, flags; 26 bytes.
        tracestate: W3C `tracestate` as it came.
        schema_version: Of the payload.
        key: What the event is about; events of one key may be kept in order.
        expires_ms: When nobody needs it any more, in milliseconds since 1970.
        extensions: Further attributes, by name.
    """

    version: int
    id: bytes | str
    occurred_ms: int | None
    source: str
    correlation: bytes | str | None
    causation: bytes | str | None
    trace: bytes | None
    tracestate: str | None
    schema_version: int
    key: str | None
    expires_ms: int | None
    extensions: dict[str, Any] | None

    @property
    def at_ms(self) -> int:
        """When it happened, in milliseconds since 1970."""
        at = self.occurred_ms
        if at is None and isinstance(self.id, bytes):
            return int.from_bytes(self.id[:_TIME_BYTES], "big")
        return at or 0


def pack_envelope(envelope: Envelope) -> bytes:
    """Return an envelope as bytes.

    Raises:
        CodecError: An extension cannot be packed, or there is too much of them.
    """
    end = _FIELDS
    while end > _LEAST_FIELDS and envelope[end - 1] == _NOTHING[end - 1]:
        end -= 1
    try:
        packed: bytes = _packb(envelope[:end])
    except (TypeError, ValueError, OverflowError) as error:
        raise CodecError(
            f"an event's attributes cannot be packed: {type(error).__name__}"
        ) from None
    if len(packed) > _MAX_BYTES:  # nobody would read it
        raise CodecError(
            f"an event's attributes take {len(packed)} bytes, the limit is {_MAX_BYTES}"
        )
    return packed


def unpack_envelope(data: bytes) -> Envelope:
    """Return the envelope in `data`; see `unpack_fields`.

    Raises:
        CodecError: As `unpack_fields`.
    """
    return full_envelope(unpack_fields(data))


def full_envelope(fields: Fields) -> Envelope:
    """Return the envelope of fields that `unpack_fields` has given."""
    return _make(Envelope, fields[:_FIELDS] + _NOTHING[len(fields) :])


def unpack_fields(data: bytes) -> Fields:
    """Return the fields of an envelope as they are packed: what is left out is missing.

    A plain tuple of atoms is nothing that the garbage collector keeps looking at. What
    a later release added at the end stays there.

    Raises:
        CodecError: These bytes are no envelope, or one of a format of the future.
    """
    if len(data) > _MAX_BYTES:
        raise CodecError(f"an envelope has at most {_MAX_BYTES} bytes")
    try:
        fields: Fields = _unpackb(data, use_list=False, strict_map_key=False)
    except Exception as error:  # noqa: BLE001 - msgpack raises many kinds
        raise CodecError(f"no envelope: {type(error).__name__}") from None
    if type(fields) is not tuple or len(fields) < _LEAST_FIELDS:
        raise CodecError("no envelope: not a list of fields")
    version, name, at = fields[:_LEAST_FIELDS]
    if version != _VERSION:
        raise CodecError("an envelope of another release")
    if (
        len(fields) == _LEAST_FIELDS
        and type(name) is bytes
        and len(name) == _ID_BYTES
        and (at is None or type(at) is int)
    ):
        return fields  # nearly all are like this
    envelope = full_envelope(fields)
    is_sound = _is_head_sound(envelope)
    if is_sound and len(fields) > _HEAD_FIELDS:
        is_sound = _is_tail_sound(envelope)
    if not is_sound:
        raise CodecError("no envelope: a field of another kind")
    return fields


def expires_ms(fields: Fields) -> int | None:
    """Return when nobody needs the event any more, in milliseconds since 1970."""
    return fields[_EXPIRES] if len(fields) > _EXPIRES else None


def _is_head_sound(envelope: Envelope) -> bool:
    """Whether the first fields are of their kinds; nobody of ours writes others."""
    name, at = envelope[1], envelope[2]
    if type(name) is bytes:
        is_sound = len(name) == _ID_BYTES and (at is None or type(at) is int)
    else:
        is_sound = _is_id(name) and type(at) is int
    return is_sound and type(envelope[3]) is str


def _is_tail_sound(envelope: Envelope) -> bool:
    """Whether those are that may be left out."""
    _, _, _, _, correlation, causation, trace, state, version, key, expires_ms, rest = (
        envelope
    )
    return (
        (correlation is None or _is_id(correlation))
        and (causation is None or _is_id(causation))
        and (trace is None or (type(trace) is bytes and len(trace) == _TRACE_BYTES))
        and (state is None or type(state) is str)
        and type(version) is int
        and (key is None or (type(key) is str and 0 < len(key) <= _MAX_NAME))
        and (expires_ms is None or type(expires_ms) is int)
        and (rest is None or _is_named(rest))
    )


def _is_id(value: object) -> bool:
    # Ids become parts of keys: without a limit a foreign one could not be handled.
    if type(value) is bytes:
        return len(value) == _ID_BYTES
    return type(value) is str and 0 < len(value) <= _MAX_NAME


def _is_named(extensions: object) -> bool:
    return type(extensions) is dict and all(type(name) is str for name in extensions)
