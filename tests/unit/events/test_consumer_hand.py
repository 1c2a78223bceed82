"""Rules of what is in one process: turns, room, prefetch, names."""

from __future__ import annotations

import pytest

from mcp_crew_redis.events.consumer.hand import MAX_PREFETCH, Hand
from mcp_crew_redis.testing import ManualClock
from tests.unit.events.hands import anything, held, state, subscribed


class Table:
    """A hand whose time stands still, and how often it called for more."""

    def __init__(self, **options):
        self.clock, self.calls = ManualClock(), 0
        self.hand = Hand(subscribed(**options), self.clock.monotonic, self._called)

    def _called(self):
        self.calls += 1

    def take(self, stream, count=1, **options):
        """Take entries in, and let them have their turn."""
        all_held = [held(stream, number, **options) for number in range(count)]
        for one in all_held:
            self.hand.keep(one)
            self.hand.queue(one)
        return all_held

    async def work(self, stream, rate, seconds):
        """Finish so many in a second for so long."""
        for _ in range(round(seconds / 0.02)):
            for one in self.take(stream, round(rate * 0.02)):
                assert self.hand.next(is_plain=True) is one
                self.hand.finished(one)
            await self.clock.advance(0.021)
            self.hand.room()


def drawn(hand, *, is_plain=True):
    """Take everything there is, in turn."""
    entries = []
    while (one := hand.next(is_plain=is_plain)) is not None:
        entries.append(one)
    return entries


# --- turns --------------------------------------------------------------------------


def test_entries_of_a_stream_have_their_turn_in_order():
    """As they came."""
    table = Table()
    entries = table.take(state(), 5)

    assert len(table.hand) == 5
    assert drawn(table.hand) == entries
    assert len(table.hand) == 0
    assert table.hand.count == 5  # still held


def test_lanes_are_served_by_weight():
    """Eight, four, two and one of 15."""
    table = Table(concurrency=100)
    for lane in range(4):
        table.take(state(lane), 15)
    first = [table.hand.next(is_plain=True).stream.name.lane for _ in range(15)]

    assert [first.count(lane) for lane in range(4)] == [8, 4, 2, 1]


def test_a_reserved_call_takes_critical_ones_alone():
    """Whatever else waits."""
    table = Table()
    table.take(state(1), 3)
    assert drawn(table.hand, is_plain=False) == []
    critical = table.take(state(0), 2)

    assert drawn(table.hand, is_plain=False) == critical


@pytest.mark.parametrize(
    ("calls", "plain"), [(1, 1), (2, 1), (10, 9), (11, 9), (32, 28), (100, 90)]
)
def test_a_tenth_of_the_calls_is_kept_for_critical_ones(calls, plain):
    """At least one, unless there is but one."""
    assert Table(concurrency=calls).hand.plain_calls == plain


def test_a_batch_is_of_one_lane_and_one_tenant():
    """What follows of others stays."""
    table = Table(batch=True)
    acme, other, low = state(), state(tenant="other"), state(3)
    mine = table.take(acme, 2)
    table.take(other)
    table.take(acme)
    table.take(low)
    first = table.hand.next(is_plain=True)

    assert table.hand.more(first, 10) == mine
    assert len(table.hand) == 3


def test_a_batch_may_be_of_several_streams_of_a_tenant():
    """Types that a pattern joins."""
    table = Table(batch=True)
    one = table.take(state(event_type="a"), 2)
    two = table.take(state(event_type="b"), 2)

    assert table.hand.more(table.hand.next(is_plain=True), 3) == [*one, two[0]]


def test_suspects_are_handled_one_at_a_time():
    """And alone: the next begins when the one before has ended."""
    table = Table(batch=True)
    stream = state()
    suspects = [held(stream), held(stream)]
    for one in suspects:
        one.is_left = one.is_suspect = True
        table.hand.keep(one)
        table.hand.queue(one)
    others = table.take(stream, 2)

    assert table.hand.next(is_plain=True) is suspects[0]
    assert table.hand.more(suspects[0], 10) == [suspects[0]]
    assert drawn(table.hand) == others
    table.hand.finished(suspects[0])
    assert table.hand.next(is_plain=True) is suspects[1]


# --- room ---------------------------------------------------------------------------


def test_at_first_there_is_room_for_each_call():
    """And for a reserve of critical ones."""
    assert Table(concurrency=20).hand.room() == (20, 22)
    assert Table(concurrency=1).hand.room() == (1, 2)
    assert Table(batch=True, batch_size=50, concurrency=2).hand.room() == (100, 150)


def test_what_is_held_takes_up_room_until_it_is_finished():
    """Queued or being handled."""
    table = Table(concurrency=4)
    entries = table.take(state(), 4)
    assert table.hand.room() == (0, 1)
    table.hand.next(is_plain=True)
    assert table.hand.room() == (0, 1)
    table.hand.finished(entries[0])

    assert table.hand.room() == (1, 2)
    assert entries[0].entry_id not in entries[0].stream.held


def test_finished_twice_is_once():
    """A verdict may come late."""
    table = Table(concurrency=4)
    (one,) = table.take(state())
    table.hand.finished(one)
    table.hand.finished(one)

    assert table.hand.count == 0


async def test_slow_handlers_have_nothing_fetched_ahead():
    """Another process could have it."""
    table = Table(concurrency=4)
    await table.work(state(), rate=0, seconds=1)

    assert table.hand.room() == (4, 5)


async def test_fast_handlers_have_a_little_fetched_ahead():
    """A twentieth of a second of their pace, at most."""
    table = Table(concurrency=100)
    await table.work(state(), rate=1_000, seconds=1)

    room, _ = table.hand.room()
    assert 100 + 30 <= room <= 100 + 50


@pytest.mark.parametrize("calls", [1, 8, 100, 10_000])
async def test_what_is_fetched_ahead_is_bounded(calls):
    """By four times the calls, and absolutely, however fast they are."""
    table = Table(concurrency=calls)
    await table.work(state(), rate=100_000, seconds=0.5)

    room, _ = table.hand.room()
    assert room <= calls + min(4 * calls, MAX_PREFETCH)
    assert room > calls


async def test_when_handlers_become_slow_nothing_is_fetched_ahead_any_more():
    """Within a few measures of the pace."""
    table = Table(concurrency=8)
    await table.work(state(), rate=50_000, seconds=0.2)
    await table.work(state(), rate=0, seconds=0.5)

    assert table.hand.room()[0] == 8


def test_who_found_no_room_is_called_when_there_is_some():
    """Once, and not for each entry."""
    table = Table(concurrency=4)
    entries = table.take(state(), 4)
    table.hand.rest()
    for one in entries:
        table.hand.finished(one)

    assert table.calls == 1


def test_who_has_not_asked_is_not_called():
    """Nobody waits."""
    table = Table(concurrency=4)
    for one in table.take(state(), 4):
        table.hand.finished(one)

    assert table.calls == 0


# --- order by key -------------------------------------------------------------------


def test_entries_behind_others_of_their_key_take_up_no_room():
    """Other keys go on."""
    table = Table(ordering="key", concurrency=4)
    table.take(state(), 10, key="k")

    assert len(table.hand) == 1
    assert table.hand.room() == (3, 4)


def test_entries_kept_for_their_next_attempt_take_up_no_room():
    """Nor do those behind them."""
    table = Table(ordering="key", concurrency=2)
    first, *_ = table.take(state(), 5, key="k")
    assert table.hand.next(is_plain=True) is first
    table.hand.set_aside(first)
    assert table.hand.room() == (2, 3)

    table.hand.again(first, 2)
    assert table.hand.room() == (1, 2)
    assert table.hand.next(is_plain=True) is first
    assert (first.count, first.event.delivery_count) == (2, 2)


def test_what_takes_up_no_room_is_bounded():
    """One key with a long backlog does not fill the process."""
    table = Table(ordering="key", concurrency=4)
    table.take(state(), 3_000, key="k")

    assert table.hand.room()[0] < 0


# --- names --------------------------------------------------------------------------


def test_the_same_event_is_here_once():
    """For those that want no duplicates; of another tenant it is another."""
    table = Table(dedup=True)
    one, two = held(state(), event_id="e"), held(state(1), event_id="e")
    other = held(state(tenant="other"), event_id="e")

    assert [table.hand.is_here(each) for each in (one, two, other)] == [
        False,
        True,
        False,
    ]


def test_a_failed_event_is_here_no_more():
    """Its next delivery is no duplicate."""
    table = Table(dedup=True)
    one = held(state(), event_id="e")
    table.hand.is_here(one)
    table.hand.keep(one)
    table.hand.finished(one)

    assert not table.hand.is_here(held(state(), event_id="e"))


def test_a_handled_event_is_here_until_that_is_written_down():
    """A copy that comes meanwhile is one."""
    table = Table(dedup=True)
    one = held(state(), event_id="e")
    table.hand.is_here(one)
    table.hand.keep(one)
    table.hand.handled(one)
    assert table.hand.is_here(held(state(), event_id="e"))
    table.hand.forget(one)

    assert not table.hand.is_here(held(state(), event_id="e"))


def test_the_end_of_a_copy_does_not_make_room_for_another():
    """The first one is here still."""
    table = Table(dedup=True)
    one, two = held(state(), event_id="e"), held(state(), event_id="e")
    table.hand.is_here(one)
    table.hand.is_here(two)
    two.is_copy = True
    table.hand.keep(two)
    table.hand.finished(two)

    assert table.hand.is_here(held(state(), event_id="e"))


def test_without_dedup_nobody_asks():
    """Everything is handled."""
    table = Table()
    one = held(state(), event_id="e")

    assert not table.hand.is_here(one)
    assert not table.hand.is_here(one)


# --- the end ------------------------------------------------------------------------


def test_what_nobody_has_begun_with_can_be_taken_out():
    """What is being handled stays."""
    table = Table(ordering="key")
    stream = state()
    with_key = table.take(stream, 3, key="k")
    without = table.take(stream, 2)
    begun = table.hand.next(is_plain=True)

    waiting = table.hand.unstarted(anything)

    assert set(waiting) == {*with_key, *without} - {begun}
    assert len(table.hand) == 0
    assert table.hand.count == 5
    for one in (*waiting, begun):
        table.hand.finished(one)
    assert (table.hand.count, stream.held) == (0, {})
