"""What heals: whatever becomes of a stream, its group, its consumers or its server."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from mcp_crew_redis.errors import CrewRedisError
from mcp_crew_redis.events.consumer.service import ConsumerService
from mcp_crew_redis.events.event import Event
from mcp_crew_redis.events.outcomes import Retry
from mcp_crew_redis.lifecycle import ServiceState
from mcp_crew_redis.testing import FaultProxy
from tests.faults.event_worker import working
from tests.integration.events.consuming import (
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

CLAIM = 0.5  # seconds, instead of 30
WITHIN = 1.0  # seconds in which consuming goes on


async def publish(crew, *payloads, tenant="acme", **options):
    for payload in payloads:
        await crew.tenant(tenant).events.publish("order.paid", payload, **options)


async def backlog(crew, payloads, **options):
    events = [Event.new("order.paid", payload, **options) for payload in payloads]
    await crew.tenant("acme").events.publish_many(events)


async def settled(server, timeout=15):  # noqa: ASYNC109
    await wait_until(
        lambda: is_settled(server, stream()), "nothing is pending", timeout
    )


class Through:
    """A server as it is seen through a proxy."""

    def __init__(self, proxy):
        self.unix_socket = proxy.client_kwargs["unix_socket_path"]


def now():
    return asyncio.get_running_loop().time()


# --- consumers that die (rows 1 to 3, 11, 18) ---------------------------------------


async def test_a_killed_workers_events_are_handled_by_another(server, tmp_path):
    """All of them, within `claim_after` and two seconds; counted as redelivered."""
    async with crew_on(server) as crew:
        await backlog(crew, [{"n": n, "do": "hang"} for n in range(4)])
        async with working(
            server, tmp_path, "one", claim_after=CLAIM, concurrency=5
        ) as worker:
            await worker.until("begun", 4)
            record = Record()
            subscriptions = one_handler(record.handle, claim_after=CLAIM)
            async with consuming(server, subscriptions):
                await worker.kill()
                killed = now()
                await record.until(4)
                assert now() - killed < CLAIM + 2
                await settled(server)

    assert sorted(event.payload["n"] for event in record.events) == [0, 1, 2, 3]
    assert {event.delivery_count for event in record.events} == {2}
    assert tally(server)["redelivered"] == 4


async def test_a_slow_handler_is_not_disturbed(server):
    """Signs of life are shown for it: five times `claim_after`, one execution."""
    begun = []

    async def handle(event):
        begun.append(event.payload)
        await asyncio.sleep(5 * CLAIM)

    subscriptions = one_handler(handle, claim_after=CLAIM)
    async with (
        consuming(server, subscriptions) as (crew, _),
        consuming(server, subscriptions),
    ):
        await publish(crew, *range(5))
        await settled(server)

    assert sorted(begun) == [0, 1, 2, 3, 4]


async def test_what_waits_behind_a_slow_handler_is_not_taken_away(server):
    """It was fetched, and nobody has begun with it."""
    begun = []

    async def handle(event):
        begun.append(event.payload)
        await asyncio.sleep(CLAIM)

    subscriptions = one_handler(handle, claim_after=CLAIM, ordering="key")
    async with consuming(server, subscriptions) as (crew, consumer):
        await publish(crew, *range(6), key="k")
        async with consuming(server, subscriptions):
            await settled(server)
        assert consumer.statistics()[0].taken_away == 0

    assert begun == list(range(6))


async def test_poison_is_buried_and_all_others_are_handled(server, tmp_path):
    """One event ends each process that handles it."""
    payloads = [{"n": n, "do": "exit" if n == 5 else None} for n in range(20)]
    done, lives = [], []
    async with crew_on(server) as crew:
        await backlog(crew, payloads)
    for number in range(12):
        async with working(
            server, tmp_path, f"w{number}", claim_after=CLAIM, max_deliveries=3
        ) as worker:

            def is_over(worker=worker):
                return worker.has_ended or is_settled(server, stream())

            await wait_until(is_over, "it has died, or all is settled", 20)
            done += worker.numbers("done")
            lives.append(worker.lines("begun"))
            if not worker.has_ended:
                break

    assert set(done) == set(range(20)) - {5}
    (letter,) = letters(server)
    assert letter[b"_r"] == b"max_deliveries"
    assert letter[b"_n"] == b"3"
    assert len(lives) == 4
    assert pending_of(server, stream()) == 0


async def test_who_leaves_while_others_read_loses_nothing(server):
    """Consumers come and go; each event is handled once."""
    record = Record()

    async def handle(event):
        await asyncio.sleep(0.001)
        await record.handle(event)

    subscriptions = one_handler(handle, claim_after=CLAIM, concurrency=4)
    async with consuming(server, subscriptions) as (crew, _):
        await backlog(crew, range(1_500))
        while len(record) < 1_000:
            async with consuming(server, subscriptions):
                before = len(record)
                await record.until(min(before + 100, 1_500))
        await record.until(1_500, timeout=20)
        await settled(server)

    assert sorted(record.payloads) == list(range(1_500))


async def test_a_consumer_removed_by_hand_goes_on(server):
    """XGROUP DELCONSUMER under it: it is made again by its next read."""
    record = Record()
    async with consuming(server, one_handler(record.handle)) as (crew, consumer):
        await publish(crew, 0)
        await record.until(1)
        name = consumer.statistics()[0].consumer
        server.execute("XGROUP", "DELCONSUMER", stream(), "g", name)
        await publish(crew, 1, 2)
        await record.until(3)
        await settled(server)


async def test_a_zombies_late_verdicts_are_refused(server, tmp_path):
    """Stopped past `claim_after`: another has its events, and decides."""
    payloads = [{"n": n, "do": what} for n, what in enumerate((0.3, "reject", "fail"))]
    record = Record()
    async with (
        crew_on(server) as crew,
        working(server, tmp_path, "zombie", claim_after=CLAIM) as worker,
    ):
        await backlog(crew, payloads)
        await worker.until("begun", 3)
        worker.pause()
        subscriptions = one_handler(record.handle, claim_after=CLAIM)
        async with consuming(server, subscriptions):
            await record.until(3)
            await settled(server)
            worker.resume()
            await worker.end()
        (left,) = worker.lines("left")

    assert sorted(event.payload["n"] for event in record.events) == [0, 1, 2]
    assert letters(server) == []
    assert not server.execute("EXISTS", "mcp-crew:event:{acme}:parked:g:order.paid")
    assert left["dead"] == 0
    assert left["taken_away"] >= 2


# --- trimmed (rows 4 and 5) ---------------------------------------------------------


async def test_what_is_trimmed_while_pending_is_lost_and_counted(server, tmp_path):
    """No handler is given an entry without a body."""
    record = Record()
    async with crew_on(server) as crew:
        await backlog(crew, [{"n": n, "do": "hang"} for n in range(4)])
        async with working(
            server, tmp_path, "one", claim_after=CLAIM, concurrency=5
        ) as worker:
            await worker.until("begun", 4)
            server.execute("XTRIM", stream(), "MAXLEN", 0)
            await worker.kill()
    subscriptions = one_handler(record.handle, claim_after=CLAIM)
    async with consuming(server, subscriptions) as (crew, consumer):
        await wait_until(lambda: consumer.statistics()[0].lost == 4, "they are lost")
        await wait_until(lambda: pending_of(server, stream()) == 0, "none is pending")
        await publish(crew, "after")
        await record.until(1)

    assert record.payloads == ["after"]
    assert tally(server)["lost"] == 4


async def test_what_is_trimmed_in_a_handler_is_handled_all_the_same(server):
    """It has been read; its acknowledgement is none any more."""
    gate, record = asyncio.Event(), Record()

    async def handle(event):
        await gate.wait()
        await record.handle(event)

    subscriptions = one_handler(handle, claim_after=CLAIM)
    async with consuming(server, subscriptions) as (crew, consumer):
        await publish(crew, 1, 2)
        await wait_until(lambda: pending_of(server, stream()) == 2, "they are read")
        server.execute("XTRIM", stream(), "MAXLEN", 0)
        await asyncio.sleep(CLAIM)  # signs of life are shown meanwhile
        gate.set()
        await record.until(2)
        await wait_until(lambda: pending_of(server, stream()) == 0, "none is pending")
        assert consumer.statistics()[0].lost == 0


async def test_what_is_trimmed_before_anybody_has_read_it_disturbs_nobody(server):
    """What is left is handled."""
    record = Record()
    async with crew_on(server) as crew:
        await publish(crew, *range(10))
    server.execute("XTRIM", stream(), "MAXLEN", 3)
    async with consuming(server, one_handler(record.handle)) as (crew, _):
        await record.until(3)
        await settled(server)

    assert record.payloads == [7, 8, 9]


# --- gone (rows 6 and 7) ------------------------------------------------------------


FATES = {
    "deleted": [("DEL", stream())],
    "unlinked": [("UNLINK", stream())],
    "expired": [("PEXPIRE", stream(), 1)],
    "flushed": [("FLUSHALL", "SYNC")],
    "flushed-database": [("FLUSHDB",)],
    "ungrouped": [("XGROUP", "DESTROY", stream(), "g")],
    "replaced": [("DEL", stream()), ("SET", stream(), "x"), ("DEL", stream())],
    "renamed": [("RENAME", stream(), "elsewhere")],
    "emptied": [("XTRIM", stream(), "MAXLEN", 0)],
}


@pytest.mark.every_server
@pytest.mark.key_leaks(reason="a key by hand")
@pytest.mark.parametrize("fate", FATES)
async def test_consuming_goes_on_within_a_second(
    request, fate, session_servers, server
):
    """And without a loop of errors."""
    if server.is_cluster:
        pytest.skip("crews do not speak to clusters yet")
    record = Record()
    async with consuming(server, one_handler(record.handle)) as (crew, consumer):
        await publish(crew, "before")
        await record.until(1)
        await settled(server)
        reads = consumer.statistics()[0].reads
        with capture_logs() as lines:
            for command in FATES[fate]:
                server.execute(*command)
            if fate == "expired":
                await wait_until(lambda: not server.execute("EXISTS", stream()), "gone")
            began = now()
            await publish(crew, "after")
            await wait_until(lambda: "after" in record.payloads, "it goes on")
            assert now() - began < WITHIN
            await asyncio.sleep(0.3)  # whatever would go on for ever shows now
        assert consumer.statistics()[0].reads - reads < 20
        assert len(lines) < 20
        assert crew.state is ServiceState.RUNNING
        await settled(server)


async def test_flushed_under_load_it_goes_on(server):
    """What is published afterwards is handled, all of it."""
    handled, is_over = set(), False

    async def handle(event):
        handled.add(event.payload)

    async def load(crew):
        number = 0
        while not is_over:
            await publish(crew, number)
            number += 1
        return number

    async with consuming(server, one_handler(handle, claim_after=CLAIM)) as (crew, _):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(load(crew))
            for _ in range(3):
                before = len(handled)
                await wait_until(lambda n=before: len(handled) > n + 100, "it works")
                server.execute("FLUSHALL", "SYNC")
                began, before = now(), len(handled)
                await wait_until(lambda n=before: len(handled) > n + 5, "it goes on")
                assert now() - began < WITHIN
            is_over = True
        await publish(crew, "last")
        await wait_until(lambda: "last" in handled, "the last is handled")
        await settled(server)

    assert task.result() - len(handled) < task.result() / 2


async def test_in_flight_when_the_stream_goes_nothing_hangs(server):
    """Handlers end, their acknowledgements are none; the next event is handled."""
    gate, record = asyncio.Event(), Record()

    async def handle(event):
        if event.payload != "after":
            await gate.wait()
        await record.handle(event)

    subscriptions = one_handler(handle, claim_after=CLAIM)
    async with consuming(server, subscriptions) as (crew, consumer):
        await publish(crew, *range(8))
        await wait_until(lambda: pending_of(server, stream()) == 8, "they are read")
        server.execute("FLUSHALL", "SYNC")
        await publish(crew, "after")
        await record.until(1)
        gate.set()
        await record.until(9)
        await settled(server)
        assert consumer.statistics()[0].held == 0


async def test_failing_when_the_stream_is_gone_nothing_hangs(server):
    """There is nothing to park and nothing to bury."""
    gate, record = asyncio.Event(), Record()

    async def handle(event):
        if event.payload != "after":
            await gate.wait()
            raise ValueError
        await record.handle(event)

    subscriptions = one_handler(handle, claim_after=CLAIM)
    async with consuming(server, subscriptions) as (crew, consumer):
        await publish(crew, *range(8))
        await wait_until(lambda: pending_of(server, stream()) == 8, "they are read")
        server.execute("FLUSHALL", "SYNC")
        gate.set()
        await publish(crew, "after")
        await record.until(1)
        await wait_until(lambda: consumer.statistics()[0].held == 0, "none is held")
        assert letters(server) == []


@pytest.mark.key_leaks(reason="a key by hand")
async def test_a_foreign_key_in_the_streams_place_is_no_hot_loop(server):
    """Handlers in flight end; it costs a read now and then; it heals."""
    record = Record()
    async with consuming(server, one_handler(record.handle)) as (crew, consumer):
        await publish(crew, "before")
        await record.until(1)
        server.execute("DEL", stream())
        server.execute("SET", stream(), "x")
        reads = consumer.statistics()[0].reads
        with capture_logs() as lines:
            for _ in range(50):
                server.execute("SET", stream(), "x")
                await asyncio.sleep(0.01)
        assert consumer.statistics()[0].reads - reads <= 60
        assert len(lines) <= 60
        server.execute("DEL", stream())
        began = now()
        await publish(crew, "after")
        await record.until(2)
        assert now() - began < 2.5


async def test_what_waits_is_found_again_when_its_set_is_gone(server):
    """It is pending as before: sooner or later it lies about like any other."""
    counts = []

    async def handle(event):
        counts.append(event.delivery_count)
        if event.delivery_count == 1:
            raise Retry(after=60)

    subscriptions = one_handler(handle, claim_after=0.2)
    async with consuming(server, subscriptions) as (crew, _):
        await publish(crew, *range(5))
        await wait_until(lambda: len(counts) == 5, "all have failed")
        parked = "mcp-crew:event:{acme}:parked:g:order.paid"
        await wait_until(lambda: server.execute("ZCARD", parked) == 5, "all wait")
        server.execute("DEL", parked)
        await wait_until(lambda: len(counts) == 10, "all come again", 10)
        await settled(server)

    assert sorted(counts) == [1] * 5 + [2] * 5


async def test_a_group_that_is_set_back_gets_everything_again(server):
    """XGROUP SETID: what an operator wants is done with the next event."""
    record = Record()
    async with consuming(server, one_handler(record.handle)) as (crew, _):
        await publish(crew, 0, 1, 2)
        await record.until(3)
        await settled(server)
        server.execute("XGROUP", "SETID", stream(), "g", "0")
        await publish(crew, 3)
        await record.until(7)

    assert sorted(record.payloads) == [0, 0, 1, 1, 2, 2, 3]


# --- memory (row 16) ----------------------------------------------------------------


async def test_without_memory_the_group_drains(own_server):
    """Reading, acknowledging, retries and dead letters need none to speak of."""
    server, record = own_server, Record()

    async def handle(event):
        if event.payload % 10 == 0 and event.delivery_count == 1:
            raise ValueError
        if event.payload % 25 == 0:
            raise ValueError
        await record.handle(event)

    subscriptions = one_handler(handle, claim_after=CLAIM, max_deliveries=2)
    async with crew_on(server) as crew:
        await backlog(crew, range(1_000))
        server.execute("XGROUP", "CREATE", stream(), "g", "0")
    server.execute("CONFIG", "SET", "maxmemory", 1)
    async with consuming(server, subscriptions) as (crew, _):
        await record.until(960, timeout=6)
        await settled(server)
        with pytest.raises(CrewRedisError):
            await publish(crew, -1, durable=True)
        server.execute("CONFIG", "SET", "maxmemory", 0)
        await publish(crew, 1_001)
        await record.until(961)

    assert len(letters(server)) == 40


async def test_without_memory_a_group_that_is_missing_is_made_when_there_is(own_server):
    """No loop meanwhile."""
    server, record = own_server, Record()
    async with crew_on(server) as crew:
        await backlog(crew, range(10))
    server.execute("CONFIG", "SET", "maxmemory", 1)
    async with consuming(server, one_handler(record.handle)) as (_, consumer):
        await asyncio.sleep(1.0)
        assert consumer.statistics()[0].reads < 40
        server.execute("CONFIG", "SET", "maxmemory", 0)
        await record.until(10, timeout=10)


# --- servers and paths (rows 8 to 10) -----------------------------------------------


async def test_a_server_that_restarts_is_consumed_again(own_server):
    """The service runs on, does not spin meanwhile, and loses nothing."""
    server, record = own_server, Record()
    subscriptions = one_handler(record.handle, claim_after=CLAIM)
    async with consuming(server, subscriptions) as (crew, consumer):
        await publish(crew, *range(10))
        await record.until(10)
        server.stop()
        reads = consumer.statistics()[0].reads
        with capture_logs() as lines:
            await asyncio.sleep(1.0)
        assert consumer.statistics()[0].reads - reads < 20
        assert len([one for one in lines if one["event"].startswith("consumer")]) < 20
        assert crew.state is ServiceState.RUNNING
        server.start()

        async def is_published():
            try:
                await publish(crew, "after")
            except CrewRedisError:
                return False
            return True

        await wait_until(is_published, "it is published", 10)
        await wait_until(lambda: "after" in record.payloads, "it is handled", 10)

    assert set(range(10)) <= set(record.payloads)


async def test_in_flight_when_the_server_dies_events_are_settled_later(own_server):
    """Verdicts wait for it: nothing is handled again that has been."""
    server, gate, record = own_server, asyncio.Event(), Record()
    server.execute("CONFIG", "SET", "appendfsync", "always")

    async def handle(event):
        await record.handle(event)
        await gate.wait()
        if event.payload == 1 and event.delivery_count == 1:
            raise ValueError

    subscriptions = one_handler(handle, claim_after=5.0)
    async with consuming(server, subscriptions) as (crew, _):
        await publish(crew, *range(4))
        await record.until(4)
        server.kill()
        gate.set()
        await asyncio.sleep(0.2)  # verdicts are refused meanwhile
        server.start()
        await record.until(5, timeout=10)
        await settled(server)

    assert sorted(record.payloads) == [0, 1, 1, 2, 3]


async def test_reads_whose_answers_are_lost_lose_nothing(server):
    """Their entries are pending under our name: they are taken in, once."""
    record = Record()

    async def handle(event):
        await asyncio.sleep(0.001)
        await record.handle(event)

    async with FaultProxy(server.unix_socket) as proxy:
        subscriptions = one_handler(handle, claim_after=5.0, concurrency=8)
        async with crew_on(server) as publisher:
            await backlog(publisher, range(4_000))
            async with consuming(Through(proxy), subscriptions) as (_, consumer):
                for count in range(200, 4_000, 200):
                    await record.until(count, timeout=10)
                    proxy.replies.stall()
                    await asyncio.sleep(0.003)  # something is executed meanwhile
                    proxy.cut()
                    proxy.heal()
                await record.until(4_000, timeout=20)
                await settled(server)
                (statistics,) = consumer.statistics()

    assert sorted(record.payloads) == list(range(4_000))
    assert {event.delivery_count for event in record.events} == {1}
    assert (statistics.dead, statistics.lost) == (0, 0)


async def test_a_thousand_cancellations_lose_nothing(server):
    """Consumers cancelled at any moment, under load."""
    record = Record()

    async def handle(event):
        await asyncio.sleep(0)
        await record.handle(event)

    async def once(crew, delay):
        """Consume for a moment, and be cancelled."""
        service = ConsumerService(crew.events.hub, subscriptions)

        class Status:
            def started(self):
                pass

        async with asyncio.TaskGroup() as group:
            task = group.create_task(service.run(task_status=Status()))
            await asyncio.sleep(delay)
            task.cancel()

    subscriptions = one_handler(
        handle, claim_after=CLAIM, concurrency=4, max_deliveries=100
    )
    async with crew_on(server) as crew:
        for number in range(1_000):
            await publish(crew, number)
            if number % 4 == 3:
                async with asyncio.TaskGroup() as group:
                    for share in range(4):
                        group.create_task(once(crew, (number % 37 + share * 9) / 4_000))
    async with consuming(server, subscriptions):
        await wait_until(
            lambda: set(record.payloads) == set(range(1_000)), "all are handled", 20
        )
        await settled(server)

    assert letters(server) == []
