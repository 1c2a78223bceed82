"""Embedding vectors as bytes: an 8-byte header and the numbers, little endian.

    offset  size  field
    0       1     'E' (0x45)
    1       1     version, 1
    2       1     dtype: 0 float32, 1 float16
    3       1     reserved, 0
    4       4     dimensions, u32 little endian
    8       -     the numbers

A 1536-dimensional vector has 3,080 bytes as float16. Reading always gives float32: what
was stored as float16 fits without loss, and arithmetic on float16 is slow.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from mcp_crew_redis.errors import CodecError

__all__ = [
    "MAX_DIMENSIONS",
    "VECTOR_HEADER_BYTES",
    "Vector",
    "VectorDtype",
    "Vectors",
    "pack_vector",
    "pack_vectors",
    "unpack_vector",
    "unpack_vectors",
]

Vector: TypeAlias = npt.NDArray[np.float32]
Vectors: TypeAlias = npt.NDArray[np.float32]  # one vector a row
VectorDtype: TypeAlias = Literal["float16", "float32"]

MAX_DIMENSIONS: Final = 65_536
VECTOR_HEADER_BYTES: Final = 8

_HEADER: Final = Struct("<BBBBI")
_MAGIC: Final = 0x45
_VERSION: Final = 1
_DTYPES: Final = (np.dtype("<f4"), np.dtype("<f2"))
_CODES: Final = {"float32": 0, "float16": 1}


def pack_vector(vector: npt.ArrayLike, *, dtype: VectorDtype = "float16") -> bytes:
    """Return one vector as bytes.

    Raises:
        CodecError: Not one row of 1 to 65,536 finite real numbers, or too large a
            number for float16 (65,504).
    """
    row = _as_numbers(vector)
    if row.ndim != 1:
        raise CodecError(f"a vector has one dimension, not {row.ndim}")
    return pack_vectors(row[np.newaxis, :], dtype=dtype)[0]


def pack_vectors(
    vectors: npt.ArrayLike, *, dtype: VectorDtype = "float16"
) -> list[bytes]:
    """Return each row of a matrix as bytes, converted and checked in one go.

    Raises:
        CodecError: See `pack_vector`; nothing is returned for any row then.
    """
    code = _CODES.get(dtype)
    if code is None:
        raise CodecError("vectors are stored as float16 or float32")
    rows = _as_numbers(vectors)
    if rows.ndim != 2:  # noqa: PLR2004 - rows and columns
        raise CodecError(f"a batch of vectors has two dimensions, not {rows.ndim}")
    if not len(rows):
        return []
    dims = rows.shape[1]
    _check_dims(dims)
    with np.errstate(over="ignore"):  # looked for below, in all rows at once
        stored = np.ascontiguousarray(rows, dtype=_DTYPES[code])
    if not np.isfinite(stored).all():
        raise CodecError(_why_not_finite(rows, dtype))
    head = _HEADER.pack(_MAGIC, _VERSION, code, 0, dims)
    return [head + row.tobytes() for row in stored]


def unpack_vector(data: bytes, *, dims: int | None = None) -> Vector:
    """Return the stored vector as float32, free to be written to.

    Args:
        data: What `pack_vector` made.
        dims: When given, how many dimensions it must have.

    Raises:
        CodecError: The bytes are no vector, hold NaN or infinity, or it has other
            dimensions.
    """
    stored_dims, dtype = _read_header(data, dims)
    body = np.frombuffer(data, dtype, stored_dims, VECTOR_HEADER_BYTES)
    return _checked(body.astype(np.float32))


def unpack_vectors(
    items: Sequence[bytes | None], *, dims: int
) -> tuple[Vectors, npt.NDArray[np.bool_]]:
    """Return stored vectors as one matrix, and a mask of those that are there.

    Args:
        items: What `MGET` returned: None where there is nothing.
        dims: How many dimensions each has.

    Returns:
        float32 of shape `(len(items), dims)`, zero where nothing is stored, and a bool
        per item.

    Raises:
        CodecError: See `unpack_vector`, for any item.
    """
    _check_dims(dims)
    matrix = np.zeros((len(items), dims), np.float32)
    mask = np.fromiter((item is not None for item in items), np.bool_, len(items))
    bodies: dict[np.dtype[Any], tuple[list[int], list[bytes]]] = {}
    for index, item in enumerate(items):
        if item is not None:
            rows, parts = bodies.setdefault(_read_header(item, dims)[1], ([], []))
            rows.append(index)
            parts.append(item[VECTOR_HEADER_BYTES:])
    # Almost always one dtype, hence one conversion for the whole batch.
    for dtype, (rows, parts) in bodies.items():
        matrix[rows] = np.frombuffer(b"".join(parts), dtype).reshape(-1, dims)
    return _checked(matrix), mask


def _as_numbers(values: npt.ArrayLike) -> npt.NDArray[Any]:
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, OverflowError):
        raise CodecError("vectors are rows of numbers of one length") from None
    if array.dtype.kind not in "fiu":
        raise CodecError(f"vectors hold real numbers, not {array.dtype.name[:32]}")
    return array


def _check_dims(dims: int) -> None:
    if not 0 < dims <= MAX_DIMENSIONS:
        raise CodecError(f"a vector has 1 to {MAX_DIMENSIONS} dimensions")


def _why_not_finite(rows: npt.NDArray[Any], dtype: str) -> str:
    row = int(np.argmin(np.isfinite(rows).all(axis=1)))
    if not np.isfinite(rows[row]).all():
        return f"vector {row} holds NaN or infinity"
    return f"a number is too large for {dtype}; normalise the vectors or use float32"


def _read_header(data: bytes, dims: int | None) -> tuple[int, np.dtype[Any]]:
    if len(data) < VECTOR_HEADER_BYTES:
        raise CodecError("not a stored vector: too short")
    magic, version, code, reserved, stored_dims = _HEADER.unpack_from(data)
    if magic != _MAGIC or version == 0:
        raise CodecError("not a stored vector")
    if version > _VERSION or code >= len(_DTYPES) or reserved:
        raise CodecError("a vector written by a newer release")
    _check_dims(stored_dims)
    dtype = _DTYPES[code]
    if len(data) != VECTOR_HEADER_BYTES + stored_dims * dtype.itemsize:
        raise CodecError("a stored vector whose length is not what its header says")
    if dims is not None and dims != stored_dims:
        raise CodecError(f"a stored vector of {stored_dims} dimensions, not {dims}")
    return stored_dims, dtype


def _checked(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    if not np.isfinite(vectors).all():
        raise CodecError("a stored vector holds NaN or infinity")
    return vectors
