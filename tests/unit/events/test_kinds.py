"""Rules of types, groups, priorities and patterns."""

from __future__ import annotations

import pytest

from mcp_crew_redis.errors import InvalidEventTypeError, InvalidIdentifierError
from mcp_crew_redis.events.event import lane_of
from mcp_crew_redis.events.kinds import (
    EventPriority,
    EventType,
    Pattern,
    check_group,
    check_type,
)

NO_NAMES = ["", "\n", "a b", "é", "a\n", "a:b", "{a}", "a\x00", None, 5, b"a", ["a"]]


@pytest.mark.parametrize("name", ["a", "tool.discovered", "a1.b-2.c_3", "x" * 128])
def test_dotted_lower_case_words_are_a_type(name):
    """Any name of that form, not only the crew's own."""
    assert check_type(name) == name


@pytest.mark.parametrize(
    "name",
    [*NO_NAMES, "A", "Tool.x", "1a", ".a", "a.", "a..b", "a.*", ">", "-a", "x" * 129],
    ids=repr,
)
def test_anything_else_is_no_type(name):
    """Refused, never repaired: two names must not become one."""
    with pytest.raises(InvalidEventTypeError):
        check_type(name)


def test_a_type_of_the_crew_becomes_a_plain_string():
    """An enum's member would print and pickle as what it is."""
    assert type(check_type(EventType.TOOL_DISCOVERED)) is str
    assert all(check_type(each) == each.value for each in EventType)


def test_many_types_are_checked_alike():
    """Beyond those that are remembered too."""
    for number in range(5_000):
        assert check_type(f"many.t{number}") == f"many.t{number}"
    with pytest.raises(InvalidEventTypeError):
        check_type("many.T")


@pytest.mark.parametrize("group", ["indexer", "A", "9", "a.b_c-d", "g" * 64])
def test_a_group_has_letters_digits_and_three_signs(group):
    """Nothing that could end a key's part."""
    assert check_group(group) == group


@pytest.mark.parametrize("group", [*NO_NAMES, "-a", ".a", "_a", "g" * 65, "a|b"])
def test_anything_else_is_no_group(group):
    """Refused before it is part of a key."""
    with pytest.raises(InvalidIdentifierError):
        check_group(group)


def test_priorities_are_ordered_by_urgency():
    """The number of a lane is the number of its priority."""
    assert [each.name for each in sorted(EventPriority)] == [
        *("CRITICAL", "HIGH", "NORMAL", "LOW")
    ]
    assert [lane_of(each) for each in EventPriority] == [0, 1, 2, 3]


MATCHES = [
    ("tool.discovered", "tool.discovered", True),
    ("tool.discovered", "tool.discovered.x", False),
    ("tool.discovered", "toolxdiscovered", False),
    ("tool.*", "tool.discovered", True),
    ("tool.*", "tool", False),
    ("tool.*", "tool.a.b", False),
    ("tool.*", "tools.a", False),
    ("*.updated", "knowledge.updated", True),
    ("*.updated", "a.b.updated", False),
    ("a.*.c", "a.b.c", True),
    ("a.*.c", "a.b.b.c", False),
    ("tool.>", "tool.a", True),
    ("tool.>", "tool.a.b.c", True),
    ("tool.>", "tool", False),
    ("tool.>", "tools.a", False),
    ("*.>", "a", False),
    ("*.>", "a.b", True),
    (">", "a", True),
    (">", "a.b.c", True),
    ("*", "a", True),
    ("*", "a.b", False),
    ("a-b.*", "a-b.c", True),
    ("a_b", "a_b", True),
]


@pytest.mark.parametrize(("pattern", "name", "is_meant"), MATCHES)
def test_a_star_is_one_word_and_an_arrow_all_that_follow(pattern, name, is_meant):
    """Words are whole: no pattern reaches into one."""
    assert Pattern(pattern).matches(name) is is_meant


@pytest.mark.parametrize(
    "pattern",
    [*NO_NAMES, "**", "a*", "*a", "a.>.b", ">.a", "a.>>", "a.", ".a", "A.*", "x" * 129],
    ids=repr,
)
def test_anything_else_is_no_pattern(pattern):
    """A pattern that means less than it seems to is refused."""
    with pytest.raises(InvalidEventTypeError):
        Pattern(pattern)


def test_patterns_are_compared_by_their_text():
    """So are their hashes."""
    assert Pattern("a.*") == Pattern("a.*")
    assert len({Pattern("a.*"), Pattern("a.*"), Pattern("a.>")}) == 2
    assert Pattern("a.*") != "a.*"
    assert repr(Pattern("a.*")) == "<Pattern a.*>"
