"""The demo's count of events: it must be able to fail."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from mcp_crew_redis.cli.agents import Work
from mcp_crew_redis.cli.dialogue import message
from mcp_crew_redis.cli.subscribers import POISON, Reviewer
from mcp_crew_redis.cli.talk import Desk, Heard, Said, Talk
from mcp_crew_redis.cli.talk_history import Stream, count_group, count_streams
from mcp_crew_redis.clock import SystemClock
from mcp_crew_redis.events.event import Event

STREAM: Stream = ("acme", "tool.discovered", 2)
TOOLS = ("tool.",)


def said(name: str = "a", began: float = 1.0, *, outcome: str = "stored") -> Said:
    return Said(
        event_id=name,
        process="first",
        tenant_id="acme",
        type="tool.discovered",
        lane=2,
        began=began,
        ended=began + 1.0,
        outcome=outcome,
    )


def heard(name: str = "a", *, delivery: int = 1, failure: str = "") -> Heard:
    return Heard(
        group="index",
        event_id=name,
        tenant_id="acme",
        meant_for="acme",
        delivery=delivery,
        at=3.0,
        failure=failure,
    )


# --- groups -------------------------------------------------------------------
def test_what_every_group_has_handled_is_balanced() -> None:
    """Deferred events count as accepted; other groups' calls are not looked at."""
    talk = Talk(
        said=[said(), said("b", outcome="deferred")],
        heard=[heard(), heard("b"), replace(heard(), group="archive")],
    )

    count = count_group(talk, "index", TOOLS)

    assert (count.published, count.handled, count.lost) == (2, 2, 0)
    assert count.is_balanced


def test_event_that_nobody_has_handled_is_lost() -> None:
    """A call that raised has not handled it."""
    talk = Talk(said=[said()], heard=[heard(failure="ValueError")])

    assert count_group(talk, "index", TOOLS).lost == 1
    assert not count_group(talk, "index", TOOLS).is_balanced


def test_purged_event_is_accounted_for_and_not_lost() -> None:
    """An operator has thrown it away: that is no loss, and no handling either."""
    talk = Talk(said=[said()], heard=[heard(failure="ValueError")])

    count = count_group(talk, "index", TOOLS, {"a"})

    assert (count.handled, count.purged, count.lost) == (0, 1, 0)
    assert count.is_balanced


def test_second_handling_is_told_apart_from_another_delivery() -> None:
    """A delivery after a failure is right; handling what was handled is not."""
    failed = heard(failure="ValueError")
    once = Talk(said=[said()], heard=[failed, heard(delivery=2)])
    twice = Talk(said=[said()], heard=[heard(), heard(delivery=2)])

    assert count_group(once, "index", TOOLS).redelivered == 1
    assert count_group(once, "index", TOOLS).is_balanced
    assert count_group(twice, "index", TOOLS).repeated == 1
    assert not count_group(twice, "index", TOOLS).is_balanced


@pytest.mark.parametrize(
    "strange",
    [
        heard("nobody's"),
        replace(heard(), tenant_id="nova"),
        replace(heard(), meant_for="nova"),
    ],
    ids=["unknown", "another stream", "another tenant"],
)
def test_event_of_somebody_else_is_a_stranger(strange: Heard) -> None:
    """What was never published, or is another tenant's, must not be heard."""
    count = count_group(Talk(said=[said()], heard=[heard(), strange]), "index", TOOLS)

    assert count.strangers == 1
    assert not count.is_balanced


def test_event_that_a_group_does_not_want_is_a_stranger_to_it() -> None:
    """A type that no subscriber of the group has asked for was not published for it."""
    talk = Talk(said=[said()], heard=[heard()])

    assert count_group(talk, "index", ("alert.",)).strangers == 1


def test_failed_publish_may_be_handled_or_not() -> None:
    """It promises nothing, and its event is no stranger."""
    failed = said(outcome="failed")

    assert count_group(Talk(said=[failed]), "index", TOOLS).is_balanced
    assert count_group(Talk(said=[failed], heard=[heard()]), "index", TOOLS).is_balanced


# --- streams ------------------------------------------------------------------
def test_each_event_stands_once_in_the_order_of_its_publishing() -> None:
    """That is what is right; of a replayed one there is a second entry."""
    events = [said("a", 1.0), said("b", 3.0)]

    assert count_streams(events, {STREAM: ["a", "b"]}).is_right
    assert count_streams(events, {STREAM: ["a", "b", "a"]}, {"a"}).is_right


@pytest.mark.parametrize(
    ("names", "counts"),
    [
        (["a"], (1, 0, 0, 0)),
        (["a", "b", "b"], (0, 1, 0, 0)),
        (["a", "b", "c"], (0, 0, 1, 0)),
        (["b", "a"], (0, 0, 0, 1)),
    ],
    ids=["missing", "twice", "foreign", "out of order"],
)
def test_stream_that_is_wrong_is_told(
    names: list[str], counts: tuple[int, int, int, int]
) -> None:
    """Whatever can be wrong with a stream has a figure of its own."""
    found = count_streams([said("a", 1.0), said("b", 3.0)], {STREAM: names})

    assert (found.missing, found.repeated, found.foreign, found.misplaced) == counts
    assert not found.is_right


def test_event_in_the_stream_of_another_tenant_is_foreign_there() -> None:
    """It is missing at home as well."""
    found = count_streams([said()], {("nova", *STREAM[1:]): ["a"]})

    assert (found.missing, found.foreign) == (1, 1)


def test_events_that_overlap_may_stand_in_either_order() -> None:
    """Nobody can say which of two publishes under way together came first."""
    events = [said("a", 1.0), said("b", 1.5)]

    assert count_streams(events, {STREAM: ["b", "a"]}).is_right


def test_processes_have_no_common_order() -> None:
    """Each hands on what waits in its own journal when it can."""
    events = [said("a", 1.0), replace(said("b", 3.0), process="second")]

    assert count_streams(events, {STREAM: ["b", "a"]}).is_right


def test_failed_publish_may_stand_or_not() -> None:
    """It is neither missing nor foreign; twice it must not stand."""
    failed = [said(outcome="failed")]

    assert count_streams(failed, {}).is_right
    assert count_streams(failed, {STREAM: ["a"]}).is_right
    assert count_streams(failed, {STREAM: ["a", "a"]}).repeated == 1


# --- who talks ----------------------------------------------------------------
def test_notes_of_a_process_reach_the_other() -> None:
    """What one has said and heard is what the other counts; sums hold both."""
    talk = Talk(said=[said()], heard=[heard(failure="no number")])

    told = json.loads(message(done=Work(talk=talk)))

    assert Work.of(told["done"]).talk == talk
    assert asdict(talk + talk)["said"] == [asdict(said())] * 2


async def test_reviewer_fails_until_it_is_repaired() -> None:
    """The poison raises every time, and is handled by the repaired one."""
    desk = Desk(process="first", clock=SystemClock())
    reviewer = Reviewer(desk)
    poison = Event.new("knowledge.updated", {"tenant": "acme", "edition": POISON})

    for _ in range(2):
        with pytest.raises(ValueError, match="two"):
            await reviewer.review(poison)
    reviewer.is_repaired = True
    await reviewer.review(poison)

    assert [bool(one.failure) for one in desk.talk.heard] == [True, True, False]
