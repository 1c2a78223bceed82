"""Entries as bytes of a journal's file, and back.

A file, called a segment, starts with eight bytes: `CREWJNL` and the format's version.
Records follow, the first of them the header:

    offset  size  field
    0       4     length of the body, big endian
    4       4     CRC32 of the length's four bytes and the body, big endian
    8       -     body: a msgpack array, its first member the record's kind

The length is under the checksum because zeros are what a power cut leaves behind, and
the CRC32 of nothing is zero.

A record states what an entry is now, not what was done to it. So of several records of
one identity the last is true, and reading a record twice changes nothing. Each carries
the entry's place: the order in which entries came, wherever a compaction has moved
their records since.

The members of an entry are its class's fields: a change of those is a new version.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from operator import attrgetter
from struct import Struct
from typing import Any, Final
from zlib import crc32

from msgpack import Packer, UnpackException, unpackb

from mcp_crew_redis.store.journal.entries import Delta, Entry, Posting, Register

__all__ = [
    "MAX_BODY_BYTES",
    "PREAMBLE",
    "VERSION",
    "Drop",
    "Header",
    "Identity",
    "Put",
    "Record",
    "UnknownRecordError",
    "decode",
    "encode_drop",
    "encode_header",
    "encode_put",
    "frame_bytes",
    "identify",
    "overrules",
    "read_body",
    "replay",
]

VERSION: Final = 1
PREAMBLE: Final = b"CREWJNL" + bytes([VERSION])
MAX_BODY_BYTES: Final = 256 * 1024 * 1024
"""No record is larger; a length above it is damage."""

_FRAME: Final = Struct(">II")
_LENGTH: Final = Struct(">I")

Identity = bytes | str | tuple[bytes, str, int]
"""A register's key, a posting's id, or a delta's key, writer and number."""


class UnknownRecordError(Exception):
    """The record is whole, but not of this format: a newer release has written it."""


class _Kind(IntEnum):
    HEADER = 0
    PUT_REGISTER = 1
    PUT_DELTA = 2
    PUT_POSTING = 3
    DROP_REGISTER = 4
    DROP_DELTA = 5
    DROP_POSTING = 6


_TYPES: Final[dict[object, type]] = {
    "bytes": bytes,
    "str": str,
    "int": int,
    "bool": bool,
}


class _Shape:
    """An entry's fields, in the order in which its class names them."""

    def __init__(self, kind: _Kind, entry_type: type[Entry]) -> None:
        declared = fields(entry_type)
        self.kind = int(kind)
        self.names = tuple(field.name for field in declared)
        self.types = (int, *(_TYPES[field.type] for field in declared))  # place first
        self.take: Callable[[Entry], tuple[object, ...]] = attrgetter(*self.names)
        self._entry_type: Callable[..., Entry] = entry_type

    def build(self, values: list[Any]) -> Put:
        return Put(
            self._entry_type(**dict(zip(self.names, values[1:], strict=True))),
            values[0],
        )


_SHAPES: Final = {
    Register: _Shape(_Kind.PUT_REGISTER, Register),
    Delta: _Shape(_Kind.PUT_DELTA, Delta),
    Posting: _Shape(_Kind.PUT_POSTING, Posting),
}
_PUTS: Final = {shape.kind: shape for shape in _SHAPES.values()}
_MEMBERS: Final[dict[int, tuple[type, ...]]] = {
    _Kind.HEADER: (str, str, int, int),
    _Kind.DROP_REGISTER: (bytes, int),
    _Kind.DROP_DELTA: (bytes, str, int),
    _Kind.DROP_POSTING: (str,),
} | {kind: shape.types for kind, shape in _PUTS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a segment says of itself.

    Attributes:
        target: A fingerprint of where its entries belong.
        owner: The unique name of the journal.
        number: The segment's place in the journal, from 1.
        made_us: When it was made, in microseconds since 1970.
    """

    target: str
    owner: str
    number: int
    made_us: int


@dataclass(frozen=True, slots=True)
class Put:
    """An entry as it is from here on, and its place among all of the journal."""

    entry: Entry
    place: int


@dataclass(frozen=True, slots=True)
class Drop:
    """An entry is over; of a register, what is not newer than `stamp`."""

    identity: Identity
    stamp: int = 0


Record = Header | Put | Drop


def identify(entry: Entry) -> Identity:
    """Return what makes two records speak of the same entry."""
    if isinstance(entry, Register):
        return entry.key
    if isinstance(entry, Posting):
        return entry.id
    return entry.key, entry.writer, entry.sequence


def overrules(entry: Entry, stamp: int) -> bool:
    """Whether `entry` stays when its identity is dropped as of `stamp`."""
    return isinstance(entry, Register) and entry.stamp > stamp


def replay(table: dict[Identity, Put], record: Put | Drop) -> None:
    """Bring the table of what is live to the state after `record`."""
    if isinstance(record, Put):
        table[identify(record.entry)] = record
        return
    known = table.get(record.identity)
    if known is not None and not overrules(known.entry, record.stamp):
        del table[record.identity]


# --- writing --------------------------------------------------------------------------


def encode_header(header: Header) -> bytes:
    """Return what a segment starts with: the preamble and the header's record."""
    members = (header.target, header.owner, header.number, header.made_us)
    return PREAMBLE + _seal((int(_Kind.HEADER), *members))


def encode_put(entry: Entry, place: int) -> bytes:
    """Return the record that keeps an entry as it is now.

    Raises:
        OverflowError: A number of it is not of 64 bits.
    """
    shape = _SHAPES[type(entry)]
    return _seal((shape.kind, place, *shape.take(entry)))


def encode_drop(entry: Entry) -> bytes:
    """Return the record that drops an entry; a register's newer state stays."""
    members: tuple[object, ...]
    if isinstance(entry, Register):
        members = (int(_Kind.DROP_REGISTER), entry.key, entry.stamp)
    elif isinstance(entry, Posting):
        members = (int(_Kind.DROP_POSTING), entry.id)
    else:
        members = (int(_Kind.DROP_DELTA), entry.key, entry.writer, entry.sequence)
    return _seal(members)


def _seal(members: Sequence[object]) -> bytes:
    # An error's text may hold half a surrogate pair: it is kept as it is.
    packer = Packer(unicode_errors="surrogatepass", buf_size=1_024)
    body: bytes = packer.pack(members)
    return _FRAME.pack(len(body), _checksum(len(body), body)) + body


def _checksum(length: int, body: bytes) -> int:
    return crc32(body, crc32(_LENGTH.pack(length)))


# --- reading --------------------------------------------------------------------------


def read_body(read: Callable[[int], bytes], remaining: int) -> bytes | None:
    """Return the body of the record that comes next, or None if it is damaged.

    Args:
        read: Gives the next so many bytes of the segment, fewer at its end.
        remaining: How many bytes are left; no more is ever asked for, so a wrong
            length costs no memory.
    """
    if remaining <= _FRAME.size:
        return None
    frame = read(_FRAME.size)
    if len(frame) != _FRAME.size:
        return None
    length, checksum = _FRAME.unpack(frame)
    if not 0 < length <= min(remaining - _FRAME.size, MAX_BODY_BYTES):
        return None
    body = read(length)
    is_whole = len(body) == length and _checksum(length, body) == checksum
    return body if is_whole else None


def frame_bytes(body: bytes) -> int:
    """Return the bytes that a record with this body takes."""
    return _FRAME.size + len(body)


def decode(body: bytes) -> Record:
    """Return the record with this body, of which the checksum was right.

    Raises:
        UnknownRecordError: It is none of this version.
    """
    try:
        members = unpackb(body, unicode_errors="surrogatepass")
    except (ValueError, TypeError, UnpackException):
        raise UnknownRecordError from None
    kind, values = _checked(members)
    if kind == _Kind.HEADER:
        target, owner, number, made_us = values
        return Header(target=target, owner=owner, number=number, made_us=made_us)
    if kind in _PUTS:
        return _PUTS[kind].build(values)
    if kind == _Kind.DROP_REGISTER:
        return Drop(values[0], values[1])
    return Drop(tuple(values) if kind == _Kind.DROP_DELTA else values[0])


def _checked(members: object) -> tuple[int, list[Any]]:
    if not isinstance(members, list) or not members or type(members[0]) is not int:
        raise UnknownRecordError
    kind, *values = members
    if tuple(map(type, values)) != _MEMBERS.get(kind):
        raise UnknownRecordError
    return kind, values
