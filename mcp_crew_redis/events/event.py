"""`Event`: what happened, to whom it belongs, and what it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, Generic, TypeVar, cast

from mcp_crew_redis._wire.envelope import Envelope, Fields, full_envelope
from mcp_crew_redis._wire.uuid7 import id_text
from mcp_crew_redis.errors import DataError
from mcp_crew_redis.events.kinds import EventPriority, check_type
from mcp_crew_redis.events.making import make_envelope, moment
from mcp_crew_redis.types import WriteOutcome

__all__ = ["Event", "EventReceipt", "lane_of"]

P_co = TypeVar("P_co", covariant=True)
Q = TypeVar("Q")

_KEY: Final = Envelope._fields.index("key")
_NO_EXTENSIONS: Final[Mapping[str, Any]] = MappingProxyType({})
_PRIORITIES: Final = tuple(EventPriority)


class Event(Generic[P_co]):
    """One event. Immutable; made by `Event.new` or by whoever reads a stream."""

    __slots__ = (
        "_count",
        "_fields",
        "_lane",
        "_payload",
        "_stream_id",
        "_tenant_id",
        "_type",
    )
    _type: str
    _tenant_id: str
    _lane: int
    _payload: P_co
    _fields: Fields
    _stream_id: str | bytes
    _count: int

    def __init__(self) -> None:
        raise TypeError("events are made by Event.new(type, payload, ...)")

    @staticmethod
    def new(
        event_type: str,
        payload: Q,
        *,
        priority: EventPriority = EventPriority.NORMAL,
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
    ) -> Event[Q]:
        """Return an event that nobody has published yet.

        Inside a handler it descends from the event that is being handled: correlation,
        causation and trace context are taken from there unless they are given.

        Args:
            event_type: An `EventType` or dotted lower-case words.
            payload: A pydantic model, a dataclass, a mapping or any value of the codec.
            priority: Which lane it takes.
            key: What it is about; events of one key may be kept in order.
            event_id: Its name; a UUID of version 7 is made without one.
            source: Who says so.
            correlation_id: What all of this belongs to; the event's own id without one.
            causation_id: The id of the event that led to this one.
            traceparent: W3C trace context, as in the header of that name.
            tracestate: The header of that name.
            schema_version: Of the payload, 1 to 1,000,000.
            expires_in: Seconds after which nobody needs it any more.
            occurred_at: When it happened, with a time zone; now without one.
            extensions: Further attributes of simple kinds, by name.

        Raises:
            InvalidEventTypeError: The type is not one.
            InvalidIdentifierError: An id, key or source is empty or over 256 bytes.
            DataError: Another argument is out of range.
        """
        envelope = make_envelope(
            key=key,
            event_id=event_id,
            source=source,
            correlation_id=correlation_id,
            causation_id=causation_id,
            traceparent=traceparent,
            tracestate=tracestate,
            schema_version=schema_version,
            expires_in=expires_in,
            occurred_at=occurred_at,
            extensions=extensions,
        )
        return Event.of(
            check_type(event_type), "", lane_of(priority), payload, envelope
        )

    @staticmethod
    def of(
        event_type: str,
        tenant_id: str,
        lane: int,
        payload: object,
        envelope: Fields,
        stream_id: str | bytes = "",
        count: int = 0,
    ) -> Event[Any]:
        """Return an event from its parts, unchecked: for those who read streams."""
        self: Event[Any] = _allocate(Event)
        self._type = event_type
        self._tenant_id = tenant_id
        self._lane = lane
        self._payload = payload
        self._fields = envelope
        self._stream_id = stream_id
        self._count = count
        return self

    # --- what happened ----------------------------------------------------------------

    @property
    def id(self) -> str:
        """Its name, the same wherever it goes."""
        return id_text(self._fields[1])  # not by way of all of the envelope: a hot path

    @property
    def type(self) -> str:
        """What happened, as dotted words."""
        return self._type

    @property
    def tenant_id(self) -> str:
        """Whose it is; empty before it is published."""
        return self._tenant_id

    @property
    def payload(self) -> P_co:
        """What there is to say."""
        return self._payload

    @property
    def priority(self) -> EventPriority:
        """The lane it takes."""
        return _PRIORITIES[self._lane]

    @property
    def source(self) -> str:
        """Who says so; empty for nobody in particular."""
        return self.envelope.source

    @property
    def occurred_at(self) -> datetime:
        """When it happened, in UTC, to the millisecond."""
        return moment(self.envelope.at_ms)

    @property
    def key(self) -> str | None:
        """What it is about."""
        fields = self._fields
        return fields[_KEY] if len(fields) > _KEY else None  # as `id`

    @property
    def schema_version(self) -> int:
        """Version of the payload as it was published."""
        return self.envelope.schema_version

    @property
    def expires_at(self) -> datetime | None:
        """When nobody needs it any more, in UTC."""
        expires_ms = self.envelope.expires_ms
        return None if expires_ms is None else moment(expires_ms)

    @property
    def extensions(self) -> Mapping[str, Any]:
        """Further attributes."""
        return self.envelope.extensions or _NO_EXTENSIONS

    # --- what it came from ------------------------------------------------------------

    @property
    def correlation_id(self) -> str:
        """What all of this belongs to: the id of the first event of the chain."""
        correlation = self.envelope.correlation
        return self.id if correlation is None else id_text(correlation)

    @property
    def causation_id(self) -> str | None:
        """The id of the event that led to this one."""
        causation = self.envelope.causation
        return None if causation is None else id_text(causation)

    @property
    def traceparent(self) -> str | None:
        """W3C trace context, as in the header of that name."""
        trace = self.envelope.trace
        if trace is None:
            return None
        digits = trace.hex()
        return f"{digits[:2]}-{digits[2:34]}-{digits[34:50]}-{digits[50:]}"

    @property
    def tracestate(self) -> str | None:
        """The header of that name."""
        return self.envelope.tracestate

    # --- how it came ------------------------------------------------------------------

    @property
    def stream_id(self) -> str:
        """Its place in its stream; empty before it is published."""
        place = self._stream_id
        return place if isinstance(place, str) else place.decode("ascii", "replace")

    @property
    def delivery_count(self) -> int:
        """How often it has been delivered to this group, this time included; or 0."""
        return self._count

    @property
    def envelope(self) -> Envelope:
        """The attributes as they are packed; for integrations."""
        fields = self._fields
        if type(fields) is not Envelope:
            self._fields = fields = full_envelope(fields)
        return fields

    @property
    def fields(self) -> Fields:
        """The attributes as they came; for those who handle many."""
        return self._fields

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Event):
            return NotImplemented
        return _said(self) == _said(other)

    def __hash__(self) -> int:
        return hash((self._type, self._tenant_id, self._fields[1]))

    def __repr__(self) -> str:
        place = f" {self._tenant_id} {self.stream_id}" if self._stream_id else ""
        return f"<Event {self._type} {self.id}{place}>"  # never the payload


def _said(event: Event[Any]) -> tuple[object, ...]:
    """Return what was said of an event: all but where it was read."""
    envelope = event.envelope
    envelope = envelope._replace(occurred_ms=envelope.at_ms)
    return event.type, event.tenant_id, event.priority, event.payload, envelope


_allocate: Final = cast("Any", object.__new__)


def lane_of(priority: EventPriority) -> int:
    """Return the number of a priority's lane.

    Raises:
        DataError: It is no priority.
    """
    if priority not in _PRIORITIES:
        raise DataError("priority is one of EventPriority, CRITICAL to LOW")
    return int(priority)


@dataclass(frozen=True, slots=True)
class EventReceipt:
    """What became of one publish.

    Attributes:
        event_id: The event's name.
        stream_id: Its place in its stream; None when it is not there yet.
        is_duplicate: It was published before under this id; nothing was added.
        outcome: STORED, or DEFERRED: in the journal, published when Redis is back.
    """

    event_id: str
    stream_id: str | None = None
    is_duplicate: bool = False
    outcome: WriteOutcome = WriteOutcome.STORED
