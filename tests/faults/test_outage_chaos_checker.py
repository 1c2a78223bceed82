"""The history checker itself: it accepts what may be, and notices what may not."""

from __future__ import annotations

import pytest

from tests.faults.outage_history import Final, History, kinds
from tests.faults.outage_log import Call, CallLog, Report, read_report

KEY = ("t", "k")
COUNTER = ("t", "c")


def write(mark, at, stamp, outcome="stored", *, process="p", is_wall=False):
    """A set of one key that took a tenth of a second; a delete without a mark."""
    return Call(
        process=process,
        op="delete" if mark is None else "set",
        tenant="t",
        names=["k"],
        mark=mark,
        start=at,
        end=at + 0.1,
        outcome=outcome,
        stamps={"k": (stamp, is_wall)},
    )


def read(mark, at, *, process="p"):
    """A read of the same key."""
    return Call(
        process=process,
        op="read",
        tenant="t",
        names=["k"],
        start=at,
        end=at + 0.1,
        outcome="read",
        got={"k": mark},
    )


def add(amount, outcome):
    """An increment of the counter."""
    return Call(
        process="p",
        op="add",
        tenant="t",
        names=["c"],
        amount=amount,
        start=0,
        end=1,
        outcome=outcome,
    )


def found(calls, final=None, total=0, **report):
    """Return the kinds of what the checker finds."""
    history = History([Report(calls=calls, **report)])
    return set(kinds(history.problems({KEY: final}, {COUNTER: total})))


OLD, NEW = write("old", 1, 1_000, "deferred"), write("new", 2, 2_000)


@pytest.mark.parametrize(
    ("calls", "final", "problems"),
    [
        ([OLD, NEW], Final(2_000, "new"), set()),
        ([OLD, NEW], Final(1_000, "old"), {"clobbered"}),
        ([write("old", 1, 1_000), NEW], Final(1_000, "old"), {"lost"}),
        ([OLD, NEW], None, {"lost"}),
        ([write("old", 1, 1_000, "unknown")], None, set()),
        ([OLD, NEW], Final(2_000, "old"), {"unexplained"}),
        ([OLD, NEW], Final(3_000, "nobody's"), {"unexplained"}),
        ([OLD, write("new", 2, 2_000, "unknown")], Final(2_000, "new"), set()),
        ([OLD, write("new", 2, 2_000, "unknown")], Final(1_000, "old"), set()),
        ([OLD, write("new", 2, 2_000, "unsent")], Final(2_000, "new"), {"unexplained"}),
        ([OLD, write(None, 2, 2_000)], Final(2_000, None), set()),
        ([OLD, write(None, 2, 2_000)], Final(1_000, "old"), {"clobbered"}),
        (
            [write("wall", 1, 1_000, "deferred", is_wall=True)],
            Final(900, "wall"),
            set(),
        ),
        ([OLD, write("late", 2, 500)], Final(1_000, "old"), {"order"}),
        ([OLD, write("late", 2, 0)], Final(1_000, "old"), {"order"}),
    ],
)
def test_what_stands_is_explained_or_it_is_a_problem(calls, final, problems):
    """The newest write that was accepted stands, or a later one that may have been."""
    assert found(calls, final) == problems


@pytest.mark.parametrize(
    ("mark", "process", "problems"),
    [
        ("new", "p", set()),
        ("old", "p", {"stale"}),
        ("old", "another", set()),
        (None, "p", {"stale"}),
        ("nobody's", "another", {"unexplained"}),
    ],
)
def test_a_process_reads_what_it_has_written(mark, process, problems):
    """Or something newer, but never something older."""
    calls = [OLD, NEW, read(mark, 3, process=process)]

    assert found(calls, Final(2_000, "new")) == problems


def test_a_newer_delete_explains_that_nothing_is_read():
    """Even one of which nobody knows whether it has happened."""
    gone = write(None, 2.5, 0, "unknown", process="another")

    assert found([OLD, NEW, gone, read(None, 3)], Final(2_000, "new")) == set()


@pytest.mark.parametrize(
    ("total", "problems"),
    [(5, set()), (7, set()), (8, set()), (10, set()), (4, {"count"}), (6, {"count"})],
)
def test_a_counter_is_the_sum_of_what_returned_and_of_some_in_doubt(total, problems):
    """Each amount in doubt once or not at all, and no amount that was not sent."""
    calls = [add(5, "stored"), add(2, "unknown"), add(3, "unknown"), add(1, "unsent")]

    assert found(calls, total=total) == problems


def test_a_conflict_is_lost_to_a_newer_write_and_concerns_a_known_one():
    """Whoever gives up a newer write for an older one has clobbered it."""
    about = {"tenant": "t", "name": "k"}
    fair, unfair = (
        about | {"local": 1_000, "remote": 2_000},
        about
        | {
            "local": 2_000,
            "remote": 1_000,
        },
    )
    calls, final = [OLD, NEW], Final(2_000, "new")

    assert found(calls, final, conflicts=[fair]) == set()
    assert found(calls, final, conflicts=[unfair]) == {"clobbered"}
    assert found(calls, final, conflicts=[fair | {"local": 7}]) == {"unexplained"}


def test_a_log_with_a_torn_end_tells_what_was_under_way(tmp_path):
    """A process may be killed within a line, and within a call."""
    log = CallLog(tmp_path / "p.log")
    about = {"op": "set", "tenant": "t", "names": ["k"]}
    first = log.begin(**about, mark="1", start=1.0)
    log.line(n=first, end=2.0, outcome="stored", stamps={"k": (5, False)})
    log.begin(**about, mark="2", start=3.0)
    log.close()
    with (tmp_path / "p.log").open("a") as file:
        file.write('{"n": 3, "op": ')

    calls = read_report(tmp_path / "p.log").calls

    assert [(call.mark, call.outcome, call.end) for call in calls] == [
        ("1", "stored", 2.0),
        ("2", "unknown", None),
    ]
    assert calls[0].stamps == {"k": (5, False)}
