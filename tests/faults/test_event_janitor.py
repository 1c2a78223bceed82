"""The janitor through cut connections, lost answers and killed servers."""

import asyncio
from random import Random

from mcp_crew_redis._wire.envelope import unpack_envelope
from mcp_crew_redis._wire.uuid7 import id_text
from mcp_crew_redis.testing import FaultProxy
from tests.integration.events.janitor_parts import SHORT, process
from tests.rig.waiting import wait_until

TYPE, TENANTS = "order.paid", [f"t{number}" for number in range(5)]


def moved(one):
    """Return the names of all events that are in their streams."""
    return [
        id_text(unpack_envelope(fields[b"m"]).id)
        for tenant in TENANTS
        for _, fields in one.server.execute("XRANGE", one.key(TYPE, tenant), "-", "+")
    ]


async def delay(one, count, longest):
    """Publish events that are due within so many seconds; return their names."""
    names = [f"e{number:03}" for number in range(count)]
    for number, name in enumerate(names):
        tenant = one.bus.of(TENANTS[number % len(TENANTS)])
        seconds = 0.05 + longest * number / count
        await tenant.publish(TYPE, number, delay=seconds, event_id=name)
    return names


async def test_cut_connections_move_each_event_once(server):
    """Whatever was on its way when they were cut."""
    random = Random(11)
    async with (
        process(server, is_used=False) as publisher,
        FaultProxy(server.unix_socket) as proxy,
        process(server, kwargs=proxy.client_kwargs) as one,
        process(server, kwargs=proxy.client_kwargs) as two,
    ):
        names = await delay(publisher, 200, 1.5)
        for _ in range(12):
            await asyncio.sleep(random.uniform(0.02, 0.2))
            proxy.cut()

        await wait_until(lambda: len(moved(one)) >= 200, "all are moved", 20.0)
        assert sorted(moved(two)) == names


async def test_lost_answers_move_each_event_once(server):
    """The script ran, and nobody learned of it."""
    async with (
        process(server, is_used=False) as publisher,
        FaultProxy(server.unix_socket) as proxy,
        process(server, kwargs=proxy.client_kwargs) as one,
    ):
        names = await delay(publisher, 60, 1.0)
        for _ in range(5):
            proxy.drop_reply_to(b"events:{t")
            await proxy.wait_for_dropped_reply()

        await wait_until(lambda: len(moved(one)) >= 60, "all are moved", 20.0)
        assert sorted(moved(one)) == names


async def test_lost_answers_count_each_loss_once(server):
    """The tally is written in the step that trims."""
    async with (
        FaultProxy(server.unix_socket) as proxy,
        process(server, kwargs=proxy.client_kwargs) as one,
    ):
        keys = [await one.add(SHORT.type, 20, tenant=tenant) for tenant in TENANTS]
        for key in keys:
            one.read(key, "g", 10, ack=5)
        for _ in range(3):
            proxy.drop_reply_to(b"tally:")
            await proxy.wait_for_dropped_reply()

        await wait_until(lambda: not any(map(one.length, keys)), "all gone", 20.0)
        assert [one.tally("g", "lost", tenant) for tenant in TENANTS] == [15] * 5


async def test_a_killed_server_delays_and_repeats_nothing(make_server):
    """It comes back with what it had written down, and the janitor with it."""
    server = make_server("valkey", "--appendfsync", "always")
    async with process(server) as one:
        names = await delay(one, 100, 1.0)
        await wait_until(lambda: len(moved(one)) > 20, "some are moved")
        server.kill()
        await asyncio.sleep(0.3)  # some fall due with nobody there
        server.start()

        await wait_until(lambda: len(moved(one)) >= 100, "all are moved", 20.0)
        assert sorted(moved(one)) == names


async def test_a_suspended_process_gives_way_and_comes_back(server):
    """It owned a part, stood still for longer than its lease, and looks around anew."""
    async with (
        FaultProxy(server.unix_socket) as proxy,
        process(server, kwargs=proxy.client_kwargs) as one,
        process(server) as two,
    ):
        await wait_until(lambda: len(two.janitor.part) == 32, "each has its half")
        proxy.replies.stall()
        await wait_until(lambda: len(two.janitor.part) == 64, "the other has all", 10.0)
        assert not one.janitor.part
        names = await delay(two, 50, 0.2)
        await wait_until(lambda: len(moved(two)) >= 50, "all are moved")
        proxy.heal()

        await wait_until(lambda: len(one.janitor.part) == 32, "it has its half", 20.0)
        assert sorted(moved(two)) == names
