"""Rules of schemas: what they accept, how payloads are brought up to date."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import pytest
from pydantic import BaseModel
from typing_extensions import TypedDict  # typing's own, only from Python 3.12

from mcp_crew_redis._wire.ttl import TtlPolicy
from mcp_crew_redis.errors import (
    CodecError,
    ConfigurationError,
    InvalidEventTypeError,
)
from mcp_crew_redis.events.kinds import EventType
from mcp_crew_redis.events.schemas import EventCatalog, EventSchema

HOUR, DAY = 3_600_000, 86_400_000


class Model(BaseModel):
    name: str
    size: int = 1


@dataclass(frozen=True)
class Record:
    name: str


class Typed(TypedDict):
    name: str


def schema(**options):
    return EventSchema(type="order.paid", **options)


# --- what is accepted ---------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("version", bad) for bad in (0, -1, 1.0, True, "1", 1_000_001)),
        *(
            ("retention", bad)
            for bad in (0, -1, float("nan"), float("inf"), "1h", 1e12)
        ),
        *(("hard_retention", bad) for bad in (0, True, "x", 1e300)),
        *(("partitions", bad) for bad in (0, 257, 1.5, True)),
        *(("upcasters", bad) for bad in ({1: len}, {0: len}, {"1": len}, [len], None)),
    ],
)
def test_a_value_out_of_range_is_named(name, value):
    """The error names the attribute and what it accepts."""
    with pytest.raises(ConfigurationError, match=rf"EventSchema\.{name}"):
        schema(**{name: value})


def test_a_bad_type_is_refused():
    """By the same rule as everywhere."""
    with pytest.raises(InvalidEventTypeError):
        EventSchema(type="Order")


def test_an_upcaster_is_a_function():
    """A mistake that would else be found on the first old event."""
    with pytest.raises(ConfigurationError, match="upcasters"):
        schema(version=2, upcasters={1: "function"})


def test_a_hard_limit_is_not_below_the_soft_one():
    """It would make the soft one mean nothing."""
    with pytest.raises(ConfigurationError, match="hard_retention"):
        schema(retention=60, hard_retention=59)


def test_a_schema_keeps_its_own_copy():
    """Of the upcasters; and its type is a plain string."""
    upcasters = {1: dict}
    made = EventSchema(type=EventType.ALERT_RAISED, version=2, upcasters=upcasters)
    upcasters.clear()

    assert type(made.type) is str
    assert dict(made.upcasters) == {1: dict}
    assert hash(made) == hash(made)
    assert repr(schema(payload=Model)) == "<EventSchema order.paid Model v1>"


# --- on publish ---------------------------------------------------------------
def test_an_instance_is_taken_as_it_is():
    """It has been validated when it was made."""
    model, record = Model(name="a"), Record("a")

    assert schema(payload=Model).check(model) is model
    assert schema(payload=Record).check(record) is record
    assert schema().check(object) is object


@pytest.mark.parametrize("kind", [Model, Record, Typed, dict[str, str]])
def test_a_mapping_is_validated(kind):
    """Of every kind that pydantic knows."""
    checked = schema(payload=kind).check({"name": "a"})

    expected = {"name": "a"} if kind not in (Model, Record) else kind(name="a")
    assert checked == expected


@pytest.mark.parametrize("kind", [Model, Record, Typed])
def test_a_payload_that_does_not_fit_is_refused(kind):
    """The error says that it is the payload, and repeats nothing of it."""
    with pytest.raises(CodecError) as caught:
        schema(payload=kind).check({"size": "secret"})

    assert str(caught.value).startswith(
        f"the payload is not a {kind.__name__}: missing"
    )
    assert "secret" not in str(caught.value)


# --- versions -----------------------------------------------------------------
def test_an_old_payload_goes_through_every_step():
    """From its version to this one, in order."""
    made = schema(
        version=3,
        upcasters={
            1: lambda old: {**old, "steps": ["1"]},
            2: lambda old: {**old, "steps": [*old["steps"], "2"]},
        },
    )

    assert made.upcast({"a": 1}, 1) == {"a": 1, "steps": ["1", "2"]}
    assert made.upcast({"steps": []}, 2) == {"steps": ["2"]}
    assert made.upcast({"a": 1}, 3) == {"a": 1}


@pytest.mark.parametrize(
    ("version", "reason"),
    [(4, "newer than the 3"), (1, "from version 1"), (0, "from version 0")],
)
def test_a_version_that_nothing_leads_on_from_is_an_error(version, reason):
    """A newer one, and one whose upcaster is missing."""
    with pytest.raises(CodecError, match=reason):
        schema(version=3, upcasters={2: dict}).upcast({}, version)


def test_an_upcaster_that_raises_is_named_without_its_words():
    """They may hold the payload."""
    made = schema(version=2, upcasters={1: lambda old: old["secret"]})

    with pytest.raises(CodecError) as caught:
        made.upcast({}, 1)

    assert str(caught.value) == "the upcaster from version 1 raised KeyError"


# --- the catalog --------------------------------------------------------------
def test_a_type_has_one_schema():
    """Two would be a matter of order."""
    with pytest.raises(ConfigurationError, match=r"order\.paid"):
        EventCatalog([schema(), schema(version=2)])


def test_a_catalog_finds_by_name_and_by_member():
    """A type of the crew is its name."""
    alert = EventSchema(type=EventType.ALERT_RAISED)
    catalog = EventCatalog([alert, schema(partitions=8)])

    assert catalog.get("alert.raised") is catalog.get(EventType.ALERT_RAISED) is alert
    assert catalog.get("other") is None
    assert (len(catalog), repr(catalog)) == (2, "<EventCatalog 2 schemas>")
    assert catalog.partitions("order.paid") == 8
    assert catalog.partitions("other") == 1


@pytest.fixture
def ttl():
    return TtlPolicy({"event.order": 60, "event.order.paid": 30}, random=Random(1))


@pytest.mark.parametrize(
    ("name", "soft", "hard"),
    [
        ("tool.discovered", DAY, 4 * DAY),  # the row `default`
        ("alert.raised", 7 * DAY, 28 * DAY),  # the row `alert`
        ("telemetry.cpu.core", HOUR, 4 * HOUR),
        ("telemetrics.x", DAY, 4 * DAY),  # words are whole
        ("order.placed", 60_000, 240_000),
        ("order.paid", 30_000, 120_000),  # the longest name counts
        ("order.paid.twice", 30_000, 120_000),
    ],
)
def test_without_a_schema_the_table_says_how_long_events_are_kept(
    ttl, name, soft, hard
):
    """The row called like the words that the type begins with."""
    assert EventCatalog().retention_ms(name, ttl) == (soft, hard)


@pytest.mark.parametrize(
    ("options", "soft", "hard"),
    [
        ({}, 30_000, 120_000),
        ({"retention": 5}, 5_000, 20_000),
        ({"retention": 5, "hard_retention": 6}, 5_000, 6_000),
        ({"hard_retention": 600}, 30_000, 600_000),
        ({"hard_retention": 10}, 30_000, 30_000),  # below the table's soft limit
    ],
)
def test_a_schema_s_retention_counts_more(ttl, options, soft, hard):
    """Each of both limits for itself."""
    catalog = EventCatalog([schema(**options)])

    assert catalog.retention_ms("order.paid", ttl) == (soft, hard)
