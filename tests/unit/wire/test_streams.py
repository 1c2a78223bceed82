"""Rules of the keys of events: streams, and what is kept beside them."""

from __future__ import annotations

import pytest

from mcp_crew_redis._wire import streams
from mcp_crew_redis._wire.keys import KeySpace, cluster_slot
from mcp_crew_redis._wire.streams import StreamName, stream_key, stream_name

SPACE = KeySpace()
KEYS = SPACE.tenant("acme")


def test_a_stream_is_named_by_type_and_lane():
    """And by its partition, where the type has several."""
    plain = stream_key(KEYS, "tool.discovered", 2)
    divided = stream_key(KEYS, "order.paid", 0, 13)

    assert plain == b"mcp-crew:events:{acme}:tool.discovered:normal"
    assert divided == b"mcp-crew:events:{acme}:order.paid:critical.13"


@pytest.mark.parametrize("lane", range(4))
@pytest.mark.parametrize("partition", [None, 0, 9, 255])
def test_a_stream_s_key_gives_back_its_name(lane, partition):
    """Parsing inverts building."""
    key = stream_key(KEYS, "tool.discovered", lane, partition)

    expected = StreamName("acme", "tool.discovered", lane, partition)
    assert stream_name(SPACE, key) == expected


@pytest.mark.parametrize(
    "tail",
    [
        "scheduled",
        "a.b",
        "a.b:urgent",
        "a.b:normal:",
        "a.b:normal.01",
        "a.b:normal.256",
        "a.b:normal.-1",
        "A.b:normal",
        ".b:normal",
        "a..b:normal",
        "a.:normal",
        "1a:normal",
        "a%2Eb:normal",
        "a" * 129 + ":normal",
    ],
)
def test_a_key_that_nobody_builds_is_no_stream(tail):
    """What somebody else put there is not taken for ours."""
    assert stream_name(SPACE, f"mcp-crew:events:{{acme}}:{tail}".encode()) is None


@pytest.mark.parametrize(
    "key",
    [
        b"mcp-crew:event:{acme}:a.b:normal",
        b"other:events:{acme}:a.b:normal",
        b"mcp-crew:events:{ac me}:a.b:normal",
        b"mcp-crew:events:acme:a.b:normal",
        b"\xff",
    ],
)
def test_a_key_of_another_place_is_no_stream(key):
    """Neither of another namespace or prefix, nor of no tenant."""
    assert stream_name(SPACE, key) is None


def every_key(keys, group="g", event_id="e"):
    return [
        stream_key(keys, "a.b", 2),
        streams.scheduled_key(keys),
        streams.scheduled_bodies_key(keys),
        streams.mark_key(keys, event_id),
        streams.parked_key(keys, group),
        streams.dead_key(keys, group),
        streams.tally_key(keys, group),
        streams.seen_key(keys, group, event_id),
    ]


def test_all_keys_of_a_tenant_s_events_share_one_slot():
    """One script may move an event from any of them to any other."""
    assert len({cluster_slot(key) for key in every_key(KEYS)}) == 1


def test_only_streams_and_due_times_ring_the_bell():
    """Bookkeeping would wake every consumer for nothing."""
    ringing = [key for key in every_key(KEYS) if b":events:" in key]

    assert ringing == [stream_key(KEYS, "a.b", 2), streams.scheduled_key(KEYS)]


def test_no_key_is_another_s():
    """Whatever groups, ids and tenants are called."""
    built = [
        key
        for tenant in ("acme", "acme.x", "x")
        for group in ("g", "mark", "seen")
        for key in every_key(SPACE.tenant(tenant), group, event_id=f"{group}:x")
    ]
    shared = 3  # keys that have no group in them: stream, due times and their bodies

    assert len(set(built)) == len(built) - 3 * 2 * shared


@pytest.mark.parametrize("event_id", ["é" * 128, "x" * 256, "a b", "=" + "0" * 64])
def test_an_id_of_any_length_has_its_key(event_id):
    """The longest id there is, encoded, would be longer than a key may be."""
    mark = streams.mark_key(KEYS, event_id)
    seen = streams.seen_key(KEYS, "g" * 64, event_id)

    assert max(len(mark), len(seen)) < 200
    assert SPACE.parse(mark) is not None


def test_a_hashed_id_is_nobody_s_plain_id():
    """Who calls an event like a hash gets a key of its own."""
    hashed = streams.mark_key(KEYS, "x" * 100)
    name = hashed.decode().rpartition(":")[2]

    assert name.startswith("=")
    assert streams.mark_key(KEYS, name) != hashed
