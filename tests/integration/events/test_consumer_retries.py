"""What becomes of events whose handlers have not handled them."""

from __future__ import annotations

import asyncio

import pytest

from mcp_crew_redis._core.backoff import Backoff
from mcp_crew_redis.events.outcomes import Reject, Retry
from mcp_crew_redis.events.subscriptions import Subscriptions
from tests.integration.events.consuming import (
    SOON,
    Record,
    consuming,
    crew_on,
    is_settled,
    letters,
    one_handler,
    pending_of,
    stream,
    tally,
)
from tests.rig.waiting import wait_until

pytestmark = pytest.mark.timeout(60)

PARKED = "mcp-crew:event:{acme}:parked:g:order.paid"


class Attempts:
    """A handler that fails as it is told, and notes when it was called."""

    def __init__(self, *errors):
        self._errors = list(errors)
        self.counts, self.times = [], []

    async def handle(self, event):
        self.counts.append(event.delivery_count)
        self.times.append(asyncio.get_running_loop().time())
        if self._errors:
            raise self._errors.pop(0)

    async def until(self, count):
        await wait_until(lambda: len(self.counts) >= count, f"{count} attempts")

    @property
    def pauses(self):
        return [b - a for a, b in zip(self.times, self.times[1:], strict=False)]


async def publish(crew, *payloads, **options):
    for payload in payloads:
        await crew.tenant("acme").events.publish("order.paid", payload, **options)


async def settled(server, key=None):
    """Wait until a group has nothing more to do."""
    await wait_until(lambda: is_settled(server, key or stream()), "all is settled")


# --- another attempt ----------------------------------------------------------------


async def test_a_failed_event_comes_again_and_is_counted(server):
    """Until its handler returns."""
    attempts = Attempts(ValueError("no"), RuntimeError("no"))
    async with consuming(server, one_handler(attempts.handle)) as (crew, consumer):
        await publish(crew, 1)
        await attempts.until(3)
        await settled(server)
        (statistics,) = consumer.statistics()

    assert attempts.counts == [1, 2, 3]
    assert (statistics.handled, statistics.failed) == (1, 2)
    assert (statistics.redelivered, statistics.dead) == (2, 0)
    assert letters(server) == []
    assert tally(server)["redelivered"] == 2


async def test_retry_says_when(server):
    """Not before; and not much later."""
    attempts = Attempts(Retry(after=0.3), Retry(after=0))
    async with consuming(server, one_handler(attempts.handle)) as (crew, _):
        await publish(crew, 1)
        await attempts.until(3)

    first, second = attempts.pauses
    assert 0.3 <= first < 0.8
    assert second < 0.4


async def test_pauses_follow_the_backoff(server):
    """Each twice as long as the one before."""
    attempts = Attempts(*[ValueError()] * 3)
    backoff = Backoff(base=0.1, factor=2.0, maximum=1.0, jitter=False)
    subscriptions = one_handler(attempts.handle, backoff=backoff)
    async with consuming(server, subscriptions) as (crew, _):
        await publish(crew, 1)
        await attempts.until(4)

    for pause, expected in zip(attempts.pauses, (0.1, 0.2, 0.4), strict=True):
        assert expected <= pause < expected + 0.3


async def test_others_are_handled_meanwhile(server):
    """A failing event takes up no call while it waits."""
    record = Record()

    async def handle(event):
        if event.payload == "bad":
            raise Retry(after=60)
        await record.handle(event)

    async with consuming(server, one_handler(handle, concurrency=1)) as (crew, _):
        await publish(crew, "bad", *range(20))
        await record.until(20)
        await wait_until(lambda: pending_of(server, stream()) == 1, "all are settled")
        assert server.execute("ZCARD", PARKED) == 1


async def test_the_pause_outlives_the_process(server):
    """Whoever is there when it ends gets the event, with its count."""
    attempts = Attempts(Retry(after=0.5))
    async with consuming(server, one_handler(attempts.handle)) as (crew, _):
        await publish(crew, 1)
        await wait_until(lambda: server.execute("ZCARD", PARKED) == 1, "it waits")
    async with consuming(server, one_handler(attempts.handle)):
        await attempts.until(2)
        await settled(server)

    assert attempts.counts == [1, 2]
    assert attempts.pauses[0] >= 0.5


async def test_another_process_takes_it_when_it_is_due(server):
    """One of those that live, once."""
    attempts = Attempts(*[Retry(after=0.05)] * 20)
    subscriptions = one_handler(attempts.handle, claim_after=0.5)
    async with (
        consuming(server, subscriptions) as (crew, _),
        consuming(server, subscriptions),
    ):
        await publish(crew, *range(20))
        await wait_until(lambda: len(attempts.counts) >= 40, "each comes again")
        await settled(server)

    assert sorted(attempts.counts) == [1] * 20 + [2] * 20


async def test_a_parked_event_is_not_claimed_before_its_time(server):
    """However short `claim_after` is."""
    attempts = Attempts(Retry(after=1.0))
    subscriptions = one_handler(attempts.handle, claim_after=0.1)
    async with (
        consuming(server, subscriptions) as (crew, _),
        consuming(server, subscriptions),
    ):
        await publish(crew, 1)
        await attempts.until(2)
        await settled(server)

    assert attempts.counts == [1, 2]
    assert attempts.pauses[0] >= 1.0


# --- dead letters -------------------------------------------------------------------


async def test_a_rejected_event_is_a_dead_letter_at_once(server):
    """With the reason that was given."""
    attempts = Attempts(Reject("unknown customer"))
    async with consuming(server, one_handler(attempts.handle)) as (crew, consumer):
        receipt = await crew.tenant("acme").events.publish("order.paid", 1)
        await wait_until(lambda: letters(server), "it is buried")
        await settled(server)
        await wait_until(lambda: not consumer.statistics()[0].held, "it is told")
        (statistics,) = consumer.statistics()

    assert attempts.counts == [1]
    (letter,) = letters(server)
    assert letter[b"_r"] == b"unknown customer"
    assert letter[b"_n"] == b"1"
    assert letter[b"_i"].decode() == receipt.stream_id
    assert letter[b"_s"].decode() == stream()
    assert {b"m", b"d", b"_t"} <= letter.keys()
    assert (statistics.dead, statistics.failed) == (1, 1)
    assert tally(server)["dead"] == 1


async def test_after_the_last_delivery_it_is_a_dead_letter(server):
    """With the last error, named by its class."""
    attempts = Attempts(*[ValueError("7 is odd")] * 9)
    subscriptions = one_handler(attempts.handle, max_deliveries=3)
    async with consuming(server, subscriptions) as (crew, _):
        await publish(crew, 1)
        await wait_until(lambda: letters(server), "it is buried")
        await settled(server)

    assert attempts.counts == [1, 2, 3]
    (letter,) = letters(server)
    assert (letter[b"_r"], letter[b"_n"]) == (b"ValueError: 7 is odd", b"3")


async def test_one_delivery_means_one(server):
    """Nothing is tried again."""
    attempts = Attempts(*[ValueError()] * 9)
    subscriptions = one_handler(attempts.handle, max_deliveries=1)
    async with consuming(server, subscriptions) as (crew, _):
        await publish(crew, 1)
        await wait_until(lambda: letters(server), "it is buried")

    assert attempts.counts == [1]
    assert letters(server)[0][b"_r"] == b"ValueError"


async def test_retry_counts_as_an_attempt_and_its_reason_is_kept(server):
    """For ever is not possible."""
    attempts = Attempts(*[Retry("busy", after=0)] * 9)
    subscriptions = one_handler(attempts.handle, max_deliveries=2)
    async with consuming(server, subscriptions) as (crew, _):
        await publish(crew, 1)
        await wait_until(lambda: letters(server), "it is buried")

    assert letters(server)[0][b"_r"] == b"busy"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("x" * 10_000), "ValueError: " + "x" * 488),
        (ValueError("\udcff broken"), "ValueError: ? broken"),
        (Reject("naïve ✝"), "naïve ✝"),
        (Reject("\udcff"), "?"),
        (Reject("y" * 10_000), "y" * 500),
        (Reject(), "Reject"),
    ],
)
async def test_reasons_are_short_and_valid_text(server, error, reason):
    """Whatever a handler puts into them."""
    attempts = Attempts(*[error] * 9)
    subscriptions = one_handler(attempts.handle, max_deliveries=1)
    async with consuming(server, subscriptions) as (crew, _):
        await publish(crew, 1)
        await wait_until(lambda: letters(server), "it is buried")

    assert letters(server)[0][b"_r"].decode() == reason


async def test_a_dead_letter_is_of_its_group_alone(server):
    """Another group handles the event."""
    record = Record()
    subscriptions = Subscriptions()
    subscriptions.on("order.paid", group="well")(record.handle)

    @subscriptions.on("order.paid", group="ill", max_deliveries=2, backoff=SOON)
    async def fail(_):
        raise ValueError

    async with consuming(server, subscriptions) as (crew, _):
        await publish(crew, 1)
        await record.until(1)
        await wait_until(lambda: letters(server, group="ill"), "it is buried")

    assert letters(server, group="well") == []


# --- batches ------------------------------------------------------------------------


async def test_a_batch_that_raises_has_each_event_tried_again(server):
    """Each counts its own deliveries."""
    lists = []

    async def handle(events):
        lists.append(sorted((one.payload, one.delivery_count) for one in events))
        if any(one.delivery_count == 1 for one in events):
            raise ValueError("all of them")

    async with crew_on(server) as crew:
        await publish(crew, *range(4))
    subscriptions = one_handler(handle, batch=True, batch_size=10, concurrency=1)
    async with consuming(server, subscriptions):
        await wait_until(
            lambda: {n for one in lists for n, c in one if c == 2} == set(range(4)),
            "each comes again",
        )
        await settled(server)

    first = [one for each in lists for one in each if one[1] == 1]
    assert sorted(first) == [(number, 1) for number in range(4)]


async def test_in_a_batch_one_poison_is_buried_alone(server):
    """The others are done, and are not given again."""
    given = []

    async def handle(events):
        given.extend(one.payload for one in events)
        return {one.id: Retry("odd", after=0) for one in events if one.payload == 3}

    async with crew_on(server) as crew:
        await publish(crew, *range(6))
    subscriptions = one_handler(handle, batch=True, max_deliveries=3)
    async with consuming(server, subscriptions):
        await wait_until(lambda: letters(server), "it is buried")
        await settled(server)

    assert sorted(given) == [0, 1, 2, 3, 3, 3, 4, 5]
    assert [letter[b"_r"] for letter in letters(server)] == [b"odd"]


@pytest.mark.parametrize("outcome", [{"somebody else": Reject("?")}, [Retry()], False])
async def test_a_batch_whose_outcome_makes_no_sense_has_failed(server, outcome):
    """A slip must not pass for "all handled"."""

    async def handle(_):
        return outcome

    subscriptions = one_handler(handle, batch=True, max_deliveries=1)
    async with consuming(server, subscriptions) as (crew, _):
        await publish(crew, 1)
        await settled(server)

    (letter,) = letters(server)
    assert b"by the ids of its events" in letter[b"_r"]


async def test_a_batch_that_answers_with_nonsense_has_not_handled_what_it_names(server):
    """Not silently: the reason tells."""

    async def handle(events):
        return {one.id: "later" for one in events}

    subscriptions = one_handler(handle, batch=True, max_deliveries=2)
    async with consuming(server, subscriptions) as (crew, _):
        await publish(crew, 1)
        await wait_until(lambda: letters(server), "it is buried")

    assert b"Retry or Reject" in letters(server)[0][b"_r"]
