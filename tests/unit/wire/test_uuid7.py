"""Rules of ids: their form, their order, and what a fork does to them."""

from __future__ import annotations

import os
import uuid

import pytest

from mcp_crew_redis._wire.uuid7 import Uuid7, id_bytes, id_text

MS = 1_000_000  # nanoseconds


class Wall:
    """A clock that stands where it is put."""

    def __init__(self, ms: int) -> None:
        self.ms = ms

    def __call__(self) -> int:
        return self.ms * MS


def parts(raw):
    """Return the milliseconds and the count of an id."""
    number = int.from_bytes(raw, "big")
    return number >> 80, (number >> 64) & 0xFFF


def test_an_id_is_a_uuid_of_version_7():
    """Version and variant stand where RFC 9562 has them; the time comes first."""
    raw = Uuid7(Wall(1_700_000_000_123))()
    read = uuid.UUID(bytes=raw)

    assert (len(raw), read.version, read.variant) == (16, 7, uuid.RFC_4122)
    assert parts(raw)[0] == 1_700_000_000_123


def test_each_id_is_greater_than_all_before():
    """Within a millisecond, beyond its count, and when the clock is set back."""
    wall = Wall(1_000)
    make = Uuid7(wall)
    made = [make() for _ in range(9_000)]  # more than two milliseconds can number
    wall.ms = 500
    made += [make() for _ in range(10)]
    wall.ms = 5_000
    made.append(make())

    assert made == sorted(set(made))
    assert parts(made[-1])[0] == 5_000


def test_a_full_count_borrows_from_the_next_millisecond():
    """4,096 numbers fit; the next one takes the next millisecond, from 0."""
    make = Uuid7(Wall(1_000))
    make()
    make._count = 0xFFF

    assert parts(make()) == (1_001, 0)


def test_half_of_the_numbers_stay_free_to_count_in():
    """A random start leaves room within its millisecond."""
    wall = Wall(1)
    make = Uuid7(wall)
    starts = []
    for ms in range(2, 500):
        wall.ms = ms
        starts.append(parts(make())[1])

    assert max(starts) < 0x800
    assert len(set(starts)) > 100


def test_the_end_of_an_id_is_drawn_each_time():
    """Two processes that count alike still differ: 62 bits are random."""
    make = Uuid7(Wall(1))

    assert len({make()[8:] for _ in range(5_000)}) == 5_000


def test_what_is_made_at_once_differs_between_makers():
    """Nothing is shared but the clock."""
    one, other = Uuid7(Wall(1)), Uuid7(Wall(1))

    assert not {one() for _ in range(1_000)} & {other() for _ in range(1_000)}


def test_a_forked_child_draws_anew():
    """What its parent has fetched is not used twice."""
    make = Uuid7(Wall(1))
    make()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, make())
        os._exit(0)
    os.close(write)
    theirs = os.read(read, 16)
    os.close(read)
    os.waitpid(child, 0)

    assert len(theirs) == 16
    assert theirs[8:] != make()[8:]


@pytest.mark.parametrize(
    ("text", "is_short"),
    [
        ("0190163d-8694-739b-aea5-966c26f8ad91", True),  # version 7
        ("f81d4fae-7dec-11d0-a765-00a0c91e6bf6", True),  # any other UUID
        ("order-1", False),
        ("0190163D-8694-739B-AEA5-966C26F8AD91", False),  # upper case
        ("0190163d8694739baea5966c26f8ad91", False),  # without hyphens
        ("{0190163d-8694-739b-aea5-966c26f8ad91}", False),
        ("", False),
    ],
)
def test_an_id_comes_back_as_it_was(text, is_short):
    """Only what is a UUID in the usual form takes 16 bytes."""
    raw = id_bytes(text)

    assert id_text(raw) == text
    assert isinstance(raw, bytes) == is_short


def test_sixteen_bytes_are_a_uuid():
    """The form is that of the uuid module."""
    raw = bytes(range(16))

    assert id_text(raw) == str(uuid.UUID(bytes=raw))
    assert id_bytes(id_text(raw)) == raw
