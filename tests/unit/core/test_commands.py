"""Names, classes and timeouts of commands, in every spelling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_crew_redis._core.commands import (
    READS,
    SHARED,
    CommandClass,
    block_seconds,
    classify,
    command_name,
    is_read,
    refuse,
)
from mcp_crew_redis.errors import LifecycleError


@pytest.mark.parametrize(
    ("args", "name"),
    [
        (("GET", "k"), "GET"),
        (("get", "k"), "GET"),
        ((b"get", "k"), "GET"),
        (("SCRIPT LOAD", "body"), "SCRIPT LOAD"),
        (("script", "load", "body"), "SCRIPT LOAD"),
        ((b"CLIENT", b"reply", b"OFF"), "CLIENT REPLY"),
        (("CLIENT REPLY OFF",), "CLIENT REPLY"),
        (("  hello  ", 3), "HELLO"),
        (("CLIENT", memoryview(b"reply")), "CLIENT REPLY"),
        (("CLIENT",), "CLIENT"),
        (("COMMAND",), "COMMAND"),
        (("COMMAND", "COUNT"), "COMMAND COUNT"),
    ],
)
def test_name_is_canonical(args, name):
    """However it is spelled or split."""
    assert command_name(args) == name


@pytest.mark.parametrize(
    ("args", "kind"),
    [
        (("GET", "k"), CommandClass.SHARED),
        (("EVALSHA", "0" * 40, 0), CommandClass.SHARED),
        (("XREAD", "STREAMS", "s", "0"), CommandClass.SHARED),
        (("XREAD", "BLOCK", 0, "STREAMS", "s", "0"), CommandClass.DEDICATED),
        (("XREADGROUP", "GROUP", "g", "c", b"block", b"5", "STREAMS", "s", ">"),
         CommandClass.DEDICATED),
        (("XREAD", "STREAMS", "BLOCK", "0"), CommandClass.SHARED),
        (("BLPOP", "l", 0), CommandClass.DEDICATED),
        (("WAIT", 1, 100), CommandClass.DEDICATED),
        (("FT.SEARCH", "i", "q"), CommandClass.DEDICATED),
        (("JSON.GET", "k"), CommandClass.DEDICATED),
        (("NEWCOMMAND",), CommandClass.DEDICATED),
        (("CLIENT", "NEWSUBCOMMAND"), CommandClass.DEDICATED),
        (("SELECT", 1), CommandClass.OWN),
        (("CLIENT", "TRACKING", "ON"), CommandClass.OWN),
        (("AUTH", "x"), CommandClass.REFUSED),
        (("reset",), CommandClass.REFUSED),
    ],
)  # fmt: skip
def test_class_follows_from_the_command(args, kind):
    """The unknown travels alone."""
    assert classify(args) is kind


@pytest.mark.parametrize(
    ("args", "seconds"),
    [
        (("GET", "k"), None),
        (("BLPOP", "l", 0), 0.0),
        (("BLPOP", "a", "b", "1.5"), 1.5),
        (("BLMPOP", 2, 1, "l", "LEFT"), 2.0),
        (("BZMPOP", b"0", 1, "z", "MIN"), 0.0),
        (("WAIT", 1, 250), 0.25),
        (("WAITAOF", 1, 0, 0), 0.0),
        (("XREAD", "COUNT", 1, "BLOCK", 1500, "STREAMS", "s", "$"), 1.5),
        (("XREAD", "BLOCK", "0", "STREAMS", "s", "$"), 0.0),
        (("BLPOP", "l", "soon"), None),
        (("BLPOP",), None),
        (("XREAD", "BLOCK"), None),
    ],
)
def test_block_time_is_read_from_its_place(args, seconds):
    """In seconds; 0.0 is for ever; what the server will refuse is none."""
    assert block_seconds(args) == seconds


def test_only_reads_are_harmless_twice():
    """A script is no read, not even one that only reads, unless it says so."""
    assert is_read(("get", "k"))
    assert is_read(("EVALSHA_RO", "0" * 40, 0))
    assert not is_read(("EVALSHA", "0" * 40, 0))
    assert not is_read(("GETEX", "k"))
    assert not is_read(("INCR", "k"))
    assert not is_read(("SPOP", "k"))


def test_hot_path_holds_single_words_that_never_block():
    """What may be sent without a second look."""
    assert not any(" " in name for name in SHARED)
    assert "XREAD" not in SHARED
    assert "GET" in SHARED
    assert all(classify((name,)) is CommandClass.SHARED for name in SHARED)
    assert {name for name in READS if " " not in name} - SHARED == {"XREAD"}


@pytest.mark.parametrize("args", [("SELECT", 1), ("CLIENT", "REPLY", "OFF")])
def test_refusal_says_what_to_do_and_nothing_secret(args):
    """It names the command and the remedy."""
    error = refuse(args, classify(args))

    assert isinstance(error, LifecycleError)
    assert command_name(args) in str(error)


def test_refusal_holds_no_argument():
    """AUTH's argument is a password."""
    error = refuse(("AUTH", "hunter2"), CommandClass.REFUSED)
    assert "hunter2" not in str(error)


@given(
    st.sampled_from(["HELLO", "AUTH", "RESET", "QUIT", "MULTI", "SELECT", "MONITOR"]),
    st.lists(st.sampled_from([" ", "\t", "\n", "\r", "\x0b", "\x0c"]), max_size=3),
    st.lists(st.sampled_from([" ", "\t", "\n"]), max_size=3),
    st.randoms(use_true_random=False),
    st.booleans(),
)
def test_no_spelling_brings_a_stateful_command_onto_a_lane(
    name, before, after, random, as_bytes
):
    """White space and case are the packer's to drop, and so the table's."""
    spelled = "".join(before) + "".join(
        random.choice([letter.lower(), letter]) for letter in name
    ) + "".join(after)  # fmt: skip
    argument = spelled.encode() if as_bytes else spelled
    assert classify((argument,)) in (CommandClass.OWN, CommandClass.REFUSED)
