"""Whose turn it is: fair over tenants, oldest first within one."""

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from mcp_crew_redis.store.journal.schedule import Schedule


def keys(schedule, count=None):
    return [key for _, key in islice(schedule.take(), count)]


def filled(**tenants):
    schedule = Schedule()
    for tenant, count in tenants.items():
        for number in range(count):
            schedule.add(tenant, b"%s%d" % (tenant.encode(), number))
    return schedule


def test_keys_of_one_tenant_come_in_order_of_arrival():
    """First in, first out."""
    assert keys(filled(a=3)) == [b"a0", b"a1", b"a2"]


def test_tenants_take_turns():
    """One key of each, then the next of each."""
    assert keys(filled(a=3, b=2)) == [b"a0", b"b0", b"a1", b"b1", b"a2"]


def test_a_tenant_with_many_keys_delays_another_by_one():
    """Fifty thousand keys in front of a single one cost it one place."""
    schedule = filled(big=50_000)
    schedule.add("small", b"s")

    assert keys(schedule, 2) == [b"big0", b"s"]


def test_a_key_that_waits_already_keeps_its_place():
    """A second write of a key neither doubles nor delays it."""
    schedule = filled(a=2)
    schedule.add("a", b"a0")

    assert keys(schedule) == [b"a0", b"a1"]


def test_a_key_taken_out_is_not_handed_out():
    """Whatever it was followed or preceded by."""
    schedule = filled(a=3)
    schedule.discard("a", b"a1")

    assert keys(schedule) == [b"a0", b"a2"]


def test_a_tenant_without_keys_is_forgotten():
    """Nothing is left of it: the table does not grow with tenants of the past."""
    schedule = filled(a=1)
    schedule.discard("a", b"a0")

    assert not schedule
    assert schedule._tenants == {}


def test_what_is_unknown_can_be_taken_out():
    """Nothing happens."""
    schedule = filled(a=1)
    schedule.discard("b", b"b0")
    schedule.discard("a", b"zz")

    assert keys(schedule) == [b"a0"]


def test_keys_added_while_taking_are_handed_out_too():
    """Behind those that waited before."""
    schedule = filled(a=2)
    taken = []
    for tenant, key in schedule.take():
        taken.append(key)
        if key == b"a0":
            schedule.add(tenant, b"late")

    assert taken == [b"a0", b"a1", b"late"]


def test_who_stops_asking_leaves_the_rest_waiting():
    """A batch takes what it has room for."""
    schedule = filled(a=5)

    assert keys(schedule, 2) == [b"a0", b"a1"]
    assert len(schedule) == 3
    assert bool(schedule)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=60))
def test_each_key_is_handed_out_once_and_tenants_differ_by_one_turn(additions):
    """While two tenants both wait, neither gets two turns more than the other."""
    schedule = Schedule()
    for tenant, number in additions:
        schedule.add(tenant, b"%s%d" % (tenant.encode(), number))
    waiting = set(additions)
    turns = dict.fromkeys("abc", 0)

    for tenant, key in schedule.take():
        waiting.remove((tenant, int(key[1:])))
        turns[tenant] += 1
        still = {one for one, _ in waiting}
        assert all(turns[tenant] <= turns[one] + 1 for one in still)

    assert not waiting
