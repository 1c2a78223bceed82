"""Rules of the table of streams: who may have something, in turn."""

from __future__ import annotations

from mcp_crew_redis._wire.streams import StreamName
from mcp_crew_redis.events.consumer.table import StreamTable
from tests.unit.events.hands import anything, held


def added(table, number, lane=2):
    """Add a stream."""
    return table.add(b"%d" % number, StreamName("acme", f"t{number}", lane))


def test_a_new_stream_is_not_ready():
    """Until it is rung."""
    table = StreamTable()
    state = added(table, 1)

    assert not table.is_ready
    table.rung(state)
    assert table.is_ready
    assert [table.is_lane_ready(lane) for lane in range(4)] == [
        False,
        False,
        True,
        False,
    ]


def test_adding_twice_is_once():
    """The state is kept."""
    table = StreamTable()

    assert added(table, 1) is added(table, 1)
    assert len(table) == 1
    assert table.get(b"2") is None


def test_ready_streams_wait_in_turn():
    """First come, first served; each stands in line once."""
    table = StreamTable()
    states = [added(table, number) for number in range(4)]
    for state in (*states, states[0], states[3]):
        table.rung(state)

    assert table.take(2, 3, anything) == states[:3]
    assert table.take(2, 3, anything) == states[3:]
    assert table.take(2, 3, anything) == []
    assert not table.is_ready


def test_who_is_taken_is_in_line_no_more():
    """And may be rung again, behind the others."""
    table = StreamTable()
    first, second = added(table, 1), added(table, 2)
    for state in (first, second):
        table.rung(state)
    (taken,) = table.take(2, 1, anything)
    assert (taken.is_waiting, taken.is_rung) == (False, False)
    table.rung(first)

    assert table.take(2, 9, anything) == [second, first]


def test_a_ring_during_a_read_is_remembered():
    """The read may have been answered before the stream grew."""
    table = StreamTable()
    state = added(table, 1)
    table.rung(state)
    table.take(2, 1, anything)
    table.rung(state)

    assert state.is_rung
    assert table.take(2, 1, anything) == [state]


def test_lanes_have_lines_of_their_own():
    """Taking from one leaves the others as they are."""
    table = StreamTable()
    states = [added(table, lane, lane) for lane in range(4)]
    for state in states:
        table.rung(state)

    assert table.take(1, 9, anything) == [states[1]]
    assert [table.is_lane_ready(lane) for lane in range(4)] == [True, False, True, True]


def test_a_stream_that_is_gone_is_forgotten():
    """And is another one when it comes again."""
    table = StreamTable()
    state = added(table, 1)
    table.forget(state)

    assert table.get(b"1") is None
    assert added(table, 1) is not state


def test_a_stream_with_something_in_hand_is_not_forgotten():
    """Its entries are to be acknowledged yet."""
    table = StreamTable()
    state = added(table, 1)
    one = held(state)
    state.held[one.entry_id] = one
    table.forget(state)

    assert table.get(b"1") is state


def test_the_table_may_change_while_it_is_walked():
    """Streams come and go between two turns of the loop."""
    table = StreamTable()
    states = [added(table, number) for number in range(3)]
    for number, state in enumerate(table):
        table.forget(state)
        added(table, 10 + number)

    assert len(table) == len(states)
