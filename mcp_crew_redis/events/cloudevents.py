"""Events as CloudEvents 1.0 (CNCF), in the JSON format's structured mode, and back.

id, type, time           the event's
source                   the event's, as a URI-reference; nobody's is `/mcp-crew`
subject, partitionkey    the event's key
dataschema               type and version of the payload, unless it has another
data                     the payload as JSON has it; bytes are `data_base64`
correlationid, causationid, traceparent, tracestate, expirytime
                         the extensions of those names
priority                 critical, high or low
tenantid, sequence       whose it is, and its place in its stream; for those who
                         read it elsewhere, not taken back
any other                `Event.extensions`
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from pydantic_core import to_jsonable_python

from mcp_crew_redis.errors import CodecError, DataError
from mcp_crew_redis.events.cloud_terms import (
    BINARY,
    INTEGERS,
    JSON,
    SPEC_VERSION,
    is_json,
    is_name,
    is_text,
    moment_of,
    timestamp,
)
from mcp_crew_redis.events.event import Event
from mcp_crew_redis.events.kinds import EventPriority, check_type
from mcp_crew_redis.events.making import CURRENT, make_envelope

__all__ = ["from_cloudevent", "to_cloudevent"]

NOBODY: Final = "/mcp-crew"

_PRIORITIES: Final = {each.name.lower(): each for each in EventPriority}
_SCHEMA: Final = re.compile(r"urn:mcp-crew:event:([a-z0-9_.-]+):([1-9][0-9]{0,6})")
_TEXTS: Final = {"id", "source", "type", "subject", "datacontenttype", "dataschema"}
_URI_CHARACTERS: Final = ":/?#[]@!$&'()*+,;=-._~%"
#: Said by the event itself; nobody's extension may be called so.
_OURS: Final = frozenset(
    {"specversion", "id", "source", "type", "time", "subject", "data", "sequence"}
    | {"correlationid", "causationid", "traceparent", "tracestate", "expirytime"}
    | {"tenantid", "schemaversion"}
)


def to_cloudevent(event: Event[Any]) -> dict[str, Any]:
    """Return an event as a CloudEvent: a mapping that `json.dumps` takes.

    A source that is no URI-reference is percent-encoded. Of the extensions, what
    CloudEvents has no type for becomes text: floats and integers beyond 32 bits.

    Raises:
        CodecError: The payload has no form in JSON.
        DataError: An id, a key or an extension cannot be said in CloudEvents: control
            characters, or an extension's name that is not of a-z and 0-9 alone or
            belongs to another attribute.
    """
    said = {
        "specversion": SPEC_VERSION,
        "id": event.id,
        "source": _uri(event.source),
        "type": event.type,
        "time": timestamp(event.occurred_at),
        "subject": event.key,
        **_schema(event),
        **_origin(event),
        **_place(event),
    }
    found = _extensions(event.extensions)
    found |= {name: value for name, value in said.items() if value is not None}
    if event.key is not None:
        found.setdefault("partitionkey", event.key)
    for name, value in found.items():
        if isinstance(value, str) and not is_text(value):
            raise DataError(f"CloudEvents has no {name} with such characters")
    return found | _data(event.payload, found.get("datacontenttype"))


def _schema(event: Event[Any]) -> dict[str, Any]:
    version = event.schema_version
    if "dataschema" in event.extensions:  # it came from elsewhere and has its own
        return {"schemaversion": None if version == 1 else version}
    return {"dataschema": f"urn:mcp-crew:event:{event.type}:{version}"}


def _origin(event: Event[Any]) -> dict[str, str | None]:
    is_first = event.envelope.correlation is None
    expires_at = event.expires_at
    return {
        "correlationid": None if is_first else event.correlation_id,
        "causationid": event.causation_id,
        "traceparent": event.traceparent,
        "tracestate": event.tracestate,
        "expirytime": None if expires_at is None else timestamp(expires_at),
    }


def _place(event: Event[Any]) -> dict[str, str | None]:
    is_usual = event.priority is EventPriority.NORMAL
    is_usual &= event.extensions.get("priority") not in _PRIORITIES  # another's
    ms, _, number = event.stream_id.partition("-")
    return {
        "priority": None if is_usual else event.priority.name.lower(),
        "tenantid": event.tenant_id or None,
        # It must sort as text: 20 digits have room for 64 bits.
        "sequence": f"{ms:0>20}-{number:0>20}" if ms else None,
    }


def _extensions(extensions: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in extensions.items() if value is not None}
    for name, value in found.items():
        is_odd = name in _TEXTS and not isinstance(value, str)
        if is_odd or not is_name(name) or name in _OURS:
            raise DataError(
                f"CloudEvents cannot have the extension {name[:64]!r}: its name is of "
                "a-z and 0-9, and no other attribute's"
            )
    return {name: _attribute(value) for name, value in found.items()}


def _attribute(value: object) -> bool | int | str:
    if isinstance(value, bool | str):
        return value
    if isinstance(value, bytes):
        return b64encode(value).decode("ascii")
    return value if isinstance(value, int) and value in INTEGERS else str(value)


def _uri(source: str) -> str:
    return quote(source, safe=_URI_CHARACTERS) or NOBODY


def _data(payload: object, content_type: str | None) -> dict[str, Any]:
    if isinstance(payload, bytes):
        text = b64encode(payload).decode("ascii")
        return {"datacontenttype": content_type or BINARY, "data_base64": text}
    if isinstance(payload, str) and not is_json(content_type):
        return {"datacontenttype": content_type, "data": payload}
    try:
        data = to_jsonable_python(
            payload,
            by_alias=False,
            bytes_mode="base64",
            inf_nan_mode="null",
            fallback=_plain,
        )
    except Exception as error:  # noqa: BLE001 - models run the user's own code
        raise CodecError(
            f"the payload has no form in JSON: {type(error).__name__}"
        ) from None
    kept = content_type if is_json(content_type) else None
    return {"datacontenttype": kept or JSON, "data": data}


def _plain(value: Any) -> object:
    return value.tolist()  # numpy's; all else has no such method and is refused


def from_cloudevent(mapping: Mapping[str, Any]) -> Event[Any]:
    """Return the event that a CloudEvent tells of, ready to be published.

    Its key is the subject, else the partition key. It descends from no event that is
    being handled, only from those that it names. Whose it is decides who publishes
    it: `tenantid` and `sequence` are left out. What is not ours is in `extensions`.

    CloudEvents are unique by source and id together, events by their id alone: where
    several sources count for themselves, give other ids before publishing.

    Raises:
        InvalidEventTypeError: The type is not one here: lower-case dotted words.
        InvalidIdentifierError: An id, subject or source has over 256 bytes.
        DataError: It is no CloudEvent 1.0; names the attribute, never its value.
    """
    attributes = _checked(mapping)
    payload = _payload(mapping, attributes)
    lane = _PRIORITIES.get(str(attributes.get("priority")), EventPriority.NORMAL)
    if lane is not EventPriority.NORMAL:
        del attributes["priority"]
    event_type, expires_at = attributes.pop("type"), attributes.pop("expirytime", None)
    token = CURRENT.set(None)
    try:
        envelope = make_envelope(**_arguments(event_type, attributes))
    finally:
        CURRENT.reset(token)
    if expires_at is not None:
        expires_ms = round(moment_of("expirytime", expires_at).timestamp() * 1_000)
        envelope = envelope._replace(expires_ms=expires_ms)
    return Event.of(check_type(event_type), "", lane, payload, envelope)


def _checked(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a CloudEvent that are set, each of an allowed kind."""
    if not isinstance(mapping, Mapping):
        raise DataError("a CloudEvent is a mapping")
    found = {
        name: value
        for name, value in mapping.items()
        if value is not None and name not in ("data", "data_base64")
    }
    for name, value in found.items():
        if not is_text(name) or not is_name(name):
            raise DataError("names of CloudEvents' attributes are of a-z and 0-9")
        is_number = isinstance(value, int) and value in INTEGERS
        if not is_text(value) and (not is_number or name in _TEXTS):
            raise DataError(f"the CloudEvent's {name} is of no kind that it may be")
    if found.pop("specversion", None) != SPEC_VERSION:
        raise DataError(f"the CloudEvent's specversion is not {SPEC_VERSION!r}")
    for name in ("id", "source", "type"):
        if not found.get(name):
            raise DataError(f"the CloudEvent's {name} is missing or empty")
    return found


def _payload(mapping: Mapping[str, Any], attributes: dict[str, Any]) -> object:
    content_type = attributes.get("datacontenttype")
    encoded = mapping.get("data_base64")
    if encoded is None:
        data = mapping.get("data")
        if content_type == JSON:
            del attributes["datacontenttype"]
        elif (
            not is_json(content_type) and data is not None and not isinstance(data, str)
        ):
            raise DataError("the CloudEvent's data is JSON, its datacontenttype is not")
        return data
    if "data" in mapping:
        raise DataError("a CloudEvent has data or data_base64, not both")
    if content_type == BINARY:
        del attributes["datacontenttype"]
    try:
        return b64decode(encoded, validate=True)
    except (Base64Error, TypeError, ValueError):
        raise DataError("the CloudEvent's data_base64 is not Base64") from None


def _arguments(event_type: str, attributes: dict[str, Any]) -> dict[str, Any]:
    """Return what `make_envelope` is given; takes it out of the attributes."""
    take = attributes.pop
    for name in ("tenantid", "sequence"):
        take(name, None)
    source, at, key = take("source"), take("time", None), take("subject", None)
    key = attributes.get("partitionkey") if key is None else key
    if attributes.get("partitionkey") == key:
        take("partitionkey", None)
    version = take("schemaversion", 1)
    ours = _SCHEMA.fullmatch(str(attributes.get("dataschema")))
    if ours is not None and ours[1] == event_type:
        version = int(ours[2])
        del attributes["dataschema"]
    return {
        "event_id": take("id"),
        "source": None if source == NOBODY else source,
        "occurred_at": None if at is None else moment_of("time", at),
        "key": key,
        "correlation_id": take("correlationid", None),
        "causation_id": take("causationid", None),
        "traceparent": take("traceparent", None),
        "tracestate": take("tracestate", None),
        "schema_version": version,
        "extensions": attributes,
    }
