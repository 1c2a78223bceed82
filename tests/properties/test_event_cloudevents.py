"""Laws of CloudEvents: an event comes back, and what is taken is told again."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_crew_redis.errors import CrewRedisError
from mcp_crew_redis.events.cloudevents import from_cloudevent, to_cloudevent
from mcp_crew_redis.events.event import Event
from mcp_crew_redis.events.kinds import EventPriority

characters = st.characters(codec="utf-8", exclude_categories=["Cc", "Cn", "Cs"])
names = st.text(characters, min_size=1, max_size=30)
types = st.from_regex(r"[a-z][a-z0-9_-]{0,5}(\.[a-z0-9_-]{1,5}){0,3}", fullmatch=True)
sources = st.from_regex(r"(https?://)?[a-z0-9/._~:@?=&%-]{1,20}", fullmatch=True)
attributes = st.booleans() | st.integers(-(2**31), 2**31 - 1) | names
taken = {"id", "type", "time", "data", "source", "subject", "priority", "sequence"}
extensions = st.dictionaries(
    st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True).filter(lambda n: n not in taken),
    attributes,
    max_size=4,
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | names
)
payloads = st.binary() | st.recursive(
    scalars,
    lambda each: st.lists(each, max_size=3) | st.dictionaries(names, each, max_size=3),
    max_leaves=8,
)
times = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)).map(  # noqa: DTZ001
    lambda when: when.replace(microsecond=when.microsecond // 1_000 * 1_000, tzinfo=UTC)
)
digits = "0123456789abcdef"
traces = st.builds(
    lambda trace, span: f"00-1{trace}-1{span}-01",
    st.text(digits, min_size=31, max_size=31),
    st.text(digits, min_size=15, max_size=15),
)
events = st.builds(
    Event.new,
    types,
    payloads,
    priority=st.sampled_from(EventPriority),
    key=st.none() | names,
    event_id=st.none() | names,
    source=st.none() | sources,
    correlation_id=st.none() | names,
    causation_id=st.none() | names,
    traceparent=st.none() | traces,
    tracestate=st.none() | st.text("abc=,", max_size=20),
    schema_version=st.integers(1, 1_000_000),
    expires_in=st.none() | st.integers(1, 10**8),
    occurred_at=st.none() | times,
    extensions=st.none() | extensions,
)


@settings(derandomize=True, max_examples=300)
@given(events)
def test_an_event_comes_back(event):
    """Through JSON text; what it says is all there."""
    told = json.loads(json.dumps(to_cloudevent(event), allow_nan=False))

    assert from_cloudevent(told) == event


@settings(derandomize=True, max_examples=300)
@given(events, st.data())
def test_any_mapping_is_an_event_or_an_error_of_ours(event, data):
    """An attribute replaced or taken away; what is taken is told again the same."""
    told = to_cloudevent(event)
    name = data.draw(st.sampled_from(sorted(told)) | names)
    told[name] = data.draw(attributes | scalars | st.lists(names, max_size=2))
    try:
        read = from_cloudevent(told)
    except CrewRedisError:
        return
    again = to_cloudevent(read)
    assert to_cloudevent(from_cloudevent(again)) == again
