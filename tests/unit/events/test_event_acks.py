"""Acknowledged events are remembered in order, within bounds, as first published."""

from __future__ import annotations

from mcp_crew_redis.store.event_acks import EventAcks
from mcp_crew_redis.store.journal.calls import PUBLISH, SCHEDULE
from mcp_crew_redis.store.journal.entries import entry_of

STREAM = b"p:events:{acme}:x:normal"


def call(name, body=b"d", made_us=1):
    """Return the script that publishes an event."""
    keys = STREAM, b"p:event:{acme}:mark:" + name, b"p:meta:{acme}:floor"
    return PUBLISH, keys, (b"m", body, 60_000, made_us)


def names(acks, void=0):
    """Return the marks' names in order."""
    found = acks.calls(lambda _key: void)
    return [keys[1].rpartition(b":")[2].decode() for _, keys, _ in found]


def filled(count, **limits):
    """Return acks of so many events, one a microsecond."""
    acks = EventAcks(**limits)
    for number in range(count):
        acks.note(number + 1, STREAM, call(b"%d" % number))
    return acks


def test_events_are_given_in_the_order_of_their_acknowledgement():
    """So that they stand in it again."""
    assert names(filled(4)) == ["0", "1", "2", "3"]
    assert filled(4).last_us == 4


def test_a_repetition_keeps_its_place_and_what_was_said_first():
    """What is first published under an id stands."""
    acks = filled(3)
    size = acks.size

    acks.note(9, STREAM, call(b"0", b"something longer"))

    assert names(acks) == ["0", "1", "2"]
    assert next(iter(acks.calls(lambda _: 0)))[2][1] == b"d"
    assert acks.size == size


def test_what_a_new_server_has_is_young_again():
    """It goes behind the others, and may be lost with that server."""
    acks = filled(3)

    acks.renew(10, STREAM, call(b"0"))

    assert names(acks) == ["1", "2", "0"]
    assert acks.prune(5) == 0
    assert names(acks) == ["0"]


def test_what_is_old_goes_and_frees_its_bytes():
    """All of them, at last."""
    acks = filled(5)

    assert acks.prune(4) == 0
    assert names(acks) == ["3", "4"]
    acks.prune(100)
    assert (len(acks), acks.size, acks.last_us) == (0, 0, 0)


def test_too_much_goes_and_is_counted():
    """The oldest first, however young."""
    acks = filled(10, max_bytes=5 * 600)

    assert acks.prune(0) == 10 - len(acks) > 0
    assert names(acks)[-1] == "9"


def test_what_a_purge_has_voided_is_not_given():
    """Up to its very microsecond."""
    assert names(filled(3), void=2) == ["2"]


def test_a_script_becomes_a_posting_that_makes_it_again():
    """Whatever refuses it for now: the journal can hand it on."""
    posting = entry_of(call(b"7", made_us=17), "acme")

    assert posting is not None
    assert (posting.kind, posting.order_key, posting.made_us) == ("event", STREAM, 17)
    assert posting.id.endswith("mark:7")


def test_a_delayed_event_is_in_order_with_the_delayed():
    """Its name is its mark's, too."""
    keys = b"s", b"b", b"p:event:{acme}:mark:9", b"f", STREAM
    posting = entry_of((SCHEDULE, keys, (b"9", b"m", b"d", 5, 9, 60, 17)), "acme")

    assert posting is not None
    assert (posting.order_key, posting.id) == (b"s", "p:event:{acme}:mark:9")
