"""Rules of priority: 8, 4, 2 and 1 of 15, and nobody starves."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_crew_redis.events.consumer.lanes import WEIGHTS, LaneWheel, shares

ALL = (True, True, True, True)
lanes = st.lists(st.booleans(), min_size=4, max_size=4)


def turns(wheel, count, has=ALL):
    """Return how often each lane was served."""
    return Counter(wheel.next(has) for _ in range(count))


def test_in_15_turns_each_lane_has_exactly_its_share():
    """Eight, four, two and one; again and again."""
    wheel = LaneWheel()

    for _ in range(4):
        assert turns(wheel, 15) == {0: 8, 1: 4, 2: 2, 3: 1}


def test_turns_are_spread():
    """The critical lane never waits for more than one other, nor has three in a row."""
    wheel = LaneWheel()
    order = "".join(str(wheel.next(ALL)) for _ in range(150))

    assert "000" not in order
    assert all(a == "0" or b == "0" for a, b in pairwise(order))


def test_without_anything_nobody_is_served():
    """And it costs nobody his turn."""
    wheel = LaneWheel()

    assert wheel.next((False,) * 4) == -1
    assert turns(wheel, 15) == {0: 8, 1: 4, 2: 2, 3: 1}


@pytest.mark.parametrize("lane", range(4))
def test_who_is_alone_has_every_turn(lane):
    """However long; the others are not owed for it."""
    wheel = LaneWheel()
    has = [at == lane for at in range(4)]

    assert turns(wheel, 100, has) == {lane: 100}
    assert turns(wheel, 15) == {0: 8, 1: 4, 2: 2, 3: 1}


@given(lanes)
def test_shares_are_kept_among_those_that_have_something(has):
    """By their weights, exactly, over a round of them."""
    total = sum(w for w, is_there in zip(WEIGHTS, has, strict=True) if is_there)

    assert turns(LaneWheel(), total, has) == {
        lane: WEIGHTS[lane] for lane in range(4) if has[lane]
    }


@given(st.lists(lanes, max_size=60))
def test_whoever_has_something_is_served_in_the_end(history):
    """Whatever came before: within two rounds of it."""
    wheel = LaneWheel()
    for has in history:
        wheel.next(has)

    assert set(turns(wheel, 60)) == {0, 1, 2, 3}


@given(st.lists(lanes, max_size=200))
def test_only_who_has_something_is_served(history):
    """Never an empty lane."""
    wheel = LaneWheel()
    for has in history:
        lane = wheel.next(has)
        assert has[lane] if any(has) else lane == -1


def test_a_forced_turn_is_paid_for():
    """Critical events are ahead of their turn, not above their share."""
    wheel = LaneWheel()
    for _ in range(3):
        assert wheel.next(ALL, forced=0) == 0

    assert turns(wheel, 12) == {0: 5, 1: 4, 2: 2, 3: 1}


# --- room ---------------------------------------------------------------------------


def test_room_is_divided_by_weight():
    """Exactly where it can be."""
    assert shares(15, ALL) == [8, 4, 2, 1]
    assert shares(90, (True, False, False, True)) == [80, 0, 0, 10]


def test_each_lane_that_is_ready_has_one_at_least():
    """Low ones too when there is room for one alone."""
    assert shares(1, ALL) == [1, 1, 1, 1]
    assert shares(1, (False, False, False, True)) == [0, 0, 0, 1]


@pytest.mark.parametrize("room", [0, -1, -100])
def test_without_room_nobody_has_any(room):
    """Room may be negative: more is held than there is room for."""
    assert shares(room, ALL) == [0, 0, 0, 0]


@given(st.integers(1, 10_000), lanes)
def test_no_more_is_given_than_there_is_but_three(room, ready):
    """The ones that are given in any case."""
    given = shares(room, ready)

    assert sum(given) <= room + 3
    assert [bool(share) for share in given] == list(ready)
