"""Laws of the codec: round trips, and nothing but CodecError on any bytes."""

from __future__ import annotations

from datetime import timedelta, timezone
from zoneinfo import ZoneInfo

import msgpack
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mcp_crew_redis._wire.codec import MsgpackCodec
from mcp_crew_redis.errors import CodecError

CODEC = MsgpackCodec()

zones = st.sampled_from(
    ["UTC", "America/Sao_Paulo", "Asia/Kathmandu", "Europe/London"]
).map(ZoneInfo)
offsets = st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**300), 2**300),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.dates(),
    st.datetimes(timezones=st.none() | zones | offsets),
    st.times(),
    st.timedeltas(),
    st.uuids(),
    st.decimals(allow_nan=False),
)
hashable = st.recursive(
    scalars,
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=6,
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(hashable, inner, max_size=4),
        st.tuples(inner, inner),
        st.sets(hashable, max_size=3),
    ),
    max_leaves=12,
)
arrays = hnp.arrays(
    st.one_of(
        hnp.boolean_dtypes(),
        hnp.integer_dtypes(),
        hnp.unsigned_integer_dtypes(),
        hnp.floating_dtypes(),
        hnp.complex_number_dtypes(sizes=(64, 128)),
    ),
    hnp.array_shapes(min_dims=0, min_side=0, max_dims=4),
)


def _same(one, other):
    """Equality that tells 1 from True and a fold from its twin."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return one == other and all(_same(one[key], other[key]) for key in one)
    if hasattr(one, "fold"):
        return (one, one.fold, one.utcoffset()) == (
            *(other, other.fold, other.utcoffset()),
        )
    return one == other


@settings(derandomize=True)
@given(values)
def test_decode_inverts_encode(value):
    """Every value comes back, with its types."""
    assert _same(CODEC.decode(CODEC.encode(value)), value)


@settings(derandomize=True)
@given(values)
def test_equal_bytes_are_stable_under_a_round_trip(value):
    """What was read and is written again is the same value to a journal."""
    encoded = CODEC.encode(value)

    assert CODEC.encode(CODEC.decode(encoded)) == encoded


@settings(derandomize=True)
@given(arrays)
def test_array_round_trip_keeps_every_bit(array):
    """NaN payloads and negative zeros too."""
    back = CODEC.decode(CODEC.encode(array))

    assert isinstance(back, np.ndarray)
    little = array.astype(array.dtype.newbyteorder("<"))
    assert (back.shape, back.dtype) == (little.shape, little.dtype)
    assert back.tobytes() == little.tobytes()


def _decodes_or_refuses(data):
    try:
        CODEC.decode(data)
    except CodecError:
        return
    except BaseException as error:  # the law itself: nothing else comes out
        raise AssertionError(data.hex()) from error


@settings(derandomize=True, max_examples=1_000)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_but_codec_error(data):
    """Whoever wrote them."""
    _decodes_or_refuses(data)


@settings(derandomize=True, max_examples=1_000)
@given(st.sampled_from([*range(9), 16, 17, 18, 127]), st.binary(max_size=60))
def test_arbitrary_extensions_raise_nothing_but_codec_error(code, payload):
    """Every reader takes any payload."""
    _decodes_or_refuses(msgpack.packb(msgpack.ExtType(code, payload)))
    _decodes_or_refuses(msgpack.packb({1: msgpack.ExtType(code, payload)}))
    _decodes_or_refuses(
        b"\x81" + msgpack.packb(msgpack.ExtType(code, payload)) + b"\xc0"
    )


@settings(derandomize=True, max_examples=500)
@given(values, st.data())
def test_damaged_values_raise_nothing_but_codec_error(value, data):
    """A byte changed, or the end missing."""
    encoded = bytearray(CODEC.encode(value))
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] = data.draw(st.integers(0, 255))

    _decodes_or_refuses(bytes(encoded))
    _decodes_or_refuses(bytes(encoded[:position]))
