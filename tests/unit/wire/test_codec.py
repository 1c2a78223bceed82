"""Rules of the codec: what it keeps, what it refuses, what hostile bytes can do."""

from __future__ import annotations

import enum
import struct
import tracemalloc
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from types import MappingProxyType
from typing import Annotated, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import numpy as np
import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from mcp_crew_redis._wire.codec import Codec, MsgpackCodec
from mcp_crew_redis.errors import CodecError

SAO_PAULO = ZoneInfo("America/Sao_Paulo")
SECRET = "s3cret-value"


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 2


class Inner(BaseModel):
    when: datetime
    tags: set[str] = set()


class Outer(BaseModel):
    name: str = Field(alias="Name")
    inner: Inner


@dataclass
class Point:
    x: int
    y: float
    label: Colour = Colour.RED
    total: float = field(init=False, default=0.0)

    def __post_init__(self):
        self.total = self.x + self.y


@dataclass
class Labelled:
    label: object


class Pair(NamedTuple):
    left: int
    right: str


class Row(TypedDict):
    id: int
    name: str


class Text(str):
    __slots__ = ()

    def __str__(self):
        return "not this"


@pytest.fixture
def codec():
    return MsgpackCodec()


def _round_trip(codec, value, into=None):
    return codec.decode(codec.encode(value), into)


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 0, -1, 2**64 - 1, -(2**63), 1.5, "text", b"bytes", [], {}),
        *(2**64, -(2**63) - 1, 10**300, -(10**300)),
        *(date(1, 1, 1), date(9999, 12, 31), UUID(int=7)),
        *(timedelta(days=-999_999_999), timedelta.max, timedelta(microseconds=-1)),
        *(time(23, 59, 59, 999_999), time(1, tzinfo=UTC), time(1, fold=1)),
        *(Decimal("1.10"), Decimal("-0E-99"), Decimal("Infinity"), Decimal(10) ** 27),
        *((), (1, (2, ())), {1, "a", (2, 3)}, frozenset({None, 1.5}), set()),
        *({1: 2, None: 3, (1, 2): 4, b"k": 5, 1.5: 6}, [{"a": [{"b": (1,)}]}]),
    ],
    ids=lambda value: f"{type(value).__name__}-{str(value)[:20]}",
)
def test_value_comes_back_with_its_type(codec, value):
    """What Python distinguishes stays distinguished."""
    back = _round_trip(codec, value)

    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    "value",
    [
        datetime.fromisoformat("0001-01-01T00:00:00"),
        datetime.fromisoformat("9999-12-31T23:59:59.999999"),
        datetime.fromisoformat("2024-05-06T07:08:09.123457"),
        datetime(2024, 5, 6, tzinfo=UTC),
        datetime(2024, 5, 6, tzinfo=timezone(-timedelta(hours=3))),
        datetime(1900, 1, 1, tzinfo=timezone(timedelta(microseconds=1))),
        datetime(2018, 2, 17, 23, 30, tzinfo=SAO_PAULO),
        datetime(2018, 2, 17, 23, 30, fold=1, tzinfo=SAO_PAULO),
    ],
    ids=str,
)
def test_datetime_keeps_microseconds_offset_zone_and_fold(codec, value):
    """Naive stays naive, a zone stays a zone, the second 23:30 the second."""
    back = _round_trip(codec, value)

    assert back == value
    assert (back.utcoffset(), back.fold) == (value.utcoffset(), value.fold)
    if isinstance(value.tzinfo, ZoneInfo):
        assert back.tzinfo is value.tzinfo


@pytest.mark.parametrize("name", [b"No/Such", b"../../etc/passwd", b"", b"America"])
def test_unknown_zone_keeps_the_instant(codec, name):
    """A machine without that zone falls back to the offset that was in force."""
    payload = struct.pack(">qBq", 0, 2, -3_600_000_000) + name
    back = codec.decode(msgpack.packb(msgpack.ExtType(1, payload)))

    assert back == datetime(1970, 1, 1, tzinfo=timezone(-timedelta(hours=1)))


def test_signalling_nan_decimal_survives(codec):
    """It cannot be compared, but it can be kept."""
    assert str(_round_trip(codec, Decimal("sNaN123"))) == "sNaN123"


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.int16).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.zeros((0, 3), np.float16),
        np.array(1.5),
        np.array([True, False]),
        np.arange(4, dtype=">u8")[::2],
        np.array([1 + 2j], np.complex64),
    ],
    ids=lambda array: f"{array.dtype}-{array.shape}",
)
def test_array_comes_back_equal_and_writable(codec, array):
    """Shape and numbers stay; the bytes are little endian in C order."""
    back = _round_trip(codec, array)

    np.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype.newbyteorder("<")
    assert back.shape == array.shape
    assert back.flags.writeable


def test_near_relatives_become_the_builtin(codec):
    """Subclasses, enums, numpy numbers and views have a plain form."""
    value = [Colour.RED, Level.HIGH, Text("own"), Pair(1, "r"), np.float32(0.5)]
    value += [np.int64(3), np.bool_(1), bytearray(b"a"), memoryview(b"b")]
    value += [MappingProxyType({"k": 1})]

    back = _round_trip(codec, value)

    assert back == ["red", 2, "own", (1, "r"), 0.5, 3, True, b"a", b"b", {"k": 1}]
    assert [type(part) for part in back[:3]] == [str, int, str]


def test_equal_sets_give_equal_bytes(codec):
    """However they came about; a journal compares bytes."""
    forward = set(map(str, range(100)))
    backward = set(map(str, reversed(range(100))))

    assert codec.encode(forward) == codec.encode(backward)


def test_model_is_a_mapping_and_comes_back_by_into(codec):
    """By field name, whatever its alias; nested types included."""
    model = Outer(Name="n", inner=Inner(when=datetime.now(SAO_PAULO), tags={"a"}))

    assert _round_trip(codec, model) == model.model_dump()
    assert _round_trip(codec, model, Outer) == model
    assert _round_trip(codec, {"Name": "n", "inner": model.inner}, Outer) == model


def test_dataclass_is_a_mapping_and_comes_back_by_into(codec):
    """Fields made after construction are stored, and made again."""
    point = Point(1, 2.5)

    assert _round_trip(codec, point) == {"x": 1, "y": 2.5, "label": "red", "total": 3.5}
    assert _round_trip(codec, point, Point) == point


def test_into_takes_any_type_that_pydantic_knows(codec):
    """Builtin generics, TypedDict, NamedTuple, enums, unions, arrays."""
    assert _round_trip(codec, {1, 2}, list[int]) == [1, 2]
    assert _round_trip(codec, {"id": 1, "name": "n"}, Row) == {"id": 1, "name": "n"}
    assert _round_trip(codec, Pair(1, "r"), Pair) == Pair(1, "r")
    assert _round_trip(codec, Colour.RED, Colour) is Colour.RED
    assert _round_trip(codec, [1], list[int] | None) == [1]
    assert _round_trip(codec, 5, Annotated[int, ["not hashable"]]) == 5
    np.testing.assert_array_equal(_round_trip(codec, np.ones(2), np.ndarray), [1, 1])


@pytest.mark.parametrize(
    ("value", "into", "message"),
    [
        ({"name": SECRET}, Outer, r"not a Outer: missing at 'inner'"),
        ({"x": SECRET, "y": 1}, Point, r"not a Point: int_parsing at 'x', 1 in all"),
        ({SECRET: SECRET}, dict[str, int], r"not a dict\[str, int\]: int_parsing,"),
        (SECRET, Colour, "not a Colour"),
        (SECRET, Annotated[int, ["not hashable"]], "int_parsing"),
    ],
)
def test_failed_validation_names_type_and_field_never_the_value(
    codec, value, into, message
):
    """Neither in the message nor in the chain that a log would print."""
    with pytest.raises(CodecError, match=message) as caught:
        _round_trip(codec, value, into)

    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("into", ["NotDefined", 7, lambda: None])
def test_into_that_is_no_type_is_a_codec_error(codec, into):
    """One error, whatever was given."""
    with pytest.raises(CodecError):
        _round_trip(codec, 1, into)


class _BrokenZone(tzinfo):
    def utcoffset(self, _):
        raise RuntimeError(SECRET)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1, object()]}, r"value\['a'\]\[1\] of type object"),
        ({"a": {"b": len}}, r"value\['a'\]\['b'\] of type builtin_function"),
        ({SECRET: object()}, "value<value 0> of type object"),
        ({object(): 1}, "value<key 0> of type object"),
        ([Labelled(object())], r"value\[0\]\.label of type object"),
        ({(1, len)}, r"value<member 0>\[1\] of type builtin"),
        ("\ud800", "of type str: a str with a lone surrogate"),
        ([np.array([object()])], r"value\[0\] of type ndarray: .*dtype object"),
        (np.array(["text"]), "dtype str"),
        (np.ma.array([1], mask=[True]), "of type MaskedArray"),
        ([datetime(2024, 1, 1, tzinfo=_BrokenZone())], "raised RuntimeError"),
        (time(1, tzinfo=SAO_PAULO), "store a datetime"),
        (Decimal("1" * 5_000), "4096 digits"),
        (Point, "of type type"),
        (1j, "of type complex"),
    ],
)
def test_unencodable_part_is_named_by_type_and_place(codec, value, message):
    """Where to look, without what is there."""
    with pytest.raises(CodecError, match=message) as caught:
        codec.encode(value)

    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__


def test_too_deep_or_endless_values_are_refused(codec):
    """Within themselves, 1,025 lists deep, 10 tuples deep."""
    endless = []
    endless.append(endless)
    lists, tuples = [], 1
    for _ in range(1_024):
        lists = [lists]
    for _ in range(10):
        tuples = (tuples,)

    for value in (endless, lists, tuples):
        with pytest.raises(CodecError, match=r"nested|within"):
            codec.encode(value)


@pytest.mark.parametrize("leaf", [1, [], {}, ()], ids=repr)
def test_deepest_value_that_is_written_can_be_read(codec, leaf):
    """Seven tuples with 1,000 lists in each: the C stack holds."""
    value = leaf
    for _ in range(7):
        for _ in range(1_000):
            value = [value]
        value = (value,)

    assert codec.encode(codec.decode(codec.encode(value))) == codec.encode(value)


@pytest.mark.parametrize("leaf", [1, [], {}, ()], ids=repr)
def test_no_depth_is_written_that_cannot_be_read(codec, leaf):
    """Around 1,024, where both sides stop."""
    value = leaf
    for _ in range(1_020):
        value = [value]
    refused = 0
    for _ in range(10):
        value = [value]
        try:
            codec.decode(codec.encode(value))
        except CodecError as error:
            assert "cannot encode" in str(error)  # noqa: PT017 - not on reading
            refused += 1

    assert refused in range(5, 8)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\xa5abc",
        b"\x01\x02",
        b"\xa2\xff\xfe",
        b"\xd4\x63\x00",
        b"\xd4\x01\x00",
        b"\xd4\x10\xc0",
        b"\xd4\x11\xc1",
        b"\xd5\x11\x91\x90",
        b"\x81\x90\x01",
        b"\xd4\x08\x00",
        b"\xd5\x08\x63\x00",
        b"\xd7\x08\x02\x02\x00\x00\x00\x01\x00\x00",
        b"\xd6\x02\x00\x00\x00\x00",
        b"\xd6\x06zzzz",
        b"\xd6\x06\xff\xff\xff\xff",
        b"\xc7\x0c\xff" + b"\xff" * 12,
        b"\x90" * 2,
        b"\x91" * 2_000,
    ],
)
def test_malformed_bytes_are_a_codec_error(codec, data):
    """Truncated, trailing, unknown, contradictory, out of range or too deep."""
    with pytest.raises(CodecError):
        codec.decode(data)


def test_bytes_over_the_limit_are_not_decoded():
    """The error names both numbers."""
    with pytest.raises(CodecError, match="11 bytes to decode, the limit is 10"):
        MsgpackCodec(max_bytes=10).decode(b"\xaa" + b"x" * 10)


def test_promised_members_cost_no_memory(codec):
    """A thousand nested arrays of a million members each, in one megabyte."""
    size = 1_000_000
    evil = b"\xdd" + struct.pack(">I", size - 10_000)
    data = evil * 1_000 + b"\xc0" * (size - 5_000)

    tracemalloc.start()
    with pytest.raises(CodecError):
        codec.decode(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 8_000_000


def test_extensions_within_extensions_end_early(codec):
    """Each level costs the parser's stack: over 8 there is no next."""
    data = b"\xc0"
    for _ in range(500):
        data = msgpack.packb(msgpack.ExtType(16, b"\x91" + data))

    with pytest.raises(CodecError, match="over 8"):
        codec.decode(data)


@pytest.mark.parametrize("kind", ["map", "set"])
def test_members_chosen_to_collide_are_refused(codec, kind):
    """Numbers have unseeded hashes; 20,000 equal ones would take minutes."""
    colliding = [n * (2**61 - 1) for n in range(20_000)]
    if kind == "set":
        data = msgpack.packb(msgpack.ExtType(17, codec.encode(colliding)))
    else:
        body = b"".join(codec.encode(number) + b"\xc0" for number in colliding)
        data = b"\xde" + struct.pack(">H", len(colliding)) + body

    with pytest.raises(CodecError, match="collide"):
        codec.decode(data)


def test_a_large_honest_map_of_numbers_is_read(codec):
    """The guard against collisions does not hit what is merely large."""
    value = {n << 20: n for n in range(50_000)}

    assert _round_trip(codec, value) == value
    assert _round_trip(codec, set(value)) == set(value)


def test_codec_is_a_codec():
    """The class satisfies the protocol that the floors above see."""
    codec: Codec = MsgpackCodec()

    assert codec.decode(codec.encode(1), int) == 1
