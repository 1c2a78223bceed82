"""Handlers that cancel the task they run in: a call is lost, never who calls."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress

import pytest

from mcp_crew_redis.events.kinds import EventPriority
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

CALLS = [1, 4]  # at a time
PROMPT = 2.0  # seconds in which a consumer without work ends


def cancel_self():
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


def cancel_soon():
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_soon(task.cancel)


async def returns():
    cancel_self()


async def cancels_twice():
    cancel_self()
    cancel_self()


async def swallows():
    cancel_self()
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)


async def swallows_one_of_two():
    await swallows()
    cancel_self()


async def raises():
    cancel_self()
    raise ValueError("bad")


async def asks_for_a_retry():
    cancel_self()
    raise Retry(after=0.01)


async def waits():
    cancel_self()
    await asyncio.sleep(0)


async def raises_what_it_caught():
    cancel_self()
    cancel_self()
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError as error:
        raise ValueError("bad") from error


async def lets_a_timeout_expire():
    async with asyncio.timeout(0) as deadline:
        deadline.reschedule(asyncio.get_running_loop().time())
        await asyncio.sleep(0.01)


HANDLED = [returns, cancels_twice, swallows, swallows_one_of_two]
FAILED = [
    raises,
    asks_for_a_retry,
    waits,
    raises_what_it_caught,
    lets_a_timeout_expire,
]


def name(value):
    return getattr(value, "__name__", str(value))


class Canceller:
    """A handler that does something to its own task at an event's first delivery."""

    def __init__(self, what):
        self.what = what
        self.given = []

    async def handle(self, event):
        self.given.append((event.payload, event.delivery_count))
        if event.delivery_count == 1 and event.payload == "cancels":
            await self.what()

    async def handle_many(self, events):
        for event in events:
            await self.handle(event)

    def times(self, payload):
        return [one for one, _ in self.given].count(payload)

    async def until(self, payload, times=1):
        await wait_until(
            lambda: self.times(payload) >= times, f"{payload} is handled {times} times"
        )


async def publish(crew, *payloads, **options):
    for payload in payloads:
        await crew.tenant("acme").events.publish("order.paid", payload, **options)


async def all_is_settled(server):
    await wait_until(lambda: is_settled(server, stream()), "nothing is pending")


@asynccontextmanager
async def ending_promptly(server, subscriptions):
    """Run a consumer; assert that it holds nothing at last, and ends at once."""
    loop = asyncio.get_running_loop()
    async with consuming(server, subscriptions) as (crew, consumer):
        yield crew
        await all_is_settled(server)
        await wait_until(lambda: consumer.statistics()[0].held == 0, "none is held")
        assert crew.state is ServiceState.RUNNING
        began = loop.time()
    assert loop.time() - began < PROMPT


# --- what becomes of the event ------------------------------------------------------


@pytest.mark.parametrize("calls", CALLS)
@pytest.mark.parametrize("what", HANDLED, ids=name)
async def test_a_handler_that_returns_has_handled_though_it_was_cancelled(
    server, what, calls
):
    """The next event is handled as ever, and so is the drain."""
    handler = Canceller(what)
    subscriptions = one_handler(handler.handle, concurrency=calls)
    async with ending_promptly(server, subscriptions) as crew:
        await publish(crew, "cancels")
        await all_is_settled(server)
        await publish(crew, "next")
        await handler.until("next")

    assert handler.given == [("cancels", 1), ("next", 1)]


@pytest.mark.parametrize("calls", CALLS)
@pytest.mark.parametrize("what", FAILED, ids=name)
async def test_a_handler_that_raises_has_failed_and_is_called_again(
    server, what, calls
):
    """Its event has its next attempt; events after it are handled as ever."""
    handler = Canceller(what)
    subscriptions = one_handler(handler.handle, concurrency=calls)
    async with ending_promptly(server, subscriptions) as crew:
        await publish(crew, "cancels")
        await handler.until("cancels", 2)
        await publish(crew, "next")
        await handler.until("next")

    assert handler.given == [("cancels", 1), ("cancels", 2), ("next", 1)]


async def test_a_rejected_event_is_buried_though_its_task_was_cancelled(server):
    """The cancellation does not hit what is done about the event."""

    async def reject():
        cancel_self()
        raise Reject("bad")

    handler = Canceller(reject)
    async with ending_promptly(server, one_handler(handler.handle)) as crew:
        await publish(crew, "cancels")
        await wait_until(lambda: len(letters(server)) == 1, "it is buried")

    assert handler.given == [("cancels", 1)]


# --- what becomes of those beside it ------------------------------------------------


@pytest.mark.parametrize("what", HANDLED + FAILED, ids=name)
async def test_events_of_the_same_key_keep_their_order(server, what):
    """Nothing overtakes the one whose handler cancels itself."""
    handler = Canceller(what)
    subscriptions = one_handler(handler.handle, ordering="key")
    async with ending_promptly(server, subscriptions) as crew:
        await publish(crew, "cancels", 1, 2, key="k")
        await handler.until(2)

    times = 2 if what in FAILED else 1
    assert [one for one, _ in handler.given] == ["cancels"] * times + [1, 2]


@pytest.mark.parametrize("what", HANDLED + FAILED, ids=name)
async def test_a_batch_handler_may_cancel_itself_too(server, what):
    """The batch is handled or has failed as a whole."""
    handler = Canceller(what)
    subscriptions = one_handler(handler.handle_many, batch=True, concurrency=2)
    async with ending_promptly(server, subscriptions) as crew:
        await publish(crew, "cancels")
        await handler.until("cancels", 2 if what in FAILED else 1)
        await publish(crew, "next")
        await handler.until("next")


@pytest.mark.parametrize("what", [returns, raises], ids=name)
async def test_every_call_may_cancel_itself_and_none_is_lost(server, what):
    """However many: as many calls at a time are there afterwards."""
    handler, gate, busy = Canceller(what), asyncio.Event(), []

    async def handle(event):
        if event.payload != "waits":
            await handler.handle(event)
            return
        busy.append(event.payload)
        await gate.wait()

    subscriptions = one_handler(handle, concurrency=2, max_deliveries=3)
    async with ending_promptly(server, subscriptions) as crew:
        for number in range(1, 11):
            await publish(crew, "cancels")
            await handler.until("cancels", number)
        await all_is_settled(server)
        await publish(crew, "waits")
        await wait_until(lambda: len(busy) == 1, "a call is busy")
        await publish(crew, "urgent", priority=EventPriority.CRITICAL)
        await handler.until("urgent")
        gate.set()


# --- cancellations that come late ---------------------------------------------------


async def cancelled_while_it_rests():
    cancel_soon()


async def cancelled_while_it_fails():
    cancel_soon()
    raise Retry(after=0.01)


async def cancelled_while_it_buries():
    cancel_soon()
    raise Reject("bad")


@pytest.mark.parametrize(
    "what",
    [cancelled_while_it_rests, cancelled_while_it_fails, cancelled_while_it_buries],
    ids=name,
)
async def test_a_cancellation_after_the_handler_has_ended_loses_nothing(server, what):
    """Something the handler has left running cancels the task it had run in."""
    handler = Canceller(what)
    async with ending_promptly(server, one_handler(handler.handle)) as crew:
        await publish(crew, "cancels")
        await handler.until("cancels")
        await publish(crew, "next")
        await handler.until("next")
