"""Rules of the 16 bytes before a value."""

from __future__ import annotations

import struct

import pytest

from mcp_crew_redis._wire.header import (
    HEADER_BYTES,
    MAX_STAMP,
    seal,
    seal_tombstone,
    unseal,
)
from mcp_crew_redis.errors import CodecError, ValueTooLargeError


def test_header_has_the_documented_bytes():
    """Magic, version and flags, stamp, expiry; big endian; then the payload."""
    sealed = seal(0x01020304050607, b"payload", 0x0A0B0C0D0E0F)

    assert sealed == bytes.fromhex("c710 0001020304050607 0a0b0c0d0e0f") + b"payload"
    assert HEADER_BYTES == 16


def test_tombstone_is_one_bit():
    """The low bit of the second byte, and nothing behind the header."""
    tombstone = seal_tombstone(5, 9)

    assert len(tombstone) == 16
    assert tombstone[1] % 2 == 1
    assert unseal(tombstone) == (5, 9, True, b"")


def test_offsets_that_scripts_use_are_right():
    """What the docstring tells a Lua author to unpack, counted from 1 there."""
    sealed = seal(1_234_567_890_123_456, b"x", 1_700_000_000_123)

    assert struct.unpack(">Q", sealed[3 - 1 : 10])[0] == 1_234_567_890_123_456
    assert int.from_bytes(sealed[11 - 1 : 16], "big") == 1_700_000_000_123


def test_no_expiry_reads_as_none():
    """Zero in the field means: not known."""
    assert unseal(seal(1, b"x")).expires_at_ms is None


def test_large_payload_is_a_view():
    """An 8 MiB value is not copied to be looked at."""
    payload = unseal(seal(1, b"x" * 100_000)).payload

    assert isinstance(payload, memoryview)
    assert payload == b"x" * 100_000


def test_value_at_the_limit_is_accepted_and_above_it_refused():
    """The limit counts header and payload; the error tells both numbers."""
    assert len(seal(1, b"x" * 84, max_bytes=100)) == 100
    with pytest.raises(ValueTooLargeError) as caught:
        seal(1, b"x" * 85, max_bytes=100)

    assert (caught.value.size, caught.value.limit) == (101, 100)


def test_eight_mebibytes_are_the_usual_limit():
    """Refused before anything is made of it."""
    with pytest.raises(ValueTooLargeError):
        seal(1, bytes(8 * 1024 * 1024))


@pytest.mark.parametrize(
    ("stamp", "expires"), [(-1, 0), (MAX_STAMP + 1, 0), (1, -1), (1, 2**48)]
)
def test_number_that_does_not_fit_is_refused(stamp, expires):
    """Lua could not read it exactly."""
    with pytest.raises(CodecError):
        seal(stamp, b"", expires)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes"),
        (b"\xc7\x10" + bytes(13), "15 bytes"),
        (b"a plain string of another client", "magic"),
        (b"\xc7\x20" + bytes(14), "newer release"),
        (b"\xc7\x12" + bytes(14), "newer release"),
        (b"\xc7\x00" + bytes(14), "no format 0"),
        (b"\xc7\x10" + b"\xff" * 14, "2\\^53"),
    ],
)
def test_foreign_bytes_say_what_they_are(data, message):
    """Short, unmarked, of a newer format, or out of range."""
    with pytest.raises(CodecError, match=message):
        unseal(data)
