"""Replies that get lost, and servers that lose what they had acknowledged."""

from __future__ import annotations

import asyncio

import msgpack
import pytest

from mcp_crew_redis.errors import (
    ConnectionLostError,
    OutcomeUnknownError,
    UnavailableError,
)
from mcp_crew_redis.events.event import Event
from mcp_crew_redis.events.many import PublishManyError
from mcp_crew_redis.testing import FaultProxy
from mcp_crew_redis.types import WriteOutcome
from tests.integration.core.bench import eventually
from tests.integration.events.publish_parts import ORDERS, bodies, buses, stream
from tests.integration.store.outage_parts import away, back, drained

SCHEDULED = b"p:events:{acme}:scheduled"


@pytest.fixture
async def proxy(own_server):
    async with FaultProxy(own_server.unix_socket) as proxy:
        yield proxy


@pytest.fixture
async def bus(proxy):
    async with buses(proxy.client_kwargs) as bus:
        await bus.publish("order.paid", "first", tenant_id="acme")
        await bus.hub.store.context.stamps.ready()
        yield bus


@pytest.fixture
def acme(bus):
    return bus.of("acme")


def told(server, key=ORDERS):
    return [msgpack.unpackb(body) for body in bodies(server, key)]


# --- replies --------------------------------------------------------------------------


async def test_a_plain_event_whose_reply_is_lost_is_in_doubt(own_server, proxy, acme):
    """Nobody sends it again: nobody could tell the repetition."""
    proxy.drop_reply_to(b"XADD")

    with pytest.raises(OutcomeUnknownError):
        await acme.publish("order.paid", "lost")

    assert told(own_server) == ["first", "lost"]
    assert acme.hub.store.journal.depth == 0


async def test_a_plain_event_without_an_answer_is_in_doubt(proxy, bus, acme):
    """A silent server may have it, too."""
    proxy.replies.stall()

    with pytest.raises(UnavailableError) as caught:
        await acme.publish("order.paid", "lost")

    assert getattr(caught.value, "sent", True)
    assert bus.hub.store.journal.depth == 0


async def test_an_idempotent_event_whose_reply_is_lost_stands_once(
    own_server, proxy, acme
):
    """It is sent again under its id, within the call."""
    proxy.drop_reply_to(b"EVAL")

    receipt = await acme.publish("order.paid", "once", idempotent=True)

    assert told(own_server) == ["first", "once"]
    assert receipt.stream_id == stream(own_server)[-1][0].decode()


async def test_an_idempotent_event_without_an_answer_is_kept(
    own_server, proxy, bus, acme
):
    """The journal sends it again until it is known; it stands once."""
    await acme.publish("order.paid", "warm", idempotent=True)
    proxy.replies.stall()

    receipt = await acme.publish("order.paid", "once", idempotent=True)
    assert receipt.outcome is WriteOutcome.DEFERRED
    assert receipt.stream_id is None
    proxy.heal()
    await drained(bus.hub.store)

    assert told(own_server) == ["first", "warm", "once"]


async def test_a_delayed_event_whose_reply_is_lost_waits_once(own_server, proxy, acme):
    """With a mark it is sent again; without one it is in doubt."""
    proxy.drop_reply_to(b"EVAL")
    await acme.publish("order.paid", 1, delay=60.0, idempotent=True)
    assert own_server.execute("ZCARD", SCHEDULED) == 1

    proxy.drop_reply_to(b"EVAL")
    with pytest.raises(OutcomeUnknownError):
        await acme.publish("order.paid", 2, delay=60.0)
    assert own_server.execute("ZCARD", SCHEDULED) == 2


async def test_a_durable_event_whose_reply_is_lost(own_server, proxy, acme):
    """Plain in doubt; idempotent sent again, and stored once."""
    proxy.drop_reply_to(b"WAIT")
    with pytest.raises(OutcomeUnknownError):
        await acme.publish("order.paid", "plain", durable=True)

    proxy.drop_reply_to(b"WAIT")
    with pytest.raises(Exception, match="0 of 1 replicas"):
        await acme.publish("order.paid", "once", durable=True, idempotent=True)

    assert told(own_server) == ["first", "plain", "once"]


async def test_many_whose_replies_are_lost_are_in_doubt_each(own_server, proxy, acme):
    """The error has what became of every one."""
    events = [Event.new("order.paid", number) for number in range(50)]
    proxy.drop_reply_to(b"XADD")

    with pytest.raises(PublishManyError) as caught:
        await acme.publish_many(events)

    failed = caught.value.errors
    assert set(failed) == set(range(50))
    assert all(isinstance(one, OutcomeUnknownError) for one in failed.values())
    assert caught.value.receipts == (None,) * 50
    assert told(own_server)[1:] == list(range(50))


async def test_many_idempotent_ones_stand_once(own_server, proxy, acme):
    """They are sent again as a whole; some had got through."""
    events = [Event.new("order.paid", number) for number in range(50)]
    proxy.drop_reply_to(b"EVAL")

    receipts = await acme.publish_many(events, idempotent=True)

    places = [place.decode() for place, _ in stream(own_server)]
    assert [receipt.stream_id for receipt in receipts] == places[1:]
    assert told(own_server)[1:] == list(range(50))


async def test_a_purge_between_two_sendings_wins(own_server, proxy, bus, acme):
    """A repetition never brings back what was purged."""
    keys = acme.keys
    floor = keys.meta("floor")
    proxy.drop_reply_to(b"EVAL")
    proxy.refuse()  # the second sending has to wait

    async with asyncio.TaskGroup() as group:
        task = group.create_task(
            outcome_of(acme.publish("order.paid", 1, idempotent=True))
        )
        await proxy.wait_for_dropped_reply()
        own_server.execute("FLUSHALL")
        own_server.execute("SET", floor, 2**52)
        await proxy.accept()

    await drained(bus.hub.store)
    assert own_server.execute("EXISTS", ORDERS) == 0
    assert task.result() is not None


async def outcome_of(call):
    try:
        return await call
    except Exception as error:  # noqa: BLE001 - the result of the test
        return error


# --- servers --------------------------------------------------------------------------


async def met_again(bus):
    await eventually(lambda: bus.hub.port.send("PING"), "it answers", timeout=10.0)


async def test_an_acknowledged_idempotent_event_that_a_server_lost_is_put_back(
    own_server, bus, acme
):
    """Once, in order, and known by its id; a plain one is not."""
    for number in range(20):
        await acme.publish("order.paid", number, event_id=f"e{number}", idempotent=True)
    own_server.restart(keep_data=False)
    await met_again(bus)

    assert told(own_server) == list(range(20))
    again = await acme.publish("order.paid", 7, event_id="e7", idempotent=True)
    assert again.is_duplicate
    assert len(stream(own_server)) == 20


async def test_what_a_server_kept_is_not_put_back_again(own_server, bus, acme):
    """Its marks say so."""
    for number in range(20):
        await acme.publish("order.paid", number, idempotent=True)

    own_server.restart(keep_data=True)
    await met_again(bus)

    assert told(own_server) == ["first", *range(20)]


async def test_delayed_events_are_put_back(own_server, bus, acme):
    """With the time that they had from the beginning."""
    await acme.publish("order.paid", 1, delay=60.0, event_id="e", idempotent=True)
    due = own_server.execute("ZSCORE", SCHEDULED, "e")

    own_server.restart(keep_data=False)
    await met_again(bus)

    again = own_server.execute("ZSCORE", SCHEDULED, "e")
    assert abs(float(again) - float(due)) < 1_000


async def test_what_was_purged_is_not_put_back(own_server, bus, acme):
    """The purge is put back first."""
    await acme.publish("order.paid", 1, idempotent=True)
    await bus.hub.store.purge("acme", None)

    own_server.restart(keep_data=False)
    await met_again(bus)

    assert own_server.execute("EXISTS", ORDERS) == 0


# --- outages --------------------------------------------------------------------------


async def test_a_durable_event_is_never_journaled(proxy, bus, acme):
    """Its caller wants to know that replicas have it."""
    await away(proxy, bus.hub.store)

    for options in ({}, {"idempotent": True}, {"delay": 9.0}):
        with pytest.raises(UnavailableError):
            await acme.publish("order.paid", 1, durable=True, **options)
    with pytest.raises(PublishManyError):
        await acme.publish_many([Event.new("order.paid", 1)], durable=True)

    assert bus.hub.store.journal.depth == 0


async def test_a_durable_event_does_not_overtake(proxy, bus, acme, own_server):
    """While earlier ones of its stream wait it is refused."""
    await away(proxy, bus.hub.store)
    await acme.publish("order.paid", "waits")
    own_server.execute("DEL", ORDERS)
    own_server.execute("SET", ORDERS, "not a stream", "PX", 60_000)
    await back(proxy)
    await met_again(bus)
    await drained(bus.hub.store)  # what is in its way needs a decision

    with pytest.raises(ConnectionLostError, match="earlier events"):
        await acme.publish("order.paid", "overtakes", durable=True)
