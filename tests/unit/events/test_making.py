"""Rules of a new envelope: what is refused, and what it takes from its parent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone, tzinfo

import pytest

from mcp_crew_redis._wire.envelope import Envelope
from mcp_crew_redis._wire.uuid7 import id_bytes
from mcp_crew_redis.errors import DataError, InvalidIdentifierError, InvalidTtlError
from mcp_crew_redis.events.making import CURRENT, make_envelope, moment, trace_bytes

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OTHER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


@contextmanager
def handling(envelope: Envelope) -> Iterator[None]:
    """Do as a consumer does around a handler."""
    token = CURRENT.set(envelope)
    try:
        yield
    finally:
        CURRENT.reset(token)


def test_a_bare_envelope_has_an_id_with_a_time():
    """Nothing else: what is not said takes no room."""
    before = datetime.now(UTC) - timedelta(milliseconds=1)

    made = make_envelope()

    assert len(made.id) == 16
    assert before <= moment(made.at_ms) <= datetime.now(UTC)
    assert made[2:] == (None, "", None, None, None, None, 1, None, None, None)


@pytest.mark.parametrize("name", ["key", "event_id", "source"])
@pytest.mark.parametrize("value", ["", "x" * 257, "é" * 129, "\ud800", 5, b"raw"])
def test_a_name_has_1_to_256_bytes(name, value):
    """In UTF-8; anything else is refused before it is sent."""
    with pytest.raises(InvalidIdentifierError, match=name):
        make_envelope(**{name: value})


@pytest.mark.parametrize("name", ["correlation_id", "causation_id"])
def test_an_origin_is_a_name_too(name):
    """A UUID takes its 16 bytes there as well."""
    text = "0190163d-8694-739b-aea5-966c26f8ad91"
    made = make_envelope(**{name: text})

    assert id_bytes(text) in made
    with pytest.raises(InvalidIdentifierError, match=name):
        make_envelope(**{name: ""})


class Nowhere(tzinfo):
    """A time zone that does not know its offset."""

    def utcoffset(self, _when):
        return None


@pytest.mark.parametrize(
    "when",
    [datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=Nowhere()), "now", 5],  # noqa: DTZ001
)
def test_a_time_without_a_zone_is_refused(when):
    """Nobody knows which moment that is."""
    with pytest.raises(DataError, match="time zone"):
        make_envelope(occurred_at=when)


@pytest.mark.parametrize(
    "when",
    [
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC),
        datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=timezone(timedelta(hours=-3))),
        datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC),
    ],
)
def test_a_time_comes_back_to_the_millisecond(when):
    """From the first year to the last, in any zone."""
    assert moment(make_envelope(occurred_at=when).at_ms) == when


@pytest.mark.parametrize("ms", [-(2**62), 2**63])
def test_a_time_beyond_the_calendar_is_its_end(ms):
    """A foreign number does not make an event unreadable."""
    assert moment(ms).year in (1, 9999)


@pytest.mark.parametrize(
    "text",
    [
        "",
        TRACE.upper(),
        TRACE + "-00",
        TRACE.replace("00-4", "ff-4"),
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
        None,
        TRACE.encode(),
    ],
)
def test_what_is_no_trace_context_is_refused(text):
    """The rules of W3C: lower case, a known version, nothing but zeros is nothing."""
    with pytest.raises(DataError, match="traceparent"):
        trace_bytes(text)


def test_a_trace_context_takes_26_bytes():
    """Half of what its text does."""
    assert trace_bytes(TRACE).hex() == TRACE.replace("-", "")


@pytest.mark.parametrize("state", ["x" * 513, "é", "a\nb", 5])
def test_a_tracestate_is_printable_and_short(state):
    """What W3C asks everyone to pass on, no more; no header is split by it."""
    with pytest.raises(DataError, match="tracestate"):
        make_envelope(traceparent=TRACE, tracestate=state)


@pytest.mark.parametrize("version", [0, -1, 1_000_001, "2", 1.5])
def test_a_schema_version_is_a_count(version):
    """From 1."""
    with pytest.raises(DataError, match="schema_version"):
        make_envelope(schema_version=version)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), 1e12, True])
def test_an_expiry_is_a_time_to_live(seconds):
    """In the same range as every other."""
    with pytest.raises(InvalidTtlError):
        make_envelope(expires_in=seconds)


def test_an_expiry_counts_from_now():
    """Not from when it happened."""
    made = make_envelope(occurred_at=datetime(2000, 1, 1, tzinfo=UTC), expires_in=60)

    left = moment(made.expires_ms) - datetime.now(UTC)
    assert timedelta(seconds=59) < left <= timedelta(seconds=60)


@pytest.mark.parametrize(
    "extensions",
    [
        {f"n{number}": 1 for number in range(33)},
        {"": 1},
        {5: 1},
        {"nested": {"a": 1}},
        {"list": [1]},
        ["name"],
        "name",
    ],
)
def test_extensions_are_few_and_simple(extensions):
    """Whatever has structure belongs into the payload."""
    with pytest.raises((DataError, InvalidIdentifierError)):
        make_envelope(extensions=extensions)


def test_extensions_are_copied():
    """Changing the caller's mapping later changes no event."""
    given = {"tier": "gold"}
    made = make_envelope(extensions=given)
    given["tier"] = "lead"

    assert made.extensions == {"tier": "gold"}
    assert make_envelope(extensions={}).extensions is None


# --- descent ------------------------------------------------------------------
def test_a_child_descends_from_what_is_handled():
    """Its cause is the parent; all of one chain share the first event's id."""
    first = make_envelope(event_id="first")
    with handling(first):
        second = make_envelope(event_id="second")
    with handling(second):
        third = make_envelope()

    assert (second.correlation, second.causation) == ("first", "first")
    assert (third.correlation, third.causation) == ("first", "second")
    assert make_envelope().causation is None


def test_what_is_given_counts_more_than_descent():
    """Each of the ids for itself."""
    with handling(make_envelope(event_id="parent")):
        made = make_envelope(correlation_id="saga-7")
        other = make_envelope(causation_id="reply-1")

    assert (made.correlation, made.causation) == ("saga-7", "parent")
    assert (other.correlation, other.causation) == ("parent", "reply-1")


def test_a_child_is_of_the_same_trace():
    """With its state, as long as no other trace is named."""
    parent = make_envelope(traceparent=TRACE, tracestate="a=1")
    with handling(parent):
        child = make_envelope()
        renamed = make_envelope(tracestate="b=2")
        other = make_envelope(traceparent=OTHER)

    assert (child.trace, child.tracestate) == (trace_bytes(TRACE), "a=1")
    assert (renamed.trace, renamed.tracestate) == (trace_bytes(TRACE), "b=2")
    assert (other.trace, other.tracestate) == (trace_bytes(OTHER), None)


def test_an_odd_state_of_a_parent_does_not_stop_its_children():
    """What came from elsewhere is passed on as it is."""
    parent = make_envelope(traceparent=TRACE)._replace(tracestate="x" * 2_000)
    with handling(parent):
        child = make_envelope()

    assert child.tracestate == "x" * 2_000
