"""Rules of order by key, with handlers that fail."""

from __future__ import annotations

from collections import defaultdict
from random import Random

import pytest

from mcp_crew_redis.events.consumer.key_order import KeyOrder
from tests.unit.events.hands import anything, held, state


@pytest.fixture
def queue():
    return []


@pytest.fixture
def order(queue):
    return KeyOrder(queue.append, anything)


def test_one_of_each_key_is_let_through(order, queue):
    """The others wait behind it."""
    stream = state()
    a1, a2, b1 = (held(stream, key=key) for key in "aab")
    for one in (a1, a2, b1):
        order.admit(one)

    assert queue == [a1, b1]
    assert order.waiting == 1


def test_the_next_follows_when_the_one_before_has_ended(order, queue):
    """In the order in which they came."""
    entries = [held(state(), key="a") for _ in range(3)]
    for one in entries:
        order.admit(one)
    for one in entries:
        assert queue[-1] is one
        order.finished(one)

    assert queue == entries
    assert order.waiting == 0


def test_entries_without_a_key_wait_for_nobody(order, queue):
    """And nobody waits for them."""
    entries = [held(state()) for _ in range(3)]
    for one in entries:
        order.admit(one)
        order.finished(one)

    assert queue == entries


def test_keys_of_two_tenants_are_two(order, queue):
    """One's failure is not the other's."""
    one, two = held(state(), key="a"), held(state(tenant="other"), key="a")
    order.admit(one)
    order.admit(two)

    assert queue == [one, two]


def test_the_end_of_one_that_waits_changes_nothing(order, queue):
    """Only who was let through lets the next through."""
    entries = [held(state(), key="a") for _ in range(3)]
    for one in entries:
        order.admit(one)
    order.finished(entries[2])

    assert queue == entries[:1]


def test_a_key_begins_anew_when_all_of_it_has_ended(order, queue):
    """Nothing is kept of keys that are past."""
    first, second = held(state(), key="a"), held(state(), key="a")
    order.admit(first)
    order.finished(first)
    order.admit(second)

    assert queue == [first, second]


def test_those_that_wait_can_be_taken_out(order, queue):
    """The end of the one that is under way lets nobody through then."""
    entries = [held(state(), key=key) for key in "aaabb"]
    for one in entries:
        order.admit(one)

    assert set(order.clear(anything)) == {entries[1], entries[2], entries[4]}
    assert order.waiting == 0
    order.finished(entries[0])
    assert queue == [entries[0], entries[3]]


@pytest.mark.parametrize("seed", range(20))
def test_each_key_keeps_its_order_however_often_it_fails(seed):
    """By a crowd of calls that end in any order."""
    random, queue, stream = Random(seed), [], state()
    order = KeyOrder(queue.append, anything)
    coming = [
        held(stream, number, key=random.choice(["a", "b", "c", None]))
        for number in range(300)
    ]
    sent, under_way, done = list(coming), [], defaultdict(list)
    while coming or queue or under_way:
        what = random.random()
        if what < 0.4 and coming:
            order.admit(coming.pop(0))
        elif what < 0.7 and queue:
            under_way.append(queue.pop(0))
            keys = [one.event.key for one in under_way if one.event.key]
            assert len(keys) == len(set(keys))
        elif under_way:
            one = under_way.pop(random.randrange(len(under_way)))
            if random.random() < 0.3:
                queue.append(one)  # it failed, and has its turn again
            else:
                done[one.event.key].append(one.event.payload)
                order.finished(one)

    for key in "abc":
        numbers = [one.event.payload for one in sent if one.event.key == key]
        assert done[key] == numbers
    assert sum(map(len, done.values())) == 300
