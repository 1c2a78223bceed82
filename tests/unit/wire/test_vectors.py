"""Rules of stored vectors."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from mcp_crew_redis._wire.vectors import (
    pack_vector,
    pack_vectors,
    unpack_vector,
    unpack_vectors,
)
from mcp_crew_redis.errors import CodecError


def test_layout_is_the_documented_one():
    """Eight bytes of header, then little-endian numbers."""
    half = pack_vector([1.0, -2.0])
    single = pack_vector([1.0], dtype="float32")

    assert half == b"E\x01\x01\x00\x02\x00\x00\x00" + struct.pack("<2e", 1.0, -2.0)
    assert single == b"E\x01\x00\x00\x01\x00\x00\x00" + struct.pack("<f", 1.0)


def test_a_1536_dimensional_vector_has_3080_bytes():
    """The bound of 3.8 kB per vector leaves room for its key."""
    assert len(pack_vector(np.zeros(1536))) == 3_080


def test_reading_gives_float32_that_can_be_written_to():
    """No view of the reply's bytes escapes."""
    vector = unpack_vector(pack_vector([1, 2]))
    vector[0] = 5

    assert vector.dtype == np.float32
    assert vector.tolist() == [5.0, 2.0]


def test_batch_is_one_matrix_with_a_mask():
    """Missing rows are zero and masked out; dtypes may be mixed."""
    half, single = pack_vector([1, 2]), pack_vector([3, 4], dtype="float32")
    matrix, mask = unpack_vectors([half, None, single], dims=2)

    assert matrix.tolist() == [[1, 2], [0, 0], [3, 4]]
    assert mask.tolist() == [True, False, True]


def test_empty_batch_is_an_empty_matrix():
    """Nothing asked, nothing refused."""
    matrix, mask = unpack_vectors([], dims=3)

    assert matrix.shape == (0, 3)
    assert mask.shape == (0,)
    assert pack_vectors(np.zeros((0, 3))) == []


@pytest.mark.parametrize(
    ("vector", "dtype", "message"),
    [
        ([1.0, np.nan], "float16", "NaN"),
        ([np.inf], "float32", "infinity"),
        ([70_000.0], "float16", "too large for float16"),
        ([1e39], "float32", "too large for float32"),
        ([[1.0]], "float16", "one dimension"),
        (3.0, "float16", "one dimension"),
        ([], "float16", "1 to 65536"),
        (np.zeros(65_537), "float16", "1 to 65536"),
        (["a"], "float16", "real numbers"),
        ([1j], "float16", "real numbers"),
        ([True], "float16", "real numbers"),
        ([None], "float16", "real numbers"),
        ([[1.0], [1.0, 2.0]], "float16", "one length"),
        ([1.0], "int8", "float16 or float32"),
    ],
)
def test_vector_that_cannot_be_stored_is_refused(vector, dtype, message):
    """Not finite, too large, or of no such shape or type."""
    with pytest.raises(CodecError, match=message):
        pack_vector(vector, dtype=dtype)


def test_refused_batch_names_the_row():
    """One bad vector among many can be found."""
    with pytest.raises(CodecError, match="vector 2 holds NaN"):
        pack_vectors([[1.0], [2.0], [np.nan]])


def test_large_vector_fits_float32():
    """What overflows float16 is kept by asking for more."""
    assert unpack_vector(pack_vector([70_000.0], dtype="float32")) == [70_000.0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "too short"),
        (b"E\x01\x01", "too short"),
        (b"X\x01\x01\x00\x01\x00\x00\x00\x00\x00", "not a stored vector"),
        (b"E\x02\x01\x00\x01\x00\x00\x00\x00\x00", "newer"),
        (b"E\x01\x07\x00\x01\x00\x00\x00\x00\x00", "newer"),
        (b"E\x01\x01\x01\x01\x00\x00\x00\x00\x00", "newer"),
        (b"E\x01\x01\x00\x01\x00\x00\x00\x00", "length"),
        (b"E\x01\x01\x00\xff\xff\xff\xff\x00\x00", "dimensions"),
        (b"E\x01\x01\x00\x00\x00\x00\x00", "dimensions"),
        (b"E\x01\x01\x00\x01\x00\x00\x00\x00\x7c", "infinity"),
        (b"E\x01\x01\x00\x02\x00\x00\x00\x00\x00\x00\x00", "2 dimensions, not 1"),
    ],
)
def test_bytes_that_are_no_vector_say_why(data, message):
    """Alone and in a batch alike."""
    with pytest.raises(CodecError, match=message):
        unpack_vector(data, dims=1)
    with pytest.raises(CodecError, match=message):
        unpack_vectors([data], dims=1)
