"""What travels with an event besides its payload: one msgpack array, shortest first.

    [1, id, occurred_ms, source, correlation, causation, trace, tracestate,
     schema_version, key, expires_ms, extensions]

Trailing fields that say nothing are left out. An id that is a UUID takes 16 bytes. The
type, the priority and the tenant are the stream's; `m` and `d` are the two fields of
an entry: this, and the payload.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgpack

from mcp_crew_redis.errors import CodecError

__all__ = ["BODY", "ENVELOPE", "Envelope", "pack_envelope", "unpack_envelope"]

ENVELOPE: Final = b"m"
BODY: Final = b"d"
_VERSION: Final = 1
_FIELDS: Final = 12
_NOTHING: Final = (1, b"", 0, "", None, None, None, None, 1, None, None, None)
_MAX_BYTES: Final = 64 * 1024

_packb = msgpack.Packer(use_bin_type=True, autoreset=True).pack
_unpackb = msgpack.unpackb
_make = tuple.__new__


class Envelope(NamedTuple):
    """The fields of an envelope, as they are packed.

    Attributes:
        version: Of this format.
        id: The event's name: 16 bytes of a UUID, or text.
        occurred_ms: When it happened, in milliseconds since 1970.
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
    occurred_ms: int
    source: str
    correlation: bytes | str | None
    causation: bytes | str | None
    trace: bytes | None
    tracestate: str | None
    schema_version: int
    key: str | None
    expires_ms: int | None
    extensions: dict[str, Any] | None


def pack_envelope(envelope: Envelope) -> bytes:
    """Return an envelope as bytes.

    Raises:
        CodecError: An extension cannot be packed.
    """
    end = _FIELDS
    while end > 3 and envelope[end - 1] == _NOTHING[end - 1]:
        end -= 1
    try:
        return _packb(envelope[:end])  # type: ignore[no-any-return] # msgpack is untyped
    except (TypeError, ValueError, OverflowError) as error:
        raise CodecError(
            f"an event's attributes cannot be packed: {type(error).__name__}"
        ) from None


def unpack_envelope(data: bytes) -> Envelope:
    """Return the envelope in `data`; what a later release added is left aside.

    Raises:
        CodecError: These bytes are no envelope, or one of a format of the future.
    """
    if len(data) > _MAX_BYTES:
        raise CodecError(f"an envelope has at most {_MAX_BYTES} bytes")
    try:
        fields = _unpackb(data, use_list=False, strict_map_key=False)
    except Exception as error:  # noqa: BLE001 - msgpack raises many kinds
        raise CodecError(f"no envelope: {type(error).__name__}") from None
    if type(fields) is not tuple or len(fields) < 3:
        raise CodecError("no envelope: not a list of fields")
    if fields[0] != _VERSION:
        raise CodecError("an envelope of another release")
    whole = fields[:_FIELDS] + _NOTHING[len(fields) :]
    envelope = _make(Envelope, whole)
    if not _is_sound(envelope):
        raise CodecError("no envelope: a field of another kind")
    return envelope


def _is_sound(envelope: Envelope) -> bool:
    """Whether every field is of its kind; nobody of ours writes others."""
    name, key, trace = envelope.id, envelope.key, envelope.trace
    expires_ms = envelope.expires_ms
    return (
        (
            (type(name) is bytes and len(name) == 16)
            or (type(name) is str and name != "")
        )
        and type(envelope.occurred_ms) is int
        and type(envelope.source) is str
        and type(envelope.schema_version) is int
        and (key is None or type(key) is str)
        and (trace is None or (type(trace) is bytes and len(trace) == 26))
        and (expires_ms is None or type(expires_ms) is int)
        and _is_rest_sound(envelope)
    )


def _is_rest_sound(envelope: Envelope) -> bool:
    _, _, _, _, correlation, causation, _, state, _, _, _, extensions = envelope
    return (
        (correlation is None or _is_id(correlation))
        and (causation is None or _is_id(causation))
        and (state is None or type(state) is str)
        and (extensions is None or type(extensions) is dict)
    )


def _is_id(value: object) -> bool:
    return (type(value) is bytes and len(value) == 16) or type(value) is str
