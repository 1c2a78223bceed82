"""Outcomes of classes of the user's own: what they leave out has a default."""

from __future__ import annotations

import pytest

from mcp_crew_redis.events.outcomes import Reject, Retry
from mcp_crew_redis.lifecycle import ServiceState
from tests.integration.events.consuming import (
    consuming,
    is_settled,
    letters,
    one_handler,
    stream,
)
from tests.rig.waiting import wait_until

pytestmark = pytest.mark.timeout(60)


class NotYet(Retry):
    """One that does not call `Retry.__init__`."""

    def __init__(self) -> None:
        pass


class Later(NotYet):
    """One whose pause makes no sense."""

    def __init__(self) -> None:
        self.after = "soon"  # type: ignore[assignment] # a slip that Python allows


class Never(Reject):
    """One that does not call `Reject.__init__`."""

    def __init__(self) -> None:
        pass


class Odd(Reject):
    """One whose reason is no text."""

    def __init__(self) -> None:
        self.reason = 42  # type: ignore[assignment] # a slip that Python allows


async def publish(crew, *payloads, **options):
    for payload in payloads:
        await crew.tenant("acme").events.publish("order.paid", payload, **options)


def one_or_batch(handle, batch, **options):
    """Return subscriptions whose handler raises, or returns by id, what it is told."""

    async def handle_one(event):
        outcome = handle(event)
        if outcome is not None:
            raise outcome

    async def handle_many(events):
        outcomes = {event.id: handle(event) for event in events}
        return {event_id: one for event_id, one in outcomes.items() if one is not None}

    return one_handler(
        handle_many if batch else handle_one, batch=batch, max_deliveries=3, **options
    )


@pytest.mark.parametrize(
    ("batch", "ordering"),
    [(False, None), (False, "key"), (True, None)],
    ids=["single", "in order", "batch"],
)
@pytest.mark.parametrize("kind", [NotYet, Later])
async def test_a_retry_of_ones_own_is_tried_again_after_the_backoff(
    server, kind, ordering, batch
):
    """It says neither when nor why; the consumer goes on."""
    given = []

    def handle(event):
        given.append((event.payload, event.delivery_count))
        is_first = event.payload == "fails" and event.delivery_count == 1
        return kind() if is_first else None

    subscriptions = one_or_batch(handle, batch, ordering=ordering)
    async with consuming(server, subscriptions) as (crew, _):
        await publish(crew, "fails", key="k")
        await wait_until(lambda: given == [("fails", 1), ("fails", 2)], "again")
        await publish(crew, "next", key="k")
        await wait_until(lambda: ("next", 1) in given, "it goes on")
        await wait_until(lambda: is_settled(server, stream()), "nothing is pending")
        assert crew.state is ServiceState.RUNNING

    assert letters(server) == []


@pytest.mark.parametrize("batch", [False, True], ids=["single", "batch"])
@pytest.mark.parametrize("kind", [Never, Odd, NotYet, Later])
async def test_an_outcome_of_ones_own_ends_as_a_dead_letter(server, kind, batch):
    """At once, or after its last delivery; with some reason that is text."""
    subscriptions = one_or_batch(lambda _: kind(), batch)
    async with consuming(server, subscriptions) as (crew, _):
        await publish(crew, "bad")
        await wait_until(lambda: len(letters(server)) == 1, "it is buried")
        await wait_until(lambda: is_settled(server, stream()), "nothing is pending")
        assert crew.state is ServiceState.RUNNING

    (letter,) = letters(server)
    assert letter[b"_n"] == (b"1" if issubclass(kind, Reject) else b"3")
    assert letter[b"_r"].decode()
