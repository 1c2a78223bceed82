"""Events of an outage: each arrives once, in the order of its stream."""

from __future__ import annotations

import asyncio

import msgpack
import pytest
from structlog.testing import capture_logs

from mcp_crew_redis import CrewRedis, CrewSettings, FallbackFullError
from mcp_crew_redis._core.breaker import CircuitState
from mcp_crew_redis.events.event import Event
from mcp_crew_redis.events.many import PublishManyError
from mcp_crew_redis.testing import FaultProxy
from mcp_crew_redis.types import WriteOutcome
from tests.integration.core.bench import eventually
from tests.integration.events.publish_parts import ORDERS, bodies, buses, stream
from tests.integration.store.outage_parts import away, back, drained
from tests.rig.waiting import wait_until

DEAD, TALLY = b"p:event:{acme}:dead:-", b"p:event:{acme}:tally:-"
SCHEDULED = b"p:events:{acme}:scheduled"
TYPES = b"p:meta:{acme}:types"
DEFERRED = WriteOutcome.DEFERRED


@pytest.fixture
async def proxy(own_server):
    async with FaultProxy(own_server.unix_socket) as proxy:
        yield proxy


@pytest.fixture
async def bus(proxy):
    async with buses(proxy.client_kwargs) as bus:
        yield bus


@pytest.fixture
def acme(bus):
    return bus.of("acme")


def told(server, key=ORDERS):
    return [msgpack.unpackb(body) for body in bodies(server, key)]


async def test_events_of_an_outage_arrive_once_and_in_order(
    own_server, proxy, bus, acme
):
    """Plain and idempotent ones, and those of before and after."""
    await acme.publish("order.paid", 0)
    await away(proxy, bus.hub.store)
    for number in range(1, 41):
        receipt = await acme.publish(
            "order.paid", number, idempotent=bool(number % 2), event_id=f"e{number}"
        )
        assert receipt.outcome is DEFERRED
        assert receipt.event_id == f"e{number}"
    await back(proxy)
    await drained(bus.hub.store)
    await acme.publish("order.paid", 41)

    assert told(own_server) == list(range(42))


async def test_a_killed_server_gets_what_came_meanwhile(own_server, bus, acme):
    """Of every stream, in its own order; what was delayed waits for its time."""
    await acme.publish("order.paid", "before", idempotent=True)
    own_server.kill()
    for number in range(10):
        await eventually(
            lambda n=number: acme.publish("order.paid", n, idempotent=True), "taken"
        )
        await eventually(lambda n=number: acme.publish("order.sent", n), "taken")
    await acme.publish("order.late", 1, delay=60.0, event_id="late")
    own_server.start()
    await drained(bus.hub.store)

    assert told(own_server) == ["before", *range(10)]
    sent = ORDERS.replace(b"paid", b"sent")
    assert told(own_server, sent) == list(range(10))
    assert own_server.execute("ZRANGE", SCHEDULED, 0, -1) == [b"late"]


async def test_what_follows_goes_behind_what_waits(own_server, proxy, bus, acme):
    """Also when Redis answers already: nobody overtakes."""
    await away(proxy, bus.hub.store)
    for number in range(200):
        await acme.publish("order.paid", number)
    await back(proxy)
    for number in range(200, 260):
        await acme.publish("order.paid", number)
    await drained(bus.hub.store)

    assert told(own_server) == list(range(260))


async def test_who_is_faster_than_the_journal_is_slowed_down(
    own_server, proxy, bus, acme
):
    """Or it would never be empty again."""
    await away(proxy, bus.hub.store)
    for number in range(100):
        await acme.publish("order.paid", number)
    await back(proxy)
    node = bus.hub.port.client.node
    await wait_until(
        lambda: node.breaker.state is CircuitState.CLOSED, "the circuit closes"
    )

    receipt = await acme.publish("order.paid", 100)

    assert receipt.outcome is WriteOutcome.STORED
    assert told(own_server) == list(range(101))
    assert bus.hub.store.journal.depth == 0


async def test_the_registry_learns_of_types_that_landed(own_server, proxy, bus, acme):
    """Without it nobody would find their streams."""
    await away(proxy, bus.hub.store)
    await acme.publish("order.paid", 1)
    await acme.publish("order.late", 1, delay=60.0)
    await back(proxy)
    await drained(bus.hub.store)

    async def is_known():
        return own_server.execute("SCARD", TYPES) == 2

    await wait_until(is_known, "the registry knows both")
    assert own_server.execute("ZSCORE", "p:tenants", "acme") is not None


async def test_one_id_in_two_types_is_two_events(own_server, proxy, bus, acme):
    """A plain publish claims no id, in an outage neither."""
    await away(proxy, bus.hub.store)
    await acme.publish("order.paid", 1, event_id="e1")
    await acme.publish("order.sent", 2, event_id="e1")
    await back(proxy)
    await drained(bus.hub.store)

    assert told(own_server) == [1]
    assert told(own_server, ORDERS.replace(b"paid", b"sent")) == [2]
    again = await acme.publish("order.paid", 3, event_id="e1", idempotent=True)
    assert not again.is_duplicate


async def test_an_idempotent_event_waits_and_is_known(own_server, proxy, bus, acme):
    """Twice in an outage, and once more afterwards: it stands once."""
    await away(proxy, bus.hub.store)
    for _ in range(2):
        await acme.publish("order.paid", 1, event_id="e1", idempotent=True)
    await back(proxy)
    await drained(bus.hub.store)

    again = await acme.publish("order.paid", 1, event_id="e1", idempotent=True)
    assert again.is_duplicate
    assert len(stream(own_server)) == 1


async def test_many_events_wait_together(own_server, proxy, bus, acme):
    """Each with its receipt, in order."""
    await away(proxy, bus.hub.store)
    events = [Event.new("order.paid", number) for number in range(30)]

    receipts = await acme.publish_many(events)

    assert {receipt.outcome for receipt in receipts} == {DEFERRED}
    assert [receipt.event_id for receipt in receipts] == [one.id for one in events]
    await back(proxy)
    await drained(bus.hub.store)
    assert told(own_server) == list(range(30))


async def test_a_full_journal_refuses(proxy, bus, acme):
    """Nothing that was accepted makes way."""
    await away(proxy, bus.hub.store)
    bus.hub.store.journal._max_entries = 2
    await acme.publish("order.paid", 1)

    with pytest.raises(PublishManyError) as caught:
        await acme.publish_many([Event.new("order.paid", n) for n in (2, 3)])
    with pytest.raises(FallbackFullError):
        await acme.publish("order.paid", 4)

    assert caught.value.receipts[0] is not None
    assert isinstance(caught.value.errors[1], FallbackFullError)
    assert bus.hub.store.journal.depth == 2


async def test_a_landed_event_that_the_next_server_lost_is_put_back(
    own_server, proxy, bus, acme
):
    """It has been acknowledged twice by then."""
    await away(proxy, bus.hub.store)
    await acme.publish("order.paid", 1)
    await back(proxy)
    await drained(bus.hub.store)

    own_server.restart(keep_data=False)
    await eventually(lambda: bus.hub.port.send("PING"), "it answers", timeout=10.0)

    assert told(own_server) == [1]


async def test_what_waited_too_long_is_a_dead_letter(own_server, proxy, bus, acme):
    """Nobody could tell any more whether it was published before."""
    await away(proxy, bus.hub.store)
    await acme.publish("order.paid", "old", event_id="e1", idempotent=True)
    await acme.publish("order.late", "old", delay=5.0)
    await acme.publish("order.paid", "new")
    store = bus.hub.store
    for queue in store.journal.postings.values():
        queue[0].made_us -= 86_400_000_000
    with capture_logs() as logs:
        await back(proxy)
        await drained(store)

    assert told(own_server) == ["new"]
    assert sorted(told(own_server, DEAD)) == ["old", "old"]
    assert own_server.execute("HGETALL", TALLY) in (
        {b"dead": b"2"},
        [b"dead", b"2"],
    )
    assert [one["event"] for one in logs].count("event.overdue") == 2
    assert own_server.execute("EXISTS", SCHEDULED) == 0


async def test_a_purge_takes_what_waits_along(own_server, proxy, bus, acme):
    """Also what another process's purge has overtaken."""
    await away(proxy, bus.hub.store)
    await acme.publish("order.paid", 1)
    own_server.execute("SET", "p:meta:{acme}:floor", 2**52)
    await back(proxy)
    await drained(bus.hub.store)

    assert bus.hub.store.journal.depth == 0
    assert own_server.execute("EXISTS", ORDERS) == 0


async def test_a_stream_in_trouble_holds_up_itself_alone(own_server, proxy, bus, acme):
    """A key of another type is for its owner to decide."""
    await away(proxy, bus.hub.store)
    await acme.publish("order.paid", 1)
    await acme.publish("order.sent", 1)
    own_server.execute("SET", ORDERS, "x", "PX", 60_000)
    await back(proxy)
    await drained(bus.hub.store)

    assert told(own_server, ORDERS.replace(b"paid", b"sent")) == [1]
    assert bus.hub.store.journal.unresolved == 1
    assert (await acme.publish("order.paid", 2)).outcome is DEFERRED


async def test_cancelling_a_publish_in_an_outage_leaves_it_accepted(proxy, bus, acme):
    """Or not accepted; nothing in between, and nothing that hangs."""
    proxy.requests.stall()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(acme.publish("order.paid", 1, idempotent=True))
        await asyncio.sleep(0)
        task.cancel()

    assert task.cancelled()
    assert bus.hub.store.journal.depth == 0


# --- crews ----------------------------------------------------------------------------


def settings_of(server, folder=None):
    return CrewSettings(
        unix_socket=server.unix_socket, journal_dir=folder, start="degraded"
    )


async def test_a_crew_that_starts_without_redis_publishes(own_server):
    """Its clock is not measured yet; what it accepts arrives all the same."""
    own_server.kill()
    key = ORDERS.replace(b"p:", b"mcp-crew:", 1)
    async with CrewRedis(settings_of(own_server)) as crew:
        for number in range(5):
            await crew.tenant("acme").events.publish("order.paid", number)
        own_server.start()
        await crew.journal.drained(10)

        assert told(own_server, key) == list(range(5))


async def test_another_process_hands_on_what_a_crew_left(own_server, tmp_path):
    """From the folder of the journal: once, in order."""
    folder = tmp_path / "journal"
    own_server.kill()
    async with CrewRedis(settings_of(own_server, folder)) as crew:
        for number in range(5):
            await crew.tenant("acme").events.publish(
                "order.paid", number, idempotent=True
            )
        await crew.tenant("acme").events.publish("order.late", 1, delay=60.0)
    own_server.start()

    async with CrewRedis(settings_of(own_server, folder)) as crew:
        await crew.journal.drained(10)

    key = ORDERS.replace(b"p:", b"mcp-crew:", 1)
    assert told(own_server, key) == list(range(5))
    assert own_server.execute("ZCARD", "mcp-crew:events:{acme}:scheduled") == 1
    assert own_server.execute("SCARD", "mcp-crew:meta:{acme}:types") == 2
