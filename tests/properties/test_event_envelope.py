"""Laws of events: envelopes and keys come back, nothing crosses, patterns are words."""

from __future__ import annotations

import re
from itertools import pairwise

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from mcp_crew_redis._wire import streams
from mcp_crew_redis._wire.envelope import Envelope, pack_envelope, unpack_envelope
from mcp_crew_redis._wire.keys import KeySpace, cluster_slot
from mcp_crew_redis._wire.streams import StreamName, stream_key, stream_name
from mcp_crew_redis._wire.uuid7 import Uuid7, id_bytes, id_text
from mcp_crew_redis.errors import CodecError, CrewRedisError, InvalidEventTypeError
from mcp_crew_redis.events.kinds import Pattern, check_type
from mcp_crew_redis.events.making import make_envelope, moment

SPACE = KeySpace()

text = st.text(max_size=40).filter(lambda t: not re.search("[\ud800-\udfff]", t))
names = text.filter(bool)
ids = st.binary(min_size=16, max_size=16) | names
simple = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | text
extensions = st.dictionaries(text, simple | st.floats(allow_nan=False), max_size=5)
milliseconds = st.integers(-(2**63), 2**64 - 1)
envelopes = st.builds(
    Envelope,
    st.just(1),
    ids,
    milliseconds,
    text,
    st.none() | ids,
    st.none() | ids,
    st.none() | st.binary(min_size=26, max_size=26),
    st.none() | text,
    st.integers(1, 2**40),
    st.none() | names,
    st.none() | milliseconds,
    st.none() | extensions,
)
words = st.text("abz09_-", min_size=1, max_size=4)
types = st.builds(
    ".".join,
    st.lists(words, min_size=1, max_size=4).filter(lambda w: w[0][0] in "abz"),
)
tenants = st.from_regex(
    r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,8}[A-Za-z0-9])?", fullmatch=True
)
groups = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,8}", fullmatch=True)
lanes = st.integers(0, 3)
partitions = st.none() | st.integers(0, 255)
stream_names = st.builds(StreamName, tenants, types, lanes, partitions)


def key_of(name: StreamName) -> bytes:
    keys = SPACE.tenant(name.tenant_id)
    return stream_key(keys, name.event_type, name.lane, name.partition)


# --- envelopes ----------------------------------------------------------------
@settings(derandomize=True, max_examples=300)
@given(envelopes, st.booleans())
def test_an_envelope_comes_back(envelope, is_timed_by_id):
    """Whatever its fields hold, and however many of them say something."""
    if is_timed_by_id and isinstance(envelope.id, bytes):
        envelope = envelope._replace(occurred_ms=None)
    assert unpack_envelope(pack_envelope(envelope)) == envelope


@settings(derandomize=True, max_examples=500)
@given(st.binary(max_size=200))
def test_any_bytes_are_an_envelope_or_a_codec_error(data):
    """No other error, no other type; what is taken can be packed again."""
    try:
        envelope = unpack_envelope(data)
    except CodecError:
        return
    assert unpack_envelope(pack_envelope(envelope)) == envelope


@settings(derandomize=True, max_examples=500)
@given(envelopes, st.data())
def test_damaged_bytes_are_an_envelope_or_a_codec_error(envelope, data):
    """One byte changed, or the end cut off."""
    packed = bytearray(pack_envelope(envelope))
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(packed)))
    try:
        read = unpack_envelope(bytes(packed[:end]))
    except CodecError:
        return
    assert isinstance(read, Envelope)
    moment(read.at_ms)


@settings(derandomize=True)
@given(st.text(max_size=60))
def test_an_id_comes_back_or_is_refused(name):
    """Nothing is cut, folded or normalised; what is refused is refused when made."""
    try:
        envelope = make_envelope(event_id=name, key=name)
    except CrewRedisError:
        return
    read = unpack_envelope(pack_envelope(envelope))
    assert (id_text(read.id), read.key) == (name, name)


@settings(derandomize=True)
@given(st.uuids())
def test_every_uuid_takes_sixteen_bytes(value):
    """And comes back as its text."""
    assert id_bytes(str(value)) == value.bytes
    assert id_text(value.bytes) == str(value)


@settings(derandomize=True)
@given(st.lists(st.integers(0, 2**44), min_size=1, max_size=50))
def test_ids_grow_whatever_the_clock_does(readings):
    """Forwards, backwards and standing still."""
    left = iter([reading * 1_000_000 for reading in readings])
    make = Uuid7(lambda: next(left))
    made = [make() for _ in readings]

    assert all(one < other for one, other in pairwise(made))


# --- keys ---------------------------------------------------------------------
@settings(derandomize=True)
@given(stream_names, stream_names)
def test_a_stream_s_key_is_its_own_and_gives_back_its_name(one, other):
    """Building is injective, parsing inverts it."""
    assert stream_name(SPACE, key_of(one)) == one
    assert (key_of(one) == key_of(other)) == (one == other)


@settings(derandomize=True, max_examples=500)
@given(st.text(max_size=40) | stream_names.map(lambda n: key_of(n)[23:].decode()))
@example("a:normal.256")
@example("a:normal.00")
def test_a_key_gives_none_or_a_name_that_builds_it_again(tail):
    """No key is taken for a stream that it is not."""
    key = b"mcp-crew:events:{acme}:" + tail.encode("utf-8", "replace")
    name = stream_name(SPACE, key)

    if name is not None:
        assert key_of(name) == key
        assert check_type(name.event_type) == name.event_type
        assert name.tenant_id == "acme"


def keys_of(tenant, group, event_id):
    keys = SPACE.tenant(tenant)
    return {
        "scheduled": streams.scheduled_key(keys),
        "bodies": streams.scheduled_bodies_key(keys),
        f"mark {event_id}": streams.mark_key(keys, event_id),
        f"parked {group}": streams.parked_key(keys, group),
        f"dead {group}": streams.dead_key(keys, group),
        f"tally {group}": streams.tally_key(keys, group),
        f"seen {group} {event_id}": streams.seen_key(keys, group, event_id),
    }


#: What make_envelope accepts as an id.
event_ids = names.filter(lambda name: len(name.encode()) <= 256)
places = st.tuples(tenants, groups, event_ids)


@settings(derandomize=True)
@given(places, places, stream_names)
def test_no_two_tenants_groups_or_ids_share_a_key(one, other, name):
    """Nor does a book lie where a stream does."""
    ours, theirs = keys_of(*one), keys_of(*other)

    for what, key in ours.items():
        for that, key_of_that in theirs.items():
            is_same = one[0] == other[0] and what == that
            assert (key == key_of_that) == is_same
        assert key != key_of(name)
        assert cluster_slot(key) == cluster_slot(f"{{{one[0]}}}".encode())
        parsed = SPACE.parse(key)
        assert parsed is not None
        assert parsed.tenant == one[0]


# --- patterns -----------------------------------------------------------------
def is_meant(pattern: list[str], name: list[str]) -> bool:
    """Match word by word: what a pattern means, said naively."""
    if not pattern:
        return not name
    if pattern == [">"]:
        return bool(name)
    return (
        bool(name) and pattern[0] in ("*", name[0]) and is_meant(pattern[1:], name[1:])
    )


pattern_words = st.lists(words | st.just("*"), max_size=4)
ends = st.sampled_from([[], [">"]])


@settings(derandomize=True, max_examples=500)
@given(pattern_words, ends, types, st.data())
def test_a_pattern_means_what_its_words_do(head, end, name, data):
    """Compared with a matcher that is too simple to be wrong."""
    pattern = head + end
    assume(pattern)
    split = name.split(".")
    if data.draw(st.booleans()):  # a pattern made of the name: those are rarely met
        pattern = [data.draw(st.sampled_from([word, "*"])) for word in split]
        pattern = pattern[: data.draw(st.integers(1, len(split)))] + end

    assert Pattern(".".join(pattern)).matches(name) == is_meant(pattern, split)


@settings(derandomize=True, max_examples=500)
@given(st.text("ab.*>-_9A ", max_size=8) | st.text(max_size=8))
def test_a_text_is_a_pattern_or_refused(text):
    """What is one has words, `*` for one of them, and `>` only at the end."""
    parts = text.split(".")
    is_fit = all(
        re.fullmatch(r"[a-z0-9_-]+|\*", part) or (part == ">" and at == len(parts) - 1)
        for at, part in enumerate(parts)
    )
    try:
        pattern = Pattern(text)
    except InvalidEventTypeError:
        assert not is_fit
        return
    assert is_fit
    assert pattern.text == text


@settings(derandomize=True)
@given(types)
def test_every_type_is_a_pattern_that_means_itself(name):
    """And is meant by those that stand for all."""
    assert check_type(name) == name
    assert Pattern(name).matches(name)
    assert Pattern(">").matches(name)
    assert Pattern("*").matches(name) == ("." not in name)
