"""The janitor's retention: what goes, what stays, and what is said of it."""

import asyncio

from structlog.testing import capture_logs

from mcp_crew_redis import CrewRedis, CrewSettings
from mcp_crew_redis._wire.streams import stream_key
from mcp_crew_redis.events.janitor.pace import JanitorPace
from mcp_crew_redis.events.schemas import EventCatalog
from mcp_crew_redis.events.shares import Shares
from mcp_crew_redis.testing import FaultProxy
from tests.integration.events.janitor_parts import LONG, SHORT, process
from tests.rig.waiting import wait_until


async def test_it_sleeps_until_events_are_used(server):
    """No connection of the bell, no lease, no question."""
    async with process(server, is_used=False) as one:
        key = await one.add(SHORT.type)
        before = server.info("commandstats")
        await asyncio.sleep(0.05)  # long enough for what must not happen
        after = server.info("commandstats")

        assert after.keys() - before.keys() <= {"cmdstat_info"}
        assert not one.bell.is_healthy
        one.hub.used()
        await wait_until(lambda: one.length(key) == 0, "it has begun")


async def test_what_nobody_waits_for_goes_after_the_soft_limit(server):
    """A stream that was there before, and one that comes later."""
    async with process(server, is_used=False) as one:
        before = await one.add(SHORT.type, 150)
        one.hub.used()
        await wait_until(lambda: one.length(before) == 0, "the first is empty")
        later = await one.add(SHORT.type, 5, tenant="globex")

        await wait_until(lambda: one.length(later) == 0, "the second is empty")


async def test_what_was_published_meanwhile_stays_until_its_time(server):
    """The limit is each entry's own."""
    async with process(server) as one:
        key = await one.add("order.plain", 3)
        short = await one.add(SHORT.type, 3)
        await wait_until(lambda: one.length(short) == 0, "its time is over")

        assert one.length(key) == 3


async def test_a_stream_that_was_empty_is_trimmed_again(server):
    """It rings when it is filled."""
    async with process(server) as one:
        key = await one.add(SHORT.type)
        await wait_until(lambda: one.length(key) == 0, "it is empty")
        await one.add(SHORT.type)

        await wait_until(lambda: one.length(key) == 0, "it is empty again")


async def test_what_a_group_has_not_acknowledged_stays_until_it_has(server):
    """An acknowledgement does not ring; the janitor looks again."""
    async with process(server) as one:
        key = await one.add(LONG.type, 5)
        ids = one.read(key, "g", 5, ack=2)
        await wait_until(lambda: one.length(key) == 3, "the acknowledged are gone")
        server.execute("XACK", key, "g", *ids[2:])

        await wait_until(lambda: one.length(key) == 0, "the others are gone")
    assert one.tally("g", "lost") == 0


async def test_what_the_hard_limit_costs_is_counted_and_told(server):
    """In the group's tally, in the log, and to the tenant."""
    with capture_logs() as logs:
        async with process(server) as one:
            key = await one.add(SHORT.type, 5)
            one.read(key, "g", 2, ack=1)
            told = stream_key(one.hub.keys.tenant("acme"), "crew.events_lost", 2)

            def payloads():
                found = server.execute("XRANGE", told, "-", "+")
                return [one.hub.codec.decode(fields[b"d"]) for _, fields in found]

            def told_count():
                return sum(payload["count"] for payload in payloads())

            await wait_until(lambda: told_count() == 4, "all of it is told")

            assert one.tally("g", "lost") == 4
            assert payloads()[0].keys() == {"event_type", "group", "count"}
            assert payloads()[0]["event_type"] == SHORT.type
    lines = [line for line in logs if line["event"] == "janitor.events_lost"]
    assert sum(line["count"] for line in lines) == 4
    assert lines[0]["log_level"] == "warning"
    assert (lines[0]["tenant"], lines[0]["type"]) == ("acme", SHORT.type)


async def test_the_loss_of_reports_makes_no_further_reports(server):
    """It is logged and counted; otherwise it would never end."""
    async with process(server) as one:
        one.janitor._losses.add("acme", "crew.events_lost", "g", 3)
        one.janitor._losses.add("acme", SHORT.type, "g", 1)
        told = one.key("crew.events_lost")
        await wait_until(lambda: one.length(told) > 0, "the other one is told")

        assert one.length(told) == 1


async def test_a_stream_that_is_empty_and_old_goes(server):
    """If it has no group, which would forget where it had been."""
    pace = JanitorPace(lease=1.5, recheck=0.1, idle=0.3)
    async with process(server, pace=pace) as one:
        key = await one.add(SHORT.type)

        await wait_until(lambda: not server.execute("EXISTS", key), "it is gone")
        await wait_until(lambda: len(one.janitor._retention) == 0, "it is forgotten")


async def test_idle_consumers_go_and_busy_ones_stay(server):
    """Busy is who has something pending, however long."""
    pace = JanitorPace(lease=1.5, recheck=0.05, idle=0.2)
    async with process(server, pace=pace) as one:
        key = await one.add(LONG.type, 1)
        one.read(key, "g", 1)
        server.execute("XGROUP", "CREATECONSUMER", key, "g", "idle")

        def names():
            consumers = server.execute("XINFO", "CONSUMERS", key, "g")
            return [consumer[b"name"] for consumer in consumers]

        await wait_until(lambda: names() == [b"c"], "the idle one is gone")


async def test_a_group_that_holds_back_with_nobody_there_is_reported_once(server):
    """And never destroyed."""
    pace = JanitorPace(lease=1.5, recheck=0.05, stale=0.3)
    with capture_logs() as logs:
        async with process(server, pace=pace) as one:
            key = await one.add(LONG.type, 2)
            one.read(key, "g", 1)

            def told():
                return [line for line in logs if line["event"] == "janitor.group_stale"]

            await wait_until(lambda: len(told()) == 1, "it is reported")
            await asyncio.sleep(0.2)  # long enough for what must not happen

            assert len(told()) == 1
            assert told()[0]["group"] == "g"
            assert len(server.execute("XINFO", "GROUPS", key)) == 1


def halves(*processes):
    """Whether each of two has half of the work."""
    return all(len(process.janitor.part) == 32 for process in processes)


async def test_two_processes_share_the_tenants(server):
    """Each stream is trimmed, by one of them."""
    async with process(server) as one, process(server) as two:
        await wait_until(lambda: halves(one, two), "each has its half")
        keys = [await one.add(SHORT.type, 2, tenant=f"t{at}") for at in range(20)]

        await wait_until(lambda: not any(map(one.length, keys)), "all are trimmed")
        both = len(one.janitor._retention), len(two.janitor._retention)
        assert 0 < both[0] < 20
        assert sum(both) == 20


async def test_what_one_process_leaves_another_takes_over(server):
    """At once when it was drained."""
    async with process(server) as one:
        async with process(server) as two:
            await wait_until(lambda: halves(one, two), "each has its half")
        keys = [await one.add(SHORT.type, 1, tenant=f"t{at}") for at in range(20)]

        await wait_until(lambda: not any(map(one.length, keys)), "all are trimmed")


async def test_the_part_of_a_dead_process_goes_over_after_its_lease(
    server, monkeypatch
):
    """It could not sign off."""
    async with process(server) as one:
        async with process(server) as two:
            await wait_until(lambda: halves(one, two), "each has its half")
            monkeypatch.setattr(Shares, "leave", Shares.hold)  # as if it had died
        keys = [await one.add(SHORT.type, 1, tenant=f"t{at}") for at in range(20)]

        await wait_until(lambda: not any(map(one.length, keys)), "all are trimmed")
        assert len(one.janitor.part) == 64


async def test_an_outage_ends_nothing_and_costs_nothing(server):
    """It neither exits nor spins, and goes on where it was."""
    async with (
        FaultProxy(server.unix_socket) as proxy,
        process(server, kwargs=proxy.client_kwargs) as one,
    ):
        key = await one.add(SHORT.type, 3)
        proxy.refuse()
        proxy.cut()
        shares = one.janitor._shares
        await wait_until(lambda: not shares.owned, "it holds itself back", 10.0)
        await proxy.accept()

        await wait_until(lambda: one.length(key) == 0, "it goes on", 10.0)


async def test_after_flushall_it_goes_on(server):
    """Its part is taken anew, and new streams are found."""
    async with process(server) as one:
        await one.add("order.plain", 3)
        await wait_until(lambda: len(one.janitor._retention) == 1, "it is known")
        server.execute("FLUSHALL")
        key = await one.add(SHORT.type, 3)

        await wait_until(lambda: one.length(key) == 0, "it is trimmed")


async def test_foreign_keys_under_the_prefix_are_let_be(server):
    """They ring too."""
    async with process(server) as one:
        server.execute("SET", "p:events:{acme}:nonsense", "x", "EX", 60)
        server.execute("SET", one.key("order.string"), "x", "EX", 60)
        key = await one.add(SHORT.type)

        await wait_until(lambda: one.length(key) == 0, "the real one is trimmed")
        assert server.execute("GET", one.key("order.string")) == b"x"


async def test_without_tracking_new_streams_are_found_by_surveys(server):
    """Later than with a bell, but found."""
    rights = ("on", ">pw", "~*", "&*", "+@all", "-client|tracking")
    server.execute("ACL", "SETUSER", "b", *rights)
    kwargs = server.client_kwargs | {"username": "b", "password": "pw"}
    try:
        async with process(server, kwargs=kwargs) as one:
            for tenant in ("acme", "globex"):
                key = await one.add(SHORT.type, tenant=tenant)
                await wait_until(lambda key=key: one.length(key) == 0, "trimmed", 10.0)
    finally:
        server.execute("ACL", "DELUSER", "b")


async def test_it_ends_soon_while_the_server_stands_still(own_server):
    """Nothing that it has under way has to be finished."""
    loop = asyncio.get_running_loop()
    async with process(own_server) as one:
        await wait_until(lambda: len(one.janitor.part) == 64, "it has begun")
        own_server.pause()
        await wait_until(lambda: one.janitor._shares._is_calling, "it asks in vain")
        began = loop.time()
    own_server.resume()

    assert loop.time() - began < 4.0


async def test_a_crew_has_a_janitor(server):
    """Without anybody having to ask for one."""
    catalog = EventCatalog([SHORT])
    async with CrewRedis(
        CrewSettings(unix_socket=server.unix_socket), event_catalog=catalog
    ) as crew:
        events = crew.tenant("acme").events
        await events.publish(SHORT.type, 1, delay=0.05)
        key = stream_key(crew.keys.tenant("acme"), SHORT.type, 2)
        await wait_until(lambda: server.execute("XLEN", key) == 1, "it is moved")

        await wait_until(lambda: server.execute("XLEN", key) == 0, "it is trimmed")


async def test_without_the_right_to_it_says_so_once_and_goes_on(server):
    """A user of the ACL who may not: nothing is cleaned up, nothing ends."""
    server.execute("ACL", "SETUSER", "b", "on", ">pw", "~*", "&*", "+@all", "-hset")
    kwargs = server.client_kwargs | {"username": "b", "password": "pw"}
    try:
        with capture_logs() as logs:
            async with process(server, kwargs=kwargs) as one:

                def told():
                    return [x for x in logs if x["event"] == "janitor.renewal_failed"]

                await wait_until(lambda: bool(told()), "it is said")
                assert one.janitor.part == frozenset()
                server.execute("ACL", "SETUSER", "b", "+hset")
                await wait_until(lambda: len(one.janitor.part) == 64, "it goes on")
            assert len(told()) == 1
    finally:
        server.execute("ACL", "DELUSER", "b")
