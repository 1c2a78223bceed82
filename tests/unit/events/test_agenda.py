"""The janitor's agenda: each key once, at its soonest time."""

from hypothesis import given
from hypothesis import strategies as st

from mcp_crew_redis.events.janitor.agenda import Agenda

keys = st.sampled_from([b"a", b"b", b"c", b"d"])
times = st.integers(0, 20)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), keys, times),
        st.tuples(st.just("take"), times, st.integers(1, 3)),
    ),
    max_size=60,
)


def test_what_is_due_is_taken_in_the_order_of_its_times():
    """And what is not due stays."""
    agenda = Agenda()
    for key, at in ((b"c", 3.0), (b"a", 1.0), (b"b", 2.0)):
        agenda.put(key, at)

    assert agenda.take(2.0, 10) == [b"a", b"b"]
    assert agenda.next_due() == 3.0


def test_a_key_that_is_put_twice_is_due_at_the_sooner_time():
    """Once."""
    agenda = Agenda()
    agenda.put(b"a", 5.0)
    agenda.put(b"a", 2.0)
    agenda.put(b"a", 9.0)

    assert agenda.take(10.0, 10) == [b"a"]
    assert agenda.next_due() is None


def test_no_more_are_taken_than_asked_for():
    """The rest stays due."""
    agenda = Agenda()
    for number in range(5):
        agenda.put(b"%d" % number, 0.0)

    assert len(agenda.take(1.0, 3)) == 3
    assert len(agenda) == 2


def test_a_key_too_many_finds_no_place():
    """Those that are there may still be put sooner."""
    agenda = Agenda(limit=1)

    assert agenda.put(b"a", 5.0)
    assert not agenda.put(b"b", 1.0)
    assert agenda.is_full
    assert agenda.put(b"a", 1.0)
    assert agenda.next_due() == 1.0


def test_nothing_is_left_after_clearing():
    """Of keys that were put several times neither."""
    agenda = Agenda()
    for at in (3.0, 2.0, 1.0):
        agenda.put(b"a", at)
    agenda.clear()

    assert agenda.take(10.0, 10) == []


def test_what_was_put_sooner_leaves_little_behind():
    """The memory follows the keys, not the calls."""
    agenda = Agenda()
    for at in range(10_000, 0, -1):
        agenda.put(b"a", float(at))

    assert len(agenda._heap) < 100


@given(steps)
def test_it_is_a_table_of_soonest_times(history):
    """Whatever the order of calls."""
    agenda, model = Agenda(), {}
    for action, *arguments in history:
        if action == "put":
            key, at = arguments
            agenda.put(key, at)
            model[key] = min(at, model.get(key, at))
        else:
            now, count = arguments
            taken = agenda.take(now, count)
            due = sorted(model[key] for key in model if model[key] <= now)
            assert [model.pop(key) for key in taken] == due[:count]
        assert len(agenda) == len(model)
        assert agenda.next_due() == min(model.values(), default=None)
