"""What Redis refuses for a while: consumers keep it in mind and do it later."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager

import pytest
from structlog.testing import capture_logs

from mcp_crew_redis.events.outcomes import Reject, Retry
from mcp_crew_redis.testing import FaultProxy
from tests.integration.events.consuming import (
    Record,
    consuming,
    crew_on,
    is_settled,
    letters,
    one_handler,
    stream,
)
from tests.rig.waiting import wait_until

pytestmark = pytest.mark.timeout(60)

CLAIM = 0.5  # seconds, instead of 30


class Through:
    """A server as it is seen through a proxy."""

    def __init__(self, proxy):
        self.unix_socket = proxy.unix_socket


class Gated(Record):
    """A handler whose calls end, each with `what`, when the gate is opened."""

    def __init__(self, what=None):
        super().__init__()
        self.gate = asyncio.Event()
        self.what = what

    async def handle(self, event):
        await super().handle(event)
        await self.gate.wait()
        if self.what is not None:
            raise self.what


@contextmanager
def refusing(server):
    """Have the server refuse whatever writes, and answer the rest."""
    with capture_logs():
        server.execute("CONFIG", "SET", "min-replicas-to-write", 1)
        try:
            yield
        finally:
            server.execute("CONFIG", "SET", "min-replicas-to-write", 0)


def refusals(server):
    """Return how many writes the server has refused."""
    return server.info("errorstats").get("errorstat_NOREPLICAS", {"count": 0})["count"]


async def is_refused(server):
    """Wait until one more was refused."""
    before = refusals(server)
    await wait_until(lambda: refusals(server) > before, "it is refused")


async def publish(crew, *payloads, **options):
    for payload in payloads:
        await crew.tenant("acme").events.publish("order.paid", payload, **options)


async def settled(server):
    await wait_until(lambda: is_settled(server, stream()), "nothing is pending", 10)


# --- acknowledgements ---------------------------------------------------------------


@pytest.mark.parametrize("dedup", [False, True])
async def test_refused_acknowledgements_are_sent_again(own_server, dedup):
    """Nothing is handled twice because a server had no replica for a moment."""
    gated = Gated()
    subscriptions = one_handler(gated.handle, claim_after=CLAIM, dedup=dedup)
    async with consuming(own_server, subscriptions) as (crew, consumer):
        await publish(crew, 0, 1, 2)
        await gated.until(3)
        with refusing(own_server):
            gated.gate.set()
            await is_refused(own_server)
            await wait_until(
                lambda: consumer.statistics()[0].unacknowledged == 3, "all are kept"
            )
        await settled(own_server)
        assert consumer.statistics()[0].unacknowledged == 0

    assert sorted(gated.payloads) == [0, 1, 2]


@pytest.mark.parametrize(
    "what", [Reject("bad"), Retry(after=0.05)], ids=["bury", "park"]
)
async def test_a_refused_verdict_is_given_again(own_server, what):
    """A failed event is buried, or parked, as soon as that is possible, and once."""
    gated = Gated(what)
    subscriptions = one_handler(gated.handle, claim_after=CLAIM, max_deliveries=2)
    async with consuming(own_server, subscriptions) as (crew, _):
        await publish(crew, 0)
        await gated.until(1)
        with refusing(own_server):
            gated.gate.set()
            await is_refused(own_server)
        await settled(own_server)

    times = 1 if isinstance(what, Reject) else 2
    assert [event.delivery_count for event in gated.events] == [1, 2][:times]
    assert len(letters(own_server)) == 1


# --- attempts -----------------------------------------------------------------------


async def test_a_refused_retry_is_not_overtaken_by_the_next_of_its_key(own_server):
    """It stays at the head until Redis has counted the attempt."""
    given = []

    async def handle(event):
        given.append((event.payload, event.delivery_count))
        if event.payload == 0 and event.delivery_count == 1:
            raise Retry(after=0.1)

    subscriptions = one_handler(handle, ordering="key", claim_after=2.0)
    async with consuming(own_server, subscriptions) as (crew, consumer):
        await publish(crew, 0, 1, 2, key="k")
        await wait_until(lambda: given == [(0, 1)], "the first has failed")
        with refusing(own_server):
            due = asyncio.get_running_loop().time() + 0.3
            await wait_until(
                lambda: asyncio.get_running_loop().time() > due, "its time has come"
            )
            assert refusals(own_server) > 0
            assert given == [(0, 1)]
        await settled(own_server)
        assert consumer.statistics()[0].taken_away == 0

    assert given == [(0, 1), (0, 2), (1, 1), (2, 1)]


# --- questions ----------------------------------------------------------------------


async def test_a_lost_answer_about_duplicates_is_asked_for_again(server):
    """Without another event that would remind of it; both are handled once."""
    record = Record()
    subscriptions = one_handler(record.handle, dedup=True)
    async with (
        FaultProxy(server.unix_socket) as proxy,
        crew_on(server) as publisher,
        consuming(Through(proxy), subscriptions) as (_, consumer),
    ):
        await publish(publisher, 0)
        await record.until(1)
        with capture_logs():
            for number in (1, 2):
                proxy.drop_reply_to(b"EXISTS")
                await publish(publisher, number)
                await proxy.wait_for_dropped_reply()
                await record.until(number + 1)
        await settled(server)
        await wait_until(lambda: consumer.statistics()[0].held == 0, "none is held")

    assert record.payloads == [0, 1, 2]


async def test_several_lost_answers_about_duplicates_do_not_stop_it(server):
    """The question is asked until it is answered."""
    record = Record()
    subscriptions = one_handler(record.handle, dedup=True)
    async with (
        FaultProxy(server.unix_socket) as proxy,
        crew_on(server) as publisher,
        consuming(Through(proxy), subscriptions),
    ):
        await publish(publisher, 0)
        await record.until(1)
        with capture_logs():
            proxy.drop_reply_to(b"EXISTS")
            await publish(publisher, 1)
            await proxy.wait_for_dropped_reply()
            proxy.drop_reply_to(b"EXISTS")
            await proxy.wait_for_dropped_reply()
            await record.until(2)
        await settled(server)

    assert record.payloads == [0, 1]
