"""How the envelope of a new event is filled in and checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from time import time_ns
from typing import Any, Final, TypeAlias

from mcp_crew_redis._wire.envelope import Envelope, Fields, full_envelope
from mcp_crew_redis._wire.ttl import ttl_ms
from mcp_crew_redis._wire.uuid7 import Uuid7, id_bytes
from mcp_crew_redis.errors import DataError, InvalidIdentifierError

__all__ = ["CURRENT", "MAX_NAME_BYTES", "make_envelope", "moment", "trace_bytes"]

MAX_NAME_BYTES: Final = 256
"""Limit of an id, a key or a source, each in UTF-8."""
MAX_EXTENSIONS: Final = 32
MAX_STATE: Final = 512  # characters of a tracestate; what W3C asks everyone to pass on
MAX_SCHEMA_VERSION: Final = 1_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_MIN_MS: Final = -62_135_596_800_000  # what `datetime` has: the years 1 to 9999
_MAX_MS: Final = 253_402_300_799_999
_TRACEPARENT: Final = re.compile(
    r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})"
)
_STATE: Final = re.compile(rf"[\t\x20-\x7e]{{0,{MAX_STATE}}}")
_SIMPLE: Final = (str, int, float, bool, bytes, type(None))

CURRENT: Final[ContextVar[Fields | None]] = ContextVar(
    "mcp_crew_redis_event", default=None
)
"""Of the event that is being handled here: what is published meanwhile descends from
it."""

_Origin: TypeAlias = tuple[
    bytes | str | None, bytes | str | None, bytes | None, str | None
]
_NO_ORIGIN: Final[_Origin] = (None, None, None, None)

_UNREAD: Final = Envelope(
    1, bytes(16), 0, "", None, None, None, None, 1, None, None, None
)

new_id: Final = Uuid7()
_make = tuple.__new__


def make_envelope(
    *,
    key: str | None = None,
    event_id: str | None = None,
    source: str | None = None,
    correlation_id: str | None = None,
    causation_id: str | None = None,
    traceparent: str | None = None,
    tracestate: str | None = None,
    schema_version: int = 1,
    expires_in: float | None = None,
    occurred_at: datetime | None = None,
    extensions: Mapping[str, Any] | None = None,
) -> Envelope:
    """Return the envelope of a new event; see `Event.new`.

    An id that is made here says when it happened; the time is not said again.

    Raises:
        InvalidIdentifierError: An id, key or source is empty or over 256 bytes.
        DataError: Another argument is out of range.
    """
    parent = CURRENT.get()
    correlation, causation, trace, state = _NO_ORIGIN
    if parent is not None:
        whole = full_envelope(parent)
        correlation, causation, trace, state = _origin(whole, traceparent)
    if correlation_id is not None:
        correlation = _id("correlation_id", correlation_id)
    if causation_id is not None:
        causation = _id("causation_id", causation_id)
    if traceparent is not None:
        trace = trace_bytes(traceparent)
    fields = (
        1,
        new_id() if event_id is None else _id("event_id", event_id),
        None if event_id is None and occurred_at is None else _occurred_ms(occurred_at),
        "" if source is None else _name("source", source),
        correlation,
        causation,
        trace,
        state if tracestate is None else _state(tracestate),
        1 if schema_version == 1 else _version(schema_version),
        None if key is None else _name("key", key),
        None if expires_in is None else _now_ms() + ttl_ms(expires_in),
        None if not extensions else _extensions(extensions),
    )
    return _make(Envelope, fields)


def moment(milliseconds: int) -> datetime:
    """Return a point in time, in UTC; one beyond the years 1 to 9999 as their end."""
    # Not by fromtimestamp: a float has no milliseconds that far out.
    return _EPOCH + timedelta(milliseconds=min(max(milliseconds, _MIN_MS), _MAX_MS))


def trace_bytes(traceparent: str) -> bytes:
    """Return W3C's `traceparent` as 26 bytes.

    Raises:
        DataError: It is not one, or its trace or parent is all zeros.
    """
    found = _match(_TRACEPARENT, traceparent)
    if (
        found is None
        or found[1] == "ff"
        or not (found[2].strip("0") and found[3].strip("0"))
    ):
        raise DataError(
            "traceparent has the form <version>-<trace id>-<parent id>-<flags> of W3C "
            "Trace Context, in lower-case hexadecimal digits"
        )
    return bytes.fromhex("".join(found.groups()))


def _origin(parent: Envelope, traceparent: str | None) -> _Origin:
    # Not checked again: whoever sent the state may have been more generous. It belongs
    # to its own trace.
    state = parent.tracestate if traceparent is None else None
    return parent.correlation or parent.id, parent.id, parent.trace, state


def _match(grammar: re.Pattern[str], text: object) -> re.Match[str] | None:
    return grammar.fullmatch(text) if isinstance(text, str) else None


def _id(what: str, text: str) -> bytes | str:
    return id_bytes(_name(what, text))


def _name(what: str, text: str) -> str:
    if not isinstance(text, str):
        raise InvalidIdentifierError(f"{what} is a string, not {type(text).__name__}")
    try:
        is_fit = 0 < len(text.encode()) <= MAX_NAME_BYTES
    except UnicodeEncodeError:
        is_fit = False
    if not is_fit:
        raise InvalidIdentifierError(
            f"{what} has 1 to {MAX_NAME_BYTES} bytes of valid UTF-8"
        )
    return text


def _state(tracestate: str) -> str:
    if _match(_STATE, tracestate) is None:
        raise DataError(
            f"tracestate is a string of at most {MAX_STATE} printable ASCII characters"
        )
    return tracestate


def _version(version: int) -> int:
    if type(version) is not int or not 1 <= version <= MAX_SCHEMA_VERSION:
        raise DataError(f"schema_version is an integer from 1 to {MAX_SCHEMA_VERSION}")
    return version


def _now_ms() -> int:
    return time_ns() // 1_000_000


def _occurred_ms(when: datetime | None) -> int:
    if when is None:
        return _now_ms()
    try:
        return (when - _EPOCH) // _MILLISECOND
    except (TypeError, OverflowError):  # no datetime, or one without a time zone
        raise DataError("occurred_at is a datetime with a time zone") from None


def _extensions(extensions: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(extensions, Mapping):
        raise DataError("extensions are a mapping of names to simple values")
    if len(extensions) > MAX_EXTENSIONS:
        raise DataError(f"an event has at most {MAX_EXTENSIONS} extensions")
    for name, value in extensions.items():
        _name("an extension's name", name)
        if not isinstance(value, _SIMPLE):
            raise DataError("extensions are strings, numbers, booleans, bytes or None")
    return dict(extensions)


def unread_envelope() -> Envelope:
    """Return what stands for an envelope that could not be read: made once."""
    return _UNREAD
