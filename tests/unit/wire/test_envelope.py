"""Rules of the envelope: what it takes, what it leaves out, what it refuses."""

from __future__ import annotations

import msgpack
import pytest

from mcp_crew_redis._wire.envelope import Envelope, pack_envelope, unpack_envelope
from mcp_crew_redis._wire.uuid7 import Uuid7
from mcp_crew_redis.errors import CodecError

ID = bytes(range(16))
BARE = Envelope(
    1, ID, 1_700_000_000_000, "", None, None, None, None, 1, None, None, None
)
FULL = Envelope(
    1,
    "order-1",
    5,
    "shop",
    ID,
    "cause",
    bytes(26),
    "a=1",
    3,
    "customer-7",
    9,
    {"tier": "gold", "score": 0.5},
)


@pytest.mark.parametrize("envelope", [BARE, FULL], ids=["bare", "full"])
def test_an_envelope_comes_back_as_it_was(envelope):
    """Every field, whether it says something or not."""
    assert unpack_envelope(pack_envelope(envelope)) == envelope


def test_what_says_nothing_takes_no_room():
    """A plain event costs its id, which holds the time; a UUID takes 16 bytes."""
    assert len(pack_envelope(BARE)) == 1 + 1 + 18 + 9
    assert len(pack_envelope(BARE._replace(occurred_ms=None))) == 1 + 1 + 18 + 1
    assert len(pack_envelope(BARE._replace(key="k"))) < len(pack_envelope(FULL))


def test_the_time_may_be_that_of_the_id():
    """A UUID of version 7 begins with it; only there it may be left out."""
    name = Uuid7(lambda: 1_700_000_000_123 * 1_000_000)()
    envelope = BARE._replace(id=name, occurred_ms=None)

    assert unpack_envelope(pack_envelope(envelope)) == envelope
    assert envelope.at_ms == 1_700_000_000_123
    assert envelope._replace(occurred_ms=5).at_ms == 5
    with pytest.raises(CodecError):
        unpack_envelope(pack_envelope(envelope._replace(id="order-1")))


def test_fields_of_a_later_release_are_left_aside():
    """What is added at the end does not keep older processes from reading."""
    data = msgpack.packb([*FULL, "new", {"newer": 1}])

    assert unpack_envelope(data) == FULL


def test_an_envelope_of_another_format_is_refused():
    """A format whose number is unknown is not guessed at."""
    with pytest.raises(CodecError, match="another release"):
        unpack_envelope(pack_envelope(BARE._replace(version=2)))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        "text",
        7,
        None,
        [],
        [1],
        [1, ID],
        [1, b"short", 1],
        [1, "", 1],
        [1, "x" * 257, 1],
        [1, 5, 1],
        [1, ID, "now"],
        [1, ID, True],
        [1, ID, 1.5],
        [1, ID, 1, None],
        [1, ID, 1, b"source"],
        [1, ID, 1, "", b"short"],
        [1, ID, 1, "", None, ""],
        [1, ID, 1, "", None, None, b"short"],
        [1, ID, 1, "", None, None, None, b"state"],
        [1, ID, 1, "", None, None, None, None, "1"],
        [1, ID, 1, "", None, None, None, None, 1, 5],
        [1, ID, 1, "", None, None, None, None, 1, ""],
        [1, ID, 1, "", None, None, None, None, 1, "k" * 257],
        [1, ID, 1, "", None, None, None, None, 1, None, 1.5],
        [1, ID, 1, "", None, None, None, None, 1, None, None, "ext"],
        [1, ID, 1, "", None, None, None, None, 1, None, None, {5: "name"}],
    ],
    ids=repr,
)
def test_a_field_of_another_kind_is_refused(fields):
    """A foreign entry is an error of one type, never a strange event."""
    with pytest.raises(CodecError):
        unpack_envelope(msgpack.packb(fields))


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\x93\x01", b"\xdd\xff\xff\xff\xff", b"\x91" * 60_000]
)
def test_broken_bytes_are_refused(data):
    """Cut short, promising too much, nested too deep."""
    with pytest.raises(CodecError):
        unpack_envelope(data)


def test_an_envelope_too_large_is_neither_written_nor_read():
    """What nobody would read must not get into a stream."""
    large = FULL._replace(extensions={"text": "x" * 70_000})

    with pytest.raises(CodecError, match="65536"):
        pack_envelope(large)
    with pytest.raises(CodecError, match="65536"):
        unpack_envelope(msgpack.packb(large))


@pytest.mark.parametrize(
    "value", [object(), 2**70, "\ud800"], ids=["object", "int", "str"]
)
def test_an_extension_that_cannot_be_packed_is_refused(value):
    """The error names the kind of trouble, not the value; the packer goes on."""
    with pytest.raises(CodecError) as caught:
        pack_envelope(FULL._replace(extensions={"secret": value}))

    assert "secret" not in str(caught.value)
    assert unpack_envelope(pack_envelope(FULL)) == FULL
