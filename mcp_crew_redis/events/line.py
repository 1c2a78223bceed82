"""A line: one priority lane of one type of one tenant, as publishers know it."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from mcp_crew_redis._wire.codec import MsgpackCodec
from mcp_crew_redis._wire.envelope import Envelope, pack_envelope
from mcp_crew_redis._wire.keys import TenantKeys
from mcp_crew_redis._wire.streams import stream_key
from mcp_crew_redis.errors import ValueTooLargeError
from mcp_crew_redis.events.event import lane_of
from mcp_crew_redis.events.kinds import EventPriority, check_type
from mcp_crew_redis.events.making import make_envelope
from mcp_crew_redis.events.options import EventAttributes
from mcp_crew_redis.events.schemas import EventCatalog

__all__ = ["MAX_PAYLOAD_BYTES", "Draft", "Line", "Lines", "partition_of"]

MAX_PAYLOAD_BYTES: Final = 1024 * 1024
"""Limit of an encoded payload: what is larger belongs under a key of its own."""
MAX_LINES_KEPT: Final = 4_096  # of one tenant; about 2 MB
_encode: Final = MsgpackCodec().encode


def partition_of(name: bytes | str, count: int) -> int:
    """Return the partition of a key, or of an id where there is no key."""
    return crc_hqx(name.encode() if isinstance(name, str) else name, 0) % count


class Draft(NamedTuple):
    """One event, ready for its stream.

    Attributes:
        line: Where it belongs.
        envelope: Its attributes.
        stream: The key of its stream.
        head: The envelope, packed.
        body: The payload, encoded.
    """

    line: Line
    envelope: Envelope
    stream: bytes
    head: bytes
    body: bytes


class Line:
    """One lane of one type of one tenant.

    Args:
        keys: The tenant's.
        event_type: The type, checked.
        lane: Number of the lane.
        catalog: What was agreed on about the type.

    Attributes:
        keys: The tenant's.
        tenant_id: The tenant's name.
        event_type: The type.
        version: Of payloads as they are published now.
    """

    __slots__ = (
        "_check",
        "_count",
        "_streams",
        "event_type",
        "keys",
        "tenant_id",
        "version",
    )

    def __init__(
        self, keys: TenantKeys, event_type: str, lane: int, catalog: EventCatalog
    ) -> None:
        self.keys = keys
        self.tenant_id = keys.tenant_id
        self.event_type = event_type
        schema = catalog.get(event_type)
        self._check: Callable[[object], object] | None = None
        if schema is not None and schema.payload is not None:
            self._check = schema.check
        self.version = 1 if schema is None else schema.version
        self._count = count = catalog.partitions(event_type)
        numbers = (None,) if count == 1 else range(count)
        self._streams = [stream_key(keys, event_type, lane, each) for each in numbers]

    def draft(
        self, payload: object, key: str | None, attributes: EventAttributes
    ) -> Draft:
        """Return an event of this line, ready to be sent; raises as `publish`."""
        if attributes:
            given: dict[str, Any] = {**attributes}
            if given.get("schema_version") is None:
                given["schema_version"] = self.version
            envelope = make_envelope(key=key, **given)
        else:
            envelope = make_envelope(key=key, schema_version=self.version)
        return self.fill(envelope, payload)

    def fill(self, envelope: Envelope, payload: object) -> Draft:
        """Return the event with this envelope and payload, ready to be sent.

        Raises:
            CodecError: The payload is not what was agreed on, or no value.
            ValueTooLargeError: It has more than `MAX_PAYLOAD_BYTES`.
        """
        if self._check is not None:
            payload = self._check(payload)
        body = _encode(payload)
        if len(body) > MAX_PAYLOAD_BYTES:
            raise ValueTooLargeError(len(body), MAX_PAYLOAD_BYTES)
        stream = self._streams[0]
        if self._count > 1:
            name = envelope.id if envelope.key is None else envelope.key
            stream = self._streams[partition_of(name, self._count)]
        return _make(Draft, (self, envelope, stream, pack_envelope(envelope), body))


_make: Final = tuple.__new__


class Lines(dict[tuple[str, EventPriority], Line]):
    """The lines of one tenant, by type and priority; bounded.

    Args:
        keys: The tenant's.
        catalog: What was agreed on about types.
    """

    __slots__ = ("_catalog", "_keys")

    def __init__(self, keys: TenantKeys, catalog: EventCatalog) -> None:
        super().__init__()
        self._keys = keys
        self._catalog = catalog

    def of(self, event_type: str, priority: EventPriority) -> Line:
        """Return a line; raises as `line`."""
        try:
            return self[event_type, priority]
        except (KeyError, TypeError):  # not known yet; a list
            return self.line(event_type, priority)

    def line(self, event_type: str, priority: EventPriority) -> Line:
        """Return a line, remembered from now on.

        Raises:
            InvalidEventTypeError: The type is not one.
            DataError: The priority is none.
        """
        lane = lane_of(priority)
        line = Line(self._keys, check_type(event_type), lane, self._catalog)
        if len(self) >= MAX_LINES_KEPT:
            del self[next(iter(self))]
        self[line.event_type, EventPriority(lane)] = line
        return line
