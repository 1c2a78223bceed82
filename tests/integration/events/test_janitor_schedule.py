"""Delayed events: in their streams when they are due, once and in order."""

import asyncio

from structlog.testing import capture_logs

from mcp_crew_redis._wire.envelope import unpack_envelope
from mcp_crew_redis._wire.streams import scheduled_bodies_key, scheduled_key
from mcp_crew_redis._wire.uuid7 import id_text
from mcp_crew_redis.testing import FaultProxy
from tests.integration.events.janitor_parts import process
from tests.rig.waiting import wait_until

TYPE = "order.paid"


def entries(one, tenant="acme"):
    """Return id in the stream (ms) and name of every event there, in order."""
    found = one.server.execute("XRANGE", one.key(TYPE, tenant), "-", "+")
    return [
        (int(entry.split(b"-")[0]), id_text(unpack_envelope(fields[b"m"]).id))
        for entry, fields in found
    ]


def due_times(one, tenant="acme"):
    key = scheduled_key(one.hub.keys.tenant(tenant))
    found = one.server.execute("ZRANGE", key, 0, -1, "WITHSCORES")
    return {name.decode(): round(score) for name, score in found}


async def test_it_is_there_within_50_ms_of_its_time(server):
    """By the server's clock, and not before."""
    async with process(server) as one:
        tenant = one.bus.of("acme")
        for number in range(5):
            delay = 0.15 + number / 20
            await tenant.publish(TYPE, {}, delay=delay, event_id=f"e{number}")
        due = due_times(one)

        await wait_until(lambda: len(entries(one)) == 5, "all are there")

        late = [at - due[name] for at, name in entries(one)]
        assert min(late) >= 0
        assert max(late) < 50


async def test_they_come_in_the_order_of_due_times(server):
    """Not in that of their publication."""
    async with process(server) as one:
        tenant = one.bus.of("acme")
        for number in (3, 1, 2):
            await tenant.publish(TYPE, {}, delay=number / 20, event_id=f"e{number}")

        await wait_until(lambda: len(entries(one)) == 3, "all are there")

        assert [name for _, name in entries(one)] == ["e1", "e2", "e3"]


async def test_an_earlier_one_does_not_wait_for_a_later_one(server):
    """The timer follows the next due time."""
    async with process(server) as one:
        tenant = one.bus.of("acme")
        await tenant.publish(TYPE, {}, delay=60.0, event_id="late")
        await tenant.publish(TYPE, {}, delay=0.05, event_id="soon")

        await wait_until(lambda: len(entries(one)) == 1, "the sooner is there", 1.0)

        assert [name for _, name in entries(one)] == ["soon"]


async def test_what_was_due_before_the_start_is_moved(server):
    """Nobody was there at its time."""
    async with process(server, is_used=False) as one:
        await one.bus.of("acme").publish(TYPE, {}, delay=0.01, event_id="e")
        await asyncio.sleep(0.02)  # it falls due with nobody there
        one.hub.used()

        await wait_until(lambda: len(entries(one)) == 1, "it is there")


async def test_a_thousand_of_one_moment_are_moved_in_batches(server):
    """In order, each once."""
    async with process(server) as one:
        tenant = one.bus.of("acme")
        names = [f"e{number:04}" for number in range(1_000)]
        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(tenant.publish(TYPE, {}, delay=0.3, event_id=name))

        await wait_until(lambda: len(entries(one)) >= 1_000, "all are there")

        due = due_times(one)
        assert due == {}
        assert sorted(name for _, name in entries(one)) == names
        keys = one.hub.keys.tenant("acme")
        gone = scheduled_key(keys), scheduled_bodies_key(keys)
        assert server.execute("EXISTS", *gone) == 0


async def test_two_processes_move_each_event_once(server):
    """Whoever owns the tenant, and while it goes from one to the other."""
    async with process(server) as one, process(server) as two:
        for number in range(100):
            bus = (one, two)[number % 2].bus
            tenant = bus.of(f"t{number % 5}")
            await tenant.publish(TYPE, {}, delay=number / 100, event_id=f"e{number}")

        def count():
            return sum(len(entries(one, f"t{at}")) for at in range(5))

        await wait_until(lambda: count() >= 100, "all are there")

        names = [name for at in range(5) for _, name in entries(one, f"t{at}")]
        assert sorted(names) == sorted({f"e{number}" for number in range(100)})


async def test_what_is_no_event_is_dropped_and_told(server):
    """Nothing is due for ever."""
    with capture_logs() as logs:
        async with process(server) as one:
            await one.store.registry.note("acme")
            keys = one.hub.keys.tenant("acme")
            due, bodies = scheduled_key(keys), scheduled_bodies_key(keys)
            server.execute("HSET", bodies, "x", "no event")
            server.execute("ZADD", due, 1, "x")

            await wait_until(lambda: one.tally("-", "lost") == 1, "it is counted")
    (line,) = [line for line in logs if line["event"] == "janitor.events_lost"]
    assert (line["tenant"], line["group"], line["count"]) == ("acme", "-", 1)


async def test_in_an_outage_nothing_is_moved_and_afterwards_everything(server):
    """Late, once."""
    async with (
        FaultProxy(server.unix_socket) as proxy,
        process(server, kwargs=proxy.client_kwargs) as one,
    ):
        await one.bus.of("acme").publish(TYPE, {}, delay=0.2, event_id="e")
        proxy.refuse()
        proxy.cut()
        await wait_until(lambda: not one.bell.is_healthy, "the bell is lost")
        await asyncio.sleep(0.3)  # it falls due with nobody there
        assert entries(one) == []
        await proxy.accept()

        await wait_until(lambda: len(entries(one)) == 1, "it is there", 10.0)


async def test_a_server_that_stands_still_delays_and_loses_nothing(server):
    """No answer, then all of them."""
    async with process(server) as one:
        await one.bus.of("acme").publish(TYPE, {}, delay=0.1, event_id="e")
        with server.paused():
            await asyncio.sleep(1.2)  # longer than a command may take

        await wait_until(lambda: len(entries(one)) >= 1, "it is there", 10.0)
        assert [name for _, name in entries(one)] == ["e"]
