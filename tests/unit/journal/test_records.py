"""Records: each field survives, and nothing else is taken for a record."""

from __future__ import annotations

import io
import struct
from zlib import crc32

import msgpack
import pytest

from mcp_crew_redis.store.journal.entries import Delta, Posting, Register
from mcp_crew_redis.store.journal.records import (
    _SHAPES,
    PREAMBLE,
    VERSION,
    Drop,
    Header,
    Put,
    UnknownRecordError,
    decode,
    encode_drop,
    encode_header,
    encode_put,
    identify,
    read_body,
    replay,
)
from tests.unit.journal.parts import delta, posting, register, state, tombstone

FIELDS = {
    Register: "key tenant_id sealed stamp expires_at_ms is_tombstone is_uncertain "
    "is_wall_time since_us trouble",
    Delta: "key tenant_id writer sequence amount ttl_ms made_us is_frozen frozen_us "
    "is_wall_time trouble",
    Posting: "id tenant_id kind order_key body made_us is_wall_time trouble",
}


def body_of(record: bytes) -> bytes:
    stream = io.BytesIO(record)
    body = read_body(stream.read, len(record))
    assert body is not None
    return body


def framed(body: bytes) -> bytes:
    length = struct.pack(">I", len(body))
    return length + struct.pack(">I", crc32(length + body)) + body


def replayed(*records: bytes) -> list[tuple[object, ...]]:
    table = {}
    for record in records:
        replay(table, decode(body_of(record)))
    return [state(put.entry) for put in table.values()]


def test_the_fields_of_this_version_are_these():
    """A change of an entry's fields is a new version of the format: raise VERSION."""
    names = {kind: " ".join(shape.names) for kind, shape in _SHAPES.items()}

    assert (VERSION, names) == (1, FIELDS)


@pytest.mark.parametrize("entry", [register(), tombstone(), delta(), posting()])
def test_every_field_survives(entry):
    """What is read is what was written, with no field at its default."""
    for name in ("is_uncertain", "is_wall_time", "is_frozen"):
        if hasattr(entry, name):
            setattr(entry, name, True)
    for name in ("since_us", "frozen_us"):
        if hasattr(entry, name):
            setattr(entry, name, 77)
    entry.trouble = "older than a tombstone: \udce9"

    read = decode(body_of(encode_put(entry, 42)))

    assert isinstance(read, Put)
    assert (state(read.entry), read.place) == (state(entry), 42)


def test_a_header_survives():
    """A header follows the preamble, which carries the version."""
    header = Header(target="t", owner="0a", number=3, made_us=8)

    written = encode_header(header)

    assert written[: len(PREAMBLE)] == b"CREWJNL\x01"
    assert decode(body_of(written[len(PREAMBLE) :])) == header


def test_a_drop_names_its_entry():
    """Whatever its kind."""
    for entry in (register(stamp=9), delta(), posting()):
        stamp = 9 if isinstance(entry, Register) else 0

        read = decode(body_of(encode_drop(entry)))

        assert read == Drop(identify(entry), stamp)


def test_the_last_record_of_an_entry_is_true():
    """A log replays to what is live."""
    first, second = register(stamp=1, value=b"1"), register(stamp=2, value=b"2")
    open_one, frozen = delta(amount=1), delta(amount=5)
    frozen.is_frozen = True

    left = replayed(
        encode_put(first, 0),
        encode_put(open_one, 1),
        encode_put(posting(), 2),
        encode_put(frozen, 1),
        encode_put(second, 0),
        encode_drop(posting()),
    )

    assert left == [state(second), state(frozen)]


@pytest.mark.parametrize(("stamp", "is_left"), [(4, True), (5, False), (6, False)])
def test_a_drop_counts_up_to_its_stamp(stamp, is_left):
    """The newer write of a key is not dropped with the older one."""
    left = replayed(
        encode_put(register(stamp=5), 0), encode_drop(register(stamp=stamp))
    )

    assert bool(left) is is_left


def test_a_delta_of_another_number_is_another_entry():
    """So is one of another writer."""
    other = delta()
    other.writer = "w2"

    left = replayed(
        *(encode_put(one, 0) for one in (delta(), delta(sequence=2), other)),
        encode_drop(delta()),
    )

    assert left == [state(delta(sequence=2)), state(other)]


def test_the_length_is_under_the_checksum():
    """Zeros, which a power cut leaves behind, are no record."""
    assert read_body(io.BytesIO(bytes(64)).read, 64) is None


@pytest.mark.parametrize("length", [2**32 - 1, 2**31, 257 * 2**20, 57])
def test_a_wrong_length_is_not_read(length):
    """No more is asked for than is there."""
    asked = []
    stream = io.BytesIO(struct.pack(">II", length, 0) + bytes(48))

    def read(count):
        asked.append(count)
        return stream.read(count)

    assert read_body(read, 56) is None
    assert asked == [8]


def test_a_torn_record_is_none():
    """At whatever byte it was torn."""
    record = encode_put(register(), 0)

    bodies = [
        read_body(io.BytesIO(record[:size]).read, size) for size in range(len(record))
    ]

    assert set(bodies) == {None}


@pytest.mark.parametrize(
    "members",
    [
        [],
        [99],
        [True, 1],
        {},
        ["1"],
        [6, 5],
        [6, "m1", "more"],
        [4, b"a", True],
        [1, 0, b"a", "acme", b"sealed", 1, 2, False, False, False, 0],
    ],
)
def test_a_whole_record_of_another_shape_is_of_a_newer_release(members):
    """It is never guessed at."""
    with pytest.raises(UnknownRecordError):
        decode(body_of(framed(msgpack.packb(members))))


@pytest.mark.parametrize("body", [b"\xc1", b"\x92\x01", b"\x01\x01", b"\x91" * 2_000])
def test_what_is_no_msgpack_is_of_a_newer_release(body):
    """Whatever it is, its checksum is right: somebody wrote it so."""
    with pytest.raises(UnknownRecordError):
        decode(body_of(framed(body)))
