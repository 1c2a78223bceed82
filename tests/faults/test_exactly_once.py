"""Every reply is lost after execution, and its connection cut: still done once.

`CREW_EXACTLY_ONCE` (500) says how many increments and how many sets.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from mcp_crew_redis import CrewRedis, CrewSettings, DataType
from mcp_crew_redis._core.scripts import ScriptLoader
from mcp_crew_redis.testing import FaultProxy
from tests.faults.outage_crews import number_from

COUNT = int(number_from("CREW_EXACTLY_ONCE", 500))
PATHS = 10
READS = 4
COUNTER, STATE = DataType.COUNTER, DataType.STATE


def executed(server, command):
    """How often the server has executed a command, scripts included."""
    return server.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0)


@asynccontextmanager
async def crew_at(socket):
    """Give a crew at a socket, with a circuit that comes back soon."""
    settings = CrewSettings(unix_socket=Path(socket), circuit_breaker_timeout=0.05)
    async with CrewRedis(settings) as crew:
        yield crew


async def reassure(crew):
    """Let the circuit see that Redis is there: it opens when half of the calls fail."""
    await crew.journal.drained(20)
    for _ in range(READS):
        await crew.tenant("acme").get(STATE, "other")


@asynccontextmanager
async def bad_paths(server):
    """Give crews, each on a path of its own that loses what it is told to lose.

    The server knows the scripts: a lost reply is never that it does not.
    """
    for name in ("counter_add", "set_newer", "sync_merge"):
        server.execute("SCRIPT", "LOAD", ScriptLoader().load(name).source)
    async with AsyncExitStack() as stack:
        pairs = []
        for _ in range(PATHS):
            proxy = await stack.enter_async_context(FaultProxy(server.unix_socket))
            crew = await stack.enter_async_context(crew_at(proxy.unix_socket))
            pairs.append((proxy, crew))
        yield pairs


async def on_all(pairs, work):
    """Share the numbers among the paths; drain afterwards."""
    async with asyncio.TaskGroup() as group:
        for at, (proxy, crew) in enumerate(pairs):
            group.create_task(work(proxy, crew, range(at, COUNT, PATHS)))
    for _, crew in pairs:
        await crew.journal.drained(20)


@pytest.mark.slow
@pytest.mark.timeout(60 + COUNT / 20)
async def test_increments_whose_replies_are_lost_are_added_once(server):
    """The sum is exact, and the server has added that often and not once more."""

    async def add(proxy, crew, numbers):
        acme = crew.tenant("acme")
        for number in numbers:
            proxy.drop_reply_to(b"counter:{acme}:n")
            await acme.increment(COUNTER, "n", number + 1)
            await proxy.wait_for_dropped_reply()
            await reassure(crew)

    async with bad_paths(server) as pairs:
        before = executed(server, "hincrby")
        await on_all(pairs, add)

        total = server.execute("HGET", "mcp-crew:counter:{acme}:n", "v")
        assert int(total) == COUNT * (COUNT + 1) // 2
        assert executed(server, "hincrby") - before == COUNT


@pytest.mark.slow
@pytest.mark.timeout(60 + COUNT / 20)
async def test_sets_whose_replies_are_lost_are_stored_once(server):
    """And never over what somebody else has written since: every other one is."""

    async def write(proxy, crew, numbers):
        acme, other = crew.tenant("acme"), rival.tenant("acme")
        for number in numbers:
            name = f"k{number}"
            proxy.drop_reply_to(b"state:{acme}:%s" % name.encode())
            async with asyncio.TaskGroup() as group:
                group.create_task(acme.set(STATE, name, number))
                await proxy.wait_for_dropped_reply()
                if number % 2:
                    await other.set(STATE, name, "newer")
            await reassure(crew)

    async with bad_paths(server) as pairs, crew_at(server.unix_socket) as rival:
        before = executed(server, "set")
        await on_all(pairs, write)

        names = [f"k{number}" for number in range(COUNT)]
        found = await rival.tenant("acme").get_many(STATE, names)
        wanted = ["newer" if number % 2 else number for number in range(COUNT)]
        assert [found.get(name) for name in names] == wanted
        assert executed(server, "set") - before == COUNT + COUNT // 2
        assert sum(crew.journal.statistics().conflicts for _, crew in pairs) == 0
