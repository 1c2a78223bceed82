"""Rules of an event: what it tells, and that nobody changes it."""

from __future__ import annotations

import copy
from datetime import UTC, datetime

import numpy as np
import pytest

from mcp_crew_redis._wire.uuid7 import id_text
from mcp_crew_redis.errors import DataError, InvalidEventTypeError
from mcp_crew_redis.events.event import Event, EventReceipt, lane_of
from mcp_crew_redis.events.kinds import EventPriority, EventType
from mcp_crew_redis.events.making import make_envelope
from mcp_crew_redis.types import WriteOutcome

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_plain_event_tells_what_it_was_given():
    """And what is so without being said."""
    event = Event.new("tool.discovered", {"name": "search"})

    assert (event.type, event.payload) == ("tool.discovered", {"name": "search"})
    assert event.priority is EventPriority.NORMAL
    assert len(event.id) == 36
    assert event.correlation_id == event.id
    assert (event.causation_id, event.key, event.expires_at) == (None, None, None)
    assert (event.traceparent, event.tracestate) == (None, None)
    assert (event.source, event.schema_version, event.extensions) == ("", 1, {})
    assert (event.tenant_id, event.stream_id, event.delivery_count) == ("", "", 0)


def test_a_full_event_tells_what_it_was_given():
    """Every attribute comes out as it went in."""
    at = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
    event = Event.new(
        EventType.ALERT_RAISED,
        7,
        priority=EventPriority.CRITICAL,
        key="disk-1",
        event_id="alert-1",
        source="monitor",
        correlation_id="incident-9",
        causation_id="0190163d-8694-739b-aea5-966c26f8ad91",
        traceparent=TRACE,
        tracestate="a=1",
        schema_version=3,
        expires_in=60,
        occurred_at=at,
        extensions={"tier": "gold"},
    )

    assert type(event.type) is str
    assert (event.id, event.key, event.source) == ("alert-1", "disk-1", "monitor")
    assert event.priority is EventPriority.CRITICAL
    assert event.correlation_id == "incident-9"
    assert event.causation_id == "0190163d-8694-739b-aea5-966c26f8ad91"
    assert (event.traceparent, event.tracestate) == (TRACE, "a=1")
    assert (event.schema_version, event.occurred_at) == (3, at)
    assert event.expires_at is not None
    assert event.extensions == {"tier": "gold"}


def test_an_event_is_made_by_new():
    """Its constructor says so."""
    with pytest.raises(TypeError, match=r"Event\.new"):
        Event()


def test_a_bad_type_or_priority_is_refused():
    """Before anything is sent."""
    with pytest.raises(InvalidEventTypeError):
        Event.new("Tool", None)
    with pytest.raises(DataError, match="EventPriority"):
        Event.new("tool", None, priority="high")
    with pytest.raises(DataError, match="EventPriority"):
        lane_of(4)


def test_an_event_cannot_be_changed():
    """Neither its attributes nor new ones."""
    event = Event.new("a.b", 1)

    for name in ("id", "payload", "tenant_id", "note"):
        with pytest.raises(AttributeError):
            setattr(event, name, "other")
    with pytest.raises(TypeError):
        event.extensions["a"] = 1


def test_events_are_equal_when_all_that_was_said_is():
    """Where an event was read, and how often, is not said of it."""
    event = Event.new("a.b", {"n": 1}, event_id="e")
    read = Event.of("a.b", "", 2, {"n": 1}, event.envelope, "1-1", 3)

    assert event == read
    assert hash(event) == hash(read)
    assert event != Event.of("a.b", "acme", 2, {"n": 1}, event.envelope)
    assert event != Event.of("a.b", "", 2, {"n": 2}, event.envelope)
    assert event != "e"


def test_an_event_of_any_payload_is_equal_to_itself():
    """Arrays have no single answer to `==`."""
    event = Event.new("a.b", np.zeros(3))

    assert event == event  # noqa: PLR0124 - that is the rule


def test_a_copy_is_equal():
    """Shallow and deep."""
    event = Event.new("a.b", {"n": [1]})

    assert copy.copy(event) == copy.deepcopy(event) == event


def test_what_is_printed_of_an_event_holds_no_payload():
    """Nor a key: both are the user's."""
    envelope = make_envelope(event_id="e-1", key="secret")
    event = Event.of("a.b", "acme", 2, "secret", envelope, "5-0")

    assert repr(event) == "<Event a.b e-1 acme 5-0>"
    assert repr(Event.new("a.b", "secret", event_id="e-1")) == "<Event a.b e-1>"


def test_an_event_from_its_parts_is_as_it_was_read():
    """Those who read streams say which place it had."""
    envelope = make_envelope()
    event = Event.of("a.b", "acme", 3, None, envelope, "5-0", 2)

    assert (event.id, event.tenant_id) == (id_text(envelope.id), "acme")
    assert (event.stream_id, event.delivery_count) == ("5-0", 2)
    assert event.priority is EventPriority.LOW
    assert event.envelope is envelope


def test_a_receipt_tells_of_the_usual_case_by_default():
    """Stored, and new."""
    receipt = EventReceipt("e", "1-1")

    assert (receipt.is_duplicate, receipt.outcome) == (False, WriteOutcome.STORED)
