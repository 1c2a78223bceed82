"""Laws of headers, stamps and vectors."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mcp_crew_redis._wire.header import MAX_STAMP, seal, seal_tombstone, unseal
from mcp_crew_redis._wire.stamp import MAX_LEAD_US, HybridClock
from mcp_crew_redis._wire.vectors import pack_vectors, unpack_vector, unpack_vectors
from mcp_crew_redis.errors import CodecError

stamps = st.integers(0, MAX_STAMP)
expiries = st.none() | st.integers(1, 2**48 - 1)


@settings(derandomize=True)
@given(stamps, expiries, st.binary())
def test_unseal_inverts_seal(stamp, expires, payload):
    """Every field comes back."""
    assert unseal(seal(stamp, payload, expires)) == (stamp, expires, False, payload)
    assert unseal(seal_tombstone(stamp, expires)) == (stamp, expires, True, b"")


@settings(derandomize=True)
@given(stamps, stamps, expiries)
def test_order_of_bytes_is_order_of_stamps(one, other, expires):
    """Big endian: comparing the eight bytes compares the numbers."""
    first, second = seal(one, b"", expires)[2:10], seal(other, b"", expires)[2:10]

    assert (first < second, first == second) == (one < other, one == other)


@settings(derandomize=True)
@given(st.binary(max_size=40))
def test_foreign_bytes_raise_nothing_but_codec_error(data):
    """And what does open seals to the same bytes again."""
    for candidate in (data, b"\xc7\x10\x00" + data):
        try:
            stamp, expires, is_tombstone, payload = unseal(candidate)
        except CodecError:
            continue
        again = seal(stamp, bytes(payload), expires, is_tombstone=is_tombstone)
        assert again == candidate


class StillClock:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def wall(self):
        return 1_700_000_000.0

    async def sleep(self, seconds):
        raise NotImplementedError


steps = st.lists(
    st.one_of(
        st.tuples(st.just("stamp"), st.none()),
        st.tuples(st.just("pass"), st.floats(0, 100)),
        st.tuples(st.just("follow"), st.integers(-60_000_000, 60_000_000)),
        st.tuples(
            st.just("calibrate"),
            st.tuples(st.integers(-(10**10), 10**10), st.floats(0, 5)),
        ),
    ),
    max_size=60,
)


@settings(derandomize=True, max_examples=300)
@given(steps)
def test_stamps_never_go_back_and_follow_what_was_read(steps):
    """Whatever the server's clock, the wall and other writers do."""
    time = StillClock()
    clock = HybridClock(time)
    newest, shown = 0, 0
    for step, argument in steps:
        if step == "pass":
            time.now += argument
        elif step == "follow":
            read = clock.now_us() + argument
            if clock.follow(read) == 0:
                newest = max(newest, read)
            else:
                assert argument > MAX_LEAD_US
        elif step == "calibrate":
            server, round_trip = argument
            shown = clock.now_us() if newest else 0
            clock.calibrate(
                1_700_000_000_000_000 + server, time.now - round_trip, time.now
            )
            assert clock.now_us() >= shown - 1  # rounded to a microsecond
        given_stamp = clock.stamp()
        assert given_stamp > newest
        newest = given_stamp


@settings(derandomize=True)
@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=8),
        elements=st.floats(-65_000, 65_000, width=32),
    ),
    st.sampled_from(["float16", "float32"]),
)
def test_vectors_come_back_as_they_were_rounded(matrix, dtype):
    """float32 exactly, float16 to its precision; alone as in a batch."""
    packed = pack_vectors(matrix, dtype=dtype)
    expected = matrix.astype(dtype).astype(np.float32)
    back, mask = unpack_vectors(packed, dims=matrix.shape[1])

    np.testing.assert_array_equal(back, expected)
    assert mask.all()
    for row, item in zip(expected, packed, strict=True):
        np.testing.assert_array_equal(unpack_vector(item), row)


@settings(derandomize=True, max_examples=300)
@given(st.binary(max_size=40))
def test_bytes_that_are_no_vector_raise_nothing_but_codec_error(data):
    """Whoever wrote them."""
    for candidate in (data, b"E\x01\x01\x00" + data):
        try:
            unpack_vector(candidate)
        except CodecError:
            continue
