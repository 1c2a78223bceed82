"""Tails: every event from now on, to everybody who listens, and nothing kept after."""

from __future__ import annotations

import asyncio
import gc
import os
from contextlib import asynccontextmanager

import pytest

from mcp_crew_redis import CrewRedis, CrewSettings
from mcp_crew_redis._core.breaker import CircuitState
from mcp_crew_redis.errors import (
    DataError,
    InvalidEventTypeError,
    LifecycleError,
    OverloadedError,
)
from mcp_crew_redis.testing import FaultProxy
from tests.rig.waiting import wait_until

STREAM = "mcp-crew:events:{acme}:tool.a:normal"
everywhere = pytest.mark.every_server


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("REDIS_CREW_", "REDIS_CIRCUIT_BREAKER_")):
            monkeypatch.delenv(name)


@asynccontextmanager
async def crew_at(socket, **settings):
    """Give a crew at a socket."""
    given = {"circuit_breaker_timeout": 0.05, **settings}
    async with CrewRedis(CrewSettings(unix_socket=socket, **given)) as crew:
        yield crew


@pytest.fixture
async def crew(server):
    async with crew_at(server.unix_socket) as crew:
        yield crew


@pytest.fixture
def acme(crew):
    return crew.tenant("acme").events


def reader_of(crew):
    """Return what reads for all tails of a crew."""
    return crew.events._tails._reader


def listens(crew):
    """Whether the bell tells the reader of anything."""
    return reader_of(crew)._registration is not None


async def take(tail, count):
    """Return the next payloads."""
    async with asyncio.timeout(10):
        return [(await anext(tail)).payload for _ in range(count)]


@everywhere
async def test_a_tail_gets_what_is_published_from_its_beginning_on(acme):
    """Not what was there; types that come later are found."""
    await acme.publish("tool.a", "before")
    async with acme.tail("tool.*") as tail:
        await acme.publish("tool.a", 1)
        assert await take(tail, 1) == [1]
        await acme.publish("tool.new", 2)
        await acme.publish("alert.raised", "not meant")
        await acme.publish("tool.a", 3)

        assert sorted(await take(tail, 2)) == [2, 3]


async def test_a_tail_is_an_iterator(acme):
    """It begins with its first step, and `break` leaves it."""
    seen = []

    async def listen():
        async for event in acme.tail("tool.*"):
            seen.append(event.payload)
            if event.payload == "last":
                break

    async with asyncio.TaskGroup() as group:
        listening = group.create_task(listen())

        async def publish_until_heard():
            await acme.publish("tool.a", "hello")
            return bool(seen)

        await wait_until(publish_until_heard, "it listens")
        await acme.publish("tool.a", "last")
        await listening

    assert seen[-1] == "last"


async def test_every_tail_gets_every_event(crew, acme):
    """One listener and one task for all; each its own payloads."""
    async with acme.tail("tool.*") as one, acme.tail(">") as two:
        assert listens(crew)
        await acme.publish("tool.a", {"n": 1})
        first, second = (await anext(one)), (await anext(two))

    assert first == second
    assert first.payload is not second.payload


async def test_a_later_tail_does_not_get_what_an_earlier_one_has_to_read(acme):
    """Each has its own beginning."""
    async with acme.tail("tool.*") as one:
        for number in range(5):
            await acme.publish("tool.a", number)
        async with acme.tail("tool.*") as two:
            await acme.publish("tool.a", 5)
            assert await take(two, 1) == [5]
        assert await take(one, 6) == list(range(6))


async def test_tenants_do_not_hear_of_each_other(crew, acme):
    """Under the same type and any pattern."""
    globex = crew.tenant("globex").events
    async with acme.tail(">") as one, globex.tail(">") as two:
        await acme.publish("tool.a", "acme")
        await globex.publish("tool.a", "globex")

        assert await take(one, 1) == ["acme"]
        assert await take(two, 1) == ["globex"]
        await asyncio.sleep(0)
        assert not one._waiting
        assert not two._waiting


async def test_a_slow_listener_loses_the_oldest_and_is_told_how_many(acme):
    """What waits is bounded."""
    async with acme.tail("tool.*", limit=10) as tail:
        for number in range(50):
            await acme.publish("tool.a", number)
        await wait_until(lambda: tail.dropped == 40, "all have come")

        assert await take(tail, 10) == list(range(40, 50))


async def test_what_waits_is_bounded_in_bytes(acme, monkeypatch):
    """Large events drive out others sooner."""
    monkeypatch.setattr("mcp_crew_redis.events.tailing.MAX_WAITING_BYTES", 10_000)
    async with acme.tail("tool.*") as tail:
        for number in range(10):
            await acme.publish("tool.a", [number, bytes(4_000)])
        await wait_until(lambda: tail.dropped == 8, "all have come")

        assert [number for number, _ in await take(tail, 2)] == [8, 9]


async def test_a_slow_listener_may_ask_to_be_disconnected(crew, acme):
    """It gets what waited, and then the error; others go on."""
    async with acme.tail("tool.*") as other:
        tail = acme.tail("tool.*", limit=3, on_overflow="disconnect")
        async with tail:
            for number in range(6):
                await acme.publish("tool.a", number)
            assert await take(other, 6) == list(range(6))
            assert await take(tail, 3) == [0, 1, 2]
            with pytest.raises(OverloadedError):
                await anext(tail)
            with pytest.raises(StopAsyncIteration):
                await anext(tail)


async def test_what_cannot_be_decoded_is_counted(server, acme):
    """And the next one comes."""
    await acme.publish("tool.a", 0)
    async with acme.tail("tool.*") as tail:
        server.execute("XADD", STREAM, "*", "not", "ours")
        await acme.publish("tool.a", 1)

        assert await take(tail, 1) == [1]
        assert tail.skipped == 1


async def test_a_closed_tail_ends(crew, acme):
    """Whoever waits for it gets its end; then nobody listens any more."""
    tail = acme.tail("tool.*")
    async with asyncio.TaskGroup() as group:
        await tail.__aenter__()
        ending = group.create_task(take_all(tail))
        await asyncio.sleep(0)
        await tail.aclose()
    await tail.aclose()

    assert ending.result() == []
    await wait_until(lambda: not listens(crew), "nobody listens")
    assert not reader_of(crew)._owner
    with pytest.raises(LifecycleError):
        await tail.__aenter__()


async def take_all(tail):
    """Return everything up to the end."""
    return [event.payload async for event in tail]


async def test_a_tail_that_nobody_holds_is_forgotten(crew, acme):
    """Left by `break` without a word."""
    tail = acme.tail("tool.*")
    await tail.__aenter__()
    del tail
    gc.collect()

    await acme.publish("tool.a", 1)

    await wait_until(lambda: not listens(crew), "nobody listens")


async def test_the_end_of_the_crew_ends_its_tails(server):
    """Without an error."""
    async with asyncio.TaskGroup() as group, crew_at(server.unix_socket) as crew:
        tail = crew.tenant("acme").events.tail(">")
        await tail.__aenter__()
        ending = group.create_task(take_all(tail))
        await crew.tenant("acme").events.publish("tool.a", 1)

    assert ending.result() in ([], [1])


async def test_a_cancelled_step_loses_nothing(acme):
    """The next one gets the event."""
    async with acme.tail("tool.*") as tail:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(tail)
        await acme.publish("tool.a", 1)

        assert await take(tail, 1) == [1]


async def test_many_events_come_in_order_page_by_page(acme):
    """More than one page of a stream, and than one round trip of streams."""
    async with acme.tail(">", limit=100_000) as tail:
        for number in range(1_000):
            await acme.publish("tool.a", number)

        assert await take(tail, 1_000) == list(range(1_000))


@everywhere
async def test_nothing_is_lost_with_the_bell(server):
    """It goes on where it was, and finds types that came meanwhile."""
    async with (
        FaultProxy(server.unix_socket) as proxy,
        crew_at(proxy.unix_socket) as crew,
        crew_at(server.unix_socket) as other,
    ):
        theirs = other.tenant("acme").events
        async with crew.tenant("acme").events.tail(">") as tail:
            await theirs.publish("tool.a", 0)
            assert await take(tail, 1) == [0]

            proxy.refuse()
            proxy.cut()
            await wait_until(lambda: not crew.bell.is_healthy, "the bell is lost")
            for number in range(1, 6):
                await theirs.publish("tool.a", number)
            await theirs.publish("tool.new", "new")
            proxy.heal()
            await proxy.accept()

            got = await take(tail, 6)
    assert [one for one in got if one != "new"] == [1, 2, 3, 4, 5]
    assert "new" in got


async def test_a_tail_waits_out_an_absent_redis(server):
    """It neither ends nor spins; it begins when Redis is there."""
    async with FaultProxy(server.unix_socket) as proxy:
        proxy.refuse()
        async with crew_at(proxy.unix_socket) as crew, asyncio.TaskGroup() as group:
            tail = crew.tenant("acme").events.tail(">")
            opening = group.create_task(tail.__aenter__())
            breaker = crew.redis.node.breaker
            await wait_until(
                lambda: breaker.state is not CircuitState.CLOSED, "it knows"
            )
            assert not opening.done()

            proxy.heal()
            await proxy.accept()
            await opening
            await crew.tenant("acme").events.publish("tool.a", 1)

            assert await take(tail, 1) == [1]
            await tail.aclose()


@pytest.mark.parametrize("how", ["FLUSHALL", "DEL"])
async def test_a_stream_that_comes_anew_is_read_from_its_beginning(server, acme, how):
    """Even where its ids are lower than those of the one before."""
    await acme.publish("tool.a", 0)
    async with acme.tail("tool.*") as tail:
        server.execute("XADD", STREAM, "9999999999999-0", "not", "ours")
        await acme.publish("tool.b", 1)
        assert await take(tail, 1) == [1]
        server.execute(how, *([STREAM] if how == "DEL" else []))
        await acme.publish("tool.a", 2)

        assert await take(tail, 1) == [2]


async def test_an_entry_taken_out_of_its_stream_is_no_new_stream(server, acme):
    """What was told is not told again."""
    async with acme.tail("tool.*") as tail:
        places = [(await acme.publish("tool.a", n)).stream_id for n in range(3)]
        assert await take(tail, 3) == [0, 1, 2]
        server.execute("XDEL", STREAM, places[-1])
        await acme.publish("tool.b", "mark")
        assert await take(tail, 1) == ["mark"]
        await acme.publish("tool.a", 3)

        assert await take(tail, 1) == [3]


async def test_without_a_bell_it_looks_for_itself(make_server):
    """A server that forbids tracking: the ticks do."""
    server = make_server("valkey")
    server.execute(
        *("ACL", "SETUSER", "b", "on", ">pw", "~*", "&*", "+@all"), "-client|tracking"
    )
    async with crew_at(server.unix_socket, username="b", password="pw") as crew:
        acme = crew.tenant("acme").events
        await acme.publish("tool.a", 0)
        async with acme.tail(">") as tail:
            await acme.publish("tool.a", 1)
            assert await take(tail, 1) == [1]
            await acme.publish("tool.new", 2)
            assert await take(tail, 1) == [2]


@pytest.mark.parametrize(
    "arguments", [{"limit": 0}, {"limit": True}, {"on_overflow": "wait"}]
)
async def test_wrong_arguments_are_told_at_once(acme, arguments):
    """Before anything is asked."""
    with pytest.raises(DataError):
        acme.tail(">", **arguments)


async def test_a_wrong_pattern_is_told_at_once(acme):
    """As everywhere."""
    with pytest.raises(InvalidEventTypeError):
        acme.tail("A*")
