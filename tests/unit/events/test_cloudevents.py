"""Rules of CloudEvents: what an event becomes, and what becomes an event."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
import pytest
from pydantic import BaseModel

from mcp_crew_redis.errors import (
    CodecError,
    DataError,
    InvalidEventTypeError,
    InvalidIdentifierError,
)
from mcp_crew_redis.events.cloudevents import from_cloudevent, to_cloudevent
from mcp_crew_redis.events.event import Event
from mcp_crew_redis.events.kinds import EventPriority
from mcp_crew_redis.events.making import CURRENT, make_envelope

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
LEAST = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.paid"}


class Order(BaseModel):
    id: int
    paid_on: date


@dataclass
class Item:
    name: str
    price: Decimal


def data_of(payload):
    """Return what JSON has of a payload; it must be JSON."""
    data = to_cloudevent(Event.new("a.b", payload))["data"]
    return json.loads(json.dumps(data, allow_nan=False))


# --- there --------------------------------------------------------------------
def test_a_full_event_has_every_attribute():
    """Under the names of the specification and of its extensions."""
    event = Event.of(
        "order.paid",
        "acme",
        int(EventPriority.HIGH),
        {"total": 7},
        make_envelope(
            key="customer-7",
            event_id="e-1",
            source="https://shop.example/till",
            correlation_id="c-1",
            causation_id="e-0",
            traceparent=TRACE,
            tracestate="a=1",
            schema_version=2,
            occurred_at=datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC),
            extensions={"tier": "gold", "retry": 2, "raw": b"\xff", "rate": 0.5},
        )._replace(expires_ms=1_767_323_105_678),
        "1767323045700-3",
    )

    assert to_cloudevent(event) == {
        "specversion": "1.0",
        "id": "e-1",
        "source": "https://shop.example/till",
        "type": "order.paid",
        "time": "2026-01-02T03:04:05.678Z",
        "subject": "customer-7",
        "partitionkey": "customer-7",
        "datacontenttype": "application/json",
        "dataschema": "urn:mcp-crew:event:order.paid:2",
        "data": {"total": 7},
        "correlationid": "c-1",
        "causationid": "e-0",
        "expirytime": "2026-01-02T03:05:05.678Z",
        "traceparent": TRACE,
        "tracestate": "a=1",
        "priority": "high",
        "tenantid": "acme",
        "sequence": "00000001767323045700-00000000000000000003",
        "tier": "gold",
        "retry": 2,
        "raw": "/w==",
        "rate": "0.5",
    }


def test_what_says_nothing_is_left_out():
    """A plain event has what the specification requires, and little else."""
    told = to_cloudevent(Event.new("a.b", None))

    assert set(told) == {
        *("specversion", "id", "source", "type", "time", "dataschema"),
        *("datacontenttype", "data"),
    }
    assert (told["source"], told["data"]) == ("/mcp-crew", None)


@pytest.mark.parametrize(
    ("payload", "data"),
    [
        (Order(id=1, paid_on=date(2026, 1, 2)), {"id": 1, "paid_on": "2026-01-02"}),
        (Item("a", Decimal("1.50")), {"name": "a", "price": "1.50"}),
        ({"at": datetime(2026, 1, 2, tzinfo=UTC)}, {"at": "2026-01-02T00:00:00Z"}),
        ({"raw": b"\xff"}, {"raw": "_w=="}),
        ({1: (1, 2)}, {"1": [1, 2]}),
        (np.arange(3), [0, 1, 2]),
        ({"x": float("nan")}, {"x": None}),
        ("text", "text"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_payload_becomes_what_json_has(payload, data):
    """Models and dataclasses become mappings, times text."""
    assert data_of(payload) == data


def test_bytes_are_base64():
    """In the member of that name."""
    told = to_cloudevent(Event.new("a.b", b"\x00\xff"))

    assert told["data_base64"] == b64encode(b"\x00\xff").decode()
    assert told["datacontenttype"] == "application/octet-stream"
    assert "data" not in told


def test_a_payload_without_a_form_is_refused():
    """The error names the kind of trouble, not the payload."""
    looped: list[object] = ["secret"]
    looped.append(looped)
    for payload in (object(), {"secret": object()}, looped):
        with pytest.raises(CodecError) as caught:
            to_cloudevent(Event.new("a.b", payload))
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"key": "a\nb"},
        {"event_id": "a\x7f"},
        {"correlation_id": "\ufffe"},
        {"extensions": {"tier": "a\x00"}},
        {"extensions": {"camelCase": 1}},
        {"extensions": {"with_underscore": 1}},
        {"extensions": {"id": "other"}},
        {"extensions": {"data": "other"}},
        {"extensions": {"datacontenttype": 5}},
    ],
    ids=repr,
)
def test_what_cloudevents_cannot_say_is_refused(options):
    """Characters and names that its specification takes out."""
    with pytest.raises(DataError, match="CloudEvents"):
        to_cloudevent(Event.new("a.b", None, **options))


def test_a_source_becomes_a_uri_reference():
    """One that is one already stays as it is."""
    for source, told in [
        ("order service", "order%20service"),
        ("ação", "a%C3%A7%C3%A3o"),
        ("https://a.example/x%20y?z=1#n", "https://a.example/x%20y?z=1#n"),
    ]:
        assert to_cloudevent(Event.new("a", None, source=source))["source"] == told


# --- and back -----------------------------------------------------------------
def test_the_least_cloudevent_is_an_event():
    """Four attributes are required, no more."""
    event = from_cloudevent(LEAST)

    assert (event.id, event.source, event.type) == ("1", "/shop", "order.paid")
    assert (event.payload, event.key, event.extensions) == (None, None, {})
    assert event.priority is EventPriority.NORMAL
    assert abs((datetime.now(UTC) - event.occurred_at).total_seconds()) < 5


def test_attributes_of_others_are_extensions():
    """Kept as they are, and told again."""
    told = LEAST | {
        "tier": "gold",
        "count": 5,
        "flag": True,
        "unset": None,
        "priority": "urgent",
        "partitionkey": "p-1",
        "subject": "s-1",
        "dataschema": "https://schemas.example/order",
        "datacontenttype": "application/vnd.order+json; v=1",
        "data": {"a": 1},
        "time": "2026-01-02T03:04:05.678Z",
    }
    event = from_cloudevent(told)

    assert event.extensions["tier"] == "gold"
    assert (event.key, event.extensions["partitionkey"]) == ("s-1", "p-1")
    assert event.priority is EventPriority.NORMAL
    del told["unset"]
    assert to_cloudevent(event) == told


def test_the_partition_key_is_the_key_without_a_subject():
    """Whatever keeps events in order there does so here."""
    assert from_cloudevent(LEAST | {"partitionkey": "p-1"}).key == "p-1"


def test_nobody_is_put_in_place_by_a_cloudevent():
    """Tenant and place are those of whoever publishes it."""
    told = to_cloudevent(Event.of("a.b", "acme", 2, None, make_envelope(), "5-1"))
    event = from_cloudevent(told)

    assert (event.tenant_id, event.stream_id, event.extensions) == ("", "", {})


def test_an_expiry_may_have_passed():
    """Consumers then leave the event aside, as they would have."""
    event = from_cloudevent(LEAST | {"expirytime": "2001-01-01T00:00:00+01:00"})

    assert event.expires_at == datetime(2000, 12, 31, 23, tzinfo=UTC)


def test_it_descends_from_what_it_names_alone():
    """A handler that takes CloudEvents in is not their cause."""
    token = CURRENT.set(make_envelope(event_id="parent", traceparent=TRACE))
    event = from_cloudevent(LEAST)
    CURRENT.reset(token)

    assert (event.causation_id, event.correlation_id) == (None, "1")
    assert event.traceparent is None


@pytest.mark.parametrize(
    ("told", "payload"),
    [
        ({"data": {"a": [1, None]}}, {"a": [1, None]}),
        ({"data": "text"}, "text"),
        ({"data": "<a/>", "datacontenttype": "application/xml"}, "<a/>"),
        ({"data": None}, None),
        ({"data_base64": "AP8="}, b"\x00\xff"),
        ({"data_base64": "AP8=", "datacontenttype": "image/png"}, b"\x00\xff"),
    ],
)
def test_data_are_told_again_as_they_came(told, payload):
    """JSON, text of another type, and bytes."""
    event = from_cloudevent(LEAST | told)

    assert event.payload == payload
    again = to_cloudevent(event)
    assert {name: again[name] for name in told} == told


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ({"specversion": "0.3"}, "specversion"),
        ({"specversion": None}, "specversion"),
        ({"id": None}, "id"),
        ({"id": ""}, "id"),
        ({"id": 5}, "id"),
        ({"source": ""}, "source"),
        ({"type": None}, "type"),
        ({"time": "yesterday"}, "time"),
        ({"time": "2026-02-30T00:00:00Z"}, "time"),
        ({"time": "2026-01-02"}, "time"),
        ({"time": "2026-01-02T03:04:05"}, "time"),
        ({"time": 5}, "time"),
        ({"expirytime": "soon"}, "expirytime"),
        ({"subject": 5}, "subject"),
        ({"tier": {"a": 1}}, "tier"),
        ({"tier": 1.5}, "tier"),
        ({"tier": 2**31}, "tier"),
        ({"tier": "a\x00"}, "tier"),
        ({"Tier": 1}, "names"),
        ({"my_tier": 1}, "names"),
        ({5: 1}, "names"),
        ({"datacontenttype": 5}, "datacontenttype"),
        ({"data": 1, "data_base64": "AP8="}, "both"),
        ({"data_base64": "AP8"}, "Base64"),
        ({"data_base64": "A P 8="}, "Base64"),
        ({"data_base64": 5}, "Base64"),
        ({"data": {}, "datacontenttype": "text/plain"}, "datacontenttype"),
        ({"traceparent": "00-0"}, "traceparent"),
        ({"schemaversion": "two"}, "schema_version"),
    ],
    ids=repr,
)
def test_what_is_no_cloudevent_is_refused(told, name):
    """The error names the attribute, never its value."""
    with pytest.raises(DataError, match=name):
        from_cloudevent(LEAST | told)


@pytest.mark.parametrize("told", [None, [], "text", 5])
def test_only_a_mapping_is_a_cloudevent(told):
    """JSON has been parsed before."""
    with pytest.raises(DataError, match="mapping"):
        from_cloudevent(told)


def test_names_follow_the_rules_of_this_layer():
    """Types in lower case, and nothing longer than a name may be."""
    with pytest.raises(InvalidEventTypeError):
        from_cloudevent(LEAST | {"type": "com.example.orderPaid"})
    for name in ("id", "subject", "source", "correlationid"):
        with pytest.raises(InvalidIdentifierError):
            from_cloudevent(LEAST | {name: "x" * 257})
