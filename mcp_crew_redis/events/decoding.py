"""Entries of a stream to events: what is written there was written by anybody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from mcp_crew_redis._wire.codec import MsgpackCodec
from mcp_crew_redis._wire.envelope import BODY, ENVELOPE, full_envelope, unpack_fields
from mcp_crew_redis._wire.streams import StreamName
from mcp_crew_redis._wire.validation import convert
from mcp_crew_redis.errors import CodecError
from mcp_crew_redis.events.event import Event
from mcp_crew_redis.events.schemas import EventCatalog

__all__ = ["FOREIGN", "Decoder", "parts_of"]

FOREIGN: Final = "foreign entry: not an event of ours"
"""Why an entry without our two fields is not decoded."""
_OURS: Final = 4  # names and values of an entry that we wrote


class Decoder:
    """Makes events of what stands in streams. Holds no state but the catalog.

    Args:
        codec: Of the payloads.
        catalog: Brings payloads of older versions up to date and says what they are
            validated as.
    """

    __slots__ = ("_decode", "_schema_of")

    def __init__(self, codec: MsgpackCodec, catalog: EventCatalog) -> None:
        self._decode = codec.decode
        self._schema_of = catalog.get

    def event(
        self,
        name: StreamName,
        entry_id: bytes,
        m: bytes | None,
        d: bytes | None,
        count: int = 0,
        payload_type: Any = None,
    ) -> Event[Any]:
        """Return the event of an entry.

        Args:
            name: Its stream.
            entry_id: Its place there.
            m: The field of that name: the envelope; None for none.
            d: The field of that name: the payload; None for none.
            count: How often it has been delivered, this time included.
            payload_type: What the payload is validated as; None for what the catalog
                says of the type.

        Raises:
            CodecError: It is no event of ours, or of a newer schema, or its payload
                cannot be brought up to date or is not what was agreed on. The message
                names the reason, never a value.
        """
        if m is None or d is None:
            raise CodecError(FOREIGN)
        tenant_id, event_type, lane, _ = name
        fields = unpack_fields(m)
        payload = self._decode(d)
        schema = self._schema_of(event_type)
        if schema is not None:
            version = full_envelope(fields).schema_version
            payload = schema.upcast(payload, version)
            payload_type = payload_type or schema.payload
        if payload_type is not None:
            payload = convert(payload, payload_type)
        return Event.of(event_type, tenant_id, lane, payload, fields, entry_id, count)

    def entry(
        self,
        name: StreamName,
        entry_id: bytes,
        fields: Sequence[bytes] | None,
        count: int = 0,
        payload_type: Any = None,
    ) -> Event[Any]:
        """Return the event of an entry as Redis gives it; see `event`.

        Args:
            name: Its stream.
            entry_id: Its place there.
            fields: Names and values in turn; None where the entry is gone.
            count: As for `event`.
            payload_type: As for `event`.

        Raises:
            CodecError: As for `event`.
        """
        m, d = parts_of(fields)
        return self.event(name, entry_id, m, d, count, payload_type)


def parts_of(fields: Sequence[bytes] | None) -> tuple[bytes | None, bytes | None]:
    """Return envelope and payload of an entry; None for what it has not."""
    if not fields:
        return None, None
    if len(fields) == _OURS and fields[0] == ENVELOPE and fields[2] == BODY:
        return fields[1], fields[3]
    table = dict(zip(fields[::2], fields[1::2], strict=False))
    return table.get(ENVELOPE), table.get(BODY)
