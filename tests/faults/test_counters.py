"""Counters on a path that loses connections and replies."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from mcp_crew_redis.errors import (
    CircuitOpenError,
    ConnectionLostError,
    OutcomeUnknownError,
    UnavailableError,
)
from mcp_crew_redis.store.counters import Counters
from mcp_crew_redis.testing import FaultProxy
from tests.integration.core.bench import eventually, outcome
from tests.integration.store.parts import all_of, store
from tests.rig.waiting import wait_until

WORKER = Path(__file__).with_name("counting_worker.py")
TTL = 60_000
KEY = "p:counter:{acme}:n"
everywhere = pytest.mark.every_server


@pytest.fixture
async def proxy(server):
    async with FaultProxy(server.unix_socket) as proxy:
        yield proxy


@pytest.fixture
async def context(proxy):
    async with store(proxy.client_kwargs) as context:
        yield context


@pytest.fixture
def keys(context):
    return context.keys.tenant("acme")


@pytest.fixture
async def counters(context, keys):
    counters = Counters(context, "writer")
    await counters.increment(keys, "warm", 1, TTL)  # the script is known
    return counters


@everywhere
async def test_an_increment_whose_reply_is_lost_gets_its_value(
    server, proxy, counters, keys
):
    """Added once; nobody hears of the cut."""
    proxy.drop_reply_to(b"counter:{acme}:n")

    assert await counters.increment(keys, "n", 5, TTL) == 5
    assert server.execute("HGET", keys.key("counter", "n"), "v") == b"5"


@everywhere
async def test_all_callers_of_a_lost_batch_get_their_values(proxy, counters, keys):
    """Each its own partial sum, once."""
    for _ in range(5):
        proxy.drop_reply_to(b"counter:{acme}:n")
        await all_of(counters.increment(keys, "n", 1, TTL) for _ in range(10))

    values = await all_of(counters.increment(keys, "n", 1, TTL) for _ in range(10))

    assert values == list(range(51, 61))


@everywhere
async def test_while_redis_is_away_each_caller_gets_an_error_of_its_own(
    proxy, context, counters, keys
):
    """Nothing was sent, and the errors say so."""
    proxy.refuse()
    proxy.cut()
    assert isinstance(await outcome(context.port.send("PING")), UnavailableError)
    errors = await all_of(counters.increment(keys, "n", 1, TTL) for _ in range(5))

    assert all(isinstance(error, UnavailableError) for error in errors)
    assert not any(isinstance(error, OutcomeUnknownError) for error in errors)
    assert len({id(error) for error in errors}) == 5
    assert counters._tallies == {}


@everywhere
async def test_an_unresolved_increment_is_added_by_the_next(
    server, proxy, counters, keys
):
    """Sent, never answered, and Redis gone: unknown now, exact later."""
    proxy.replies.stall()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(all_of([counters.increment(keys, "n", 5, TTL)]))
        await wait_until(
            lambda: server.execute("EXISTS", keys.key("counter", "n")) == 1, "it landed"
        )
        proxy.refuse()
        proxy.cut()
    assert isinstance(task.result()[0], OutcomeUnknownError)
    assert counters.uncertain_count == 1

    proxy.heal()
    await proxy.accept()
    value = await eventually(
        lambda: counters.increment(keys, "n", 1, TTL), "it is back"
    )

    assert value == 6
    assert counters._tallies == {}
    assert counters.uncertain_count == 0


@everywhere
async def test_those_behind_an_unresolved_increment_learn_that_nothing_was_sent(
    server, proxy, counters, keys
):
    """Only the one whose batch was sent is uncertain."""
    proxy.replies.stall()
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(all_of([counters.increment(keys, "n", amount, TTL)]))
            for amount in (1, 10, 100)
        ]
        await wait_until(
            lambda: server.execute("EXISTS", keys.key("counter", "n")) == 1, "it landed"
        )
        proxy.refuse()
        proxy.cut()
    first, *others = [task.result()[0] for task in tasks]

    assert isinstance(first, OutcomeUnknownError)
    for error in others:
        assert isinstance(error, ConnectionLostError | CircuitOpenError)


@everywhere
async def test_a_hung_server_costs_each_caller_one_timeout(server, keys):
    """Those that wait behind the first do not wait for a second one."""
    async with store(server.client_kwargs, command_timeout=0.2) as context:
        counters = Counters(context, "writer")
        await counters.increment(keys, "warm", 1, TTL)
        loop = asyncio.get_running_loop()
        with server.paused():
            start = loop.time()
            errors = await all_of(
                counters.increment(keys, "n", 1, TTL) for _ in range(20)
            )
            took = loop.time() - start

    assert all(isinstance(error, UnavailableError) for error in errors)
    assert took < 0.5


@everywhere
async def test_uncertain_counters_are_bounded(server, keys, monkeypatch):
    """The oldest is given up."""
    monkeypatch.setattr("mcp_crew_redis.store.counters.MAX_UNCERTAIN", 3)
    async with store(server.client_kwargs, command_timeout=0.2) as context:
        counters = Counters(context, "writer")
        await counters.increment(keys, "warm", 1, TTL)
        with server.paused():
            await all_of(counters.increment(keys, f"n{at}", 1, TTL) for at in range(8))

        assert counters.uncertain_count == 3
        assert len(counters._tallies) == 3


async def test_a_server_without_memory_changes_nothing(make_server):
    """It refuses; no half of an increment stays, and it goes on afterwards."""
    server = make_server("valkey", "--maxmemory-policy", "noeviction")
    async with store(server.client_kwargs) as context:
        keys, counters = context.keys.tenant("acme"), Counters(context, "writer")
        await counters.increment(keys, "n", 1, TTL)
        before = server.execute("HGETALL", keys.key("counter", "n"))
        server.execute("CONFIG", "SET", "maxmemory", 1)

        errors = await all_of(counters.increment(keys, "n", 1, TTL) for _ in range(3))

        assert [error.code for error in errors] == ["OOM"] * 3
        assert server.execute("HGETALL", keys.key("counter", "n")) == before
        server.execute("CONFIG", "SET", "maxmemory", 0)
        assert await counters.increment(keys, "n", 1, TTL) == 2


# --- four processes ---------------------------------------------------------------


async def work(socket: str, writer: str, seconds: float) -> dict[str, object]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(WORKER), socket, writer, str(seconds)),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        output, _ = await process.communicate()
    except BaseException:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    assert process.returncode == 0
    return json.loads(output)


async def disturb(proxy: FaultProxy, server, seconds: float) -> tuple[int, int]:
    """Cut connections and lose replies, at random moments."""
    random, loop = Random(11), asyncio.get_running_loop()
    end, cuts, drops = loop.time() + seconds, 0, 0
    while loop.time() < end:
        await asyncio.sleep(random.uniform(0.005, 0.06))
        if random.random() < 0.4:
            proxy.cut()
            cuts += 1
        else:
            proxy.drop_reply_to(b"counter:{acme}:n")
            with suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await proxy.wait_for_dropped_reply()
                    drops += 1
    proxy.heal()
    return cuts, drops


@pytest.mark.slow
async def test_four_processes_on_a_bad_path_count_exactly(
    server, proxy, record_testsuite_property
):
    """Every value distinct and increasing per process, and none too many at the end."""
    seconds = 6.0
    async with asyncio.TaskGroup() as group:
        workers = [
            group.create_task(work(proxy.unix_socket, f"w{at}", seconds))
            for at in range(4)
        ]
        await wait_until(
            lambda: server.execute("EXISTS", "p:counter:{acme}:n") == 1,
            "they count",
            20,
        )
        disturbing = group.create_task(disturb(proxy, server, seconds))
    reports = [task.result() for task in workers]
    cuts, drops = disturbing.result()

    rows = [report["values"] for report in reports]
    given = [value for row in rows for value in row]
    unknown = sum(report.get("unknown", 0) for report in reports)
    total = int(server.execute("HGET", KEY, "v"))
    told = f"{cuts} cuts, {drops} lost, {len(given)} values, {unknown} unknown"
    record_testsuite_property("told", told)
    assert cuts > 10
    assert drops > 10
    assert all(row == sorted(row) for row in rows)
    assert len(given) == len(set(given))
    assert total == len(given) + unknown, told


@pytest.mark.parametrize("others", [0, 2])
async def test_an_increment_cancelled_before_it_was_sent_is_withdrawn(
    context, counters, keys, proxy, others
):
    """It waits for a connection that is still being made; nothing has left."""
    await counters.increment(keys, "n", 1, TTL)
    proxy.replies.stall()
    before = proxy.connection_count
    proxy.cut()
    lane = context.port.client.node.interactive
    await wait_until(lambda: not lane.is_alive, "the cut is noticed")

    async with asyncio.TaskGroup() as group:
        first = group.create_task(counters.increment(keys, "n", 500, TTL))
        rest = [
            group.create_task(counters.increment(keys, "n", 1, TTL))
            for _ in range(others)
        ]
        await wait_until(lambda: proxy.connection_count > before, "it dials")
        first.cancel()
        proxy.heal()

    assert sorted(task.result() for task in rest) == [2, 3][:others]
    assert await counters.increment(keys, "n", 0, TTL) == 1 + others
