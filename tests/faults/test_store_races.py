"""Races of the store with its own repetitions, with purges, with clocks that step."""

from __future__ import annotations

import asyncio

import pytest

from mcp_crew_redis import (
    CrewRedis,
    CrewSettings,
    DataType,
    DeleteOutcome,
    WriteOutcome,
)
from mcp_crew_redis._wire.header import seal, unseal
from mcp_crew_redis.errors import CrewRedisError
from mcp_crew_redis.testing import FaultProxy
from tests.integration.core.bench import landed, outcome, split
from tests.rig.waiting import wait_until

STATE, COUNTER = DataType.STATE, DataType.COUNTER
KEY = "mcp-crew:state:{acme}:k"
MICROSECONDS = 1_000_000


@pytest.fixture
async def proxy(server):
    async with FaultProxy(server.unix_socket) as proxy:
        yield proxy


@pytest.fixture
async def far_crew(proxy):
    where = CrewSettings(unix_socket=proxy.unix_socket, command_timeout=1.0)
    async with CrewRedis(where) as crew:
        yield crew


@pytest.fixture
def far(far_crew):
    """The tenant as a process behind the proxy sees it."""
    return far_crew.tenant("acme")


@pytest.fixture
async def crew(server):
    async with CrewRedis(CrewSettings(unix_socket=server.unix_socket)) as crew:
        yield crew


@pytest.fixture
def near(crew):
    """The same tenant as a process with a good path sees it."""
    return crew.tenant("acme")


def stamps_of(crew):
    return crew._state.store.context.stamps


def server_us(server):
    seconds, fraction = server.execute("TIME")
    return int(seconds) * MICROSECONDS + int(fraction)


# --- a write whose reply was lost --------------------------------------------------


async def warm(tenant):
    """Let the server know every script: what gets lost is no NOSCRIPT."""
    for name in ("warm", "warm too"):
        await tenant.set(STATE, name, 1)
        await tenant.set_many(STATE, {name: 1})
        await tenant.expire(STATE, name, 60)
        await tenant.delete(STATE, name)
        await tenant.increment(COUNTER, name)


async def meet_a_repetition(proxy, far_call, near_calls):
    """Lose the reply to `far_call`; do `near_calls` before it is sent again."""
    proxy.drop_reply_to(b"state:{acme}:k")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(outcome(far_call))
        async with asyncio.timeout(5):
            await proxy.wait_for_dropped_reply()
        proxy.requests.stall()  # the repetition is held
        await near_calls()
        proxy.requests.release()
    return task.result()


@pytest.mark.parametrize("operation", ["set", "set_many"])
async def test_a_repeated_write_is_not_executed_twice(near, far, proxy, operation):
    """It was stored, read, and replaced by who had read it: that one stands."""
    await warm(far)
    await near.set(STATE, "k", "first")

    async def read_and_replace():
        assert await near.get(STATE, "k") == "theirs"
        await near.set(STATE, "k", "made of theirs")

    one, many = far.set, far.set_many
    call = (
        one(STATE, "k", "theirs")
        if operation == "set"
        else many(STATE, {"k": "theirs"})
    )
    await meet_a_repetition(proxy, call, read_and_replace)

    assert await near.get(STATE, "k") == "made of theirs"


@pytest.mark.parametrize("operation", ["delete", "delete_many"])
async def test_a_repeated_delete_does_not_take_what_came_after_it(
    near, far, proxy, operation
):
    """It was deleted, seen to be gone, and written anew: the new value stays."""
    await warm(far)
    await near.set(STATE, "k", "old")

    async def see_and_write():
        assert await near.get(STATE, "k") is None
        await near.set(STATE, "k", "new")

    call = (
        far.delete(STATE, "k")
        if operation == "delete"
        else far.delete_many(STATE, ["k"])
    )
    await meet_a_repetition(proxy, call, see_and_write)

    assert await near.get(STATE, "k") == "new"


async def test_a_repeated_expire_does_not_shorten_what_came_after_it(near, far, proxy):
    """The new value has the time to live that its writer gave it."""
    await warm(far)
    await near.set(STATE, "k", "old")

    async def write_anew():
        assert await near.ttl(STATE, "k") <= 50
        await near.set(STATE, "k", "new", ttl=5_000)

    await meet_a_repetition(proxy, far.expire(STATE, "k", 50), write_anew)

    assert await near.ttl(STATE, "k") > 4_000


# --- what arrives after a purge ----------------------------------------------------


async def stalled(proxy, call, wanted):
    """Send `call` into a path that sleeps, and go away; return that path."""
    proxy.requests.stall()
    path = split(proxy)
    before = path.count(wanted)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(outcome(call))
        await wait_until(lambda: path.count(wanted) > before, "it is on its way")
        task.cancel()
    return path


@pytest.mark.parametrize("operation", ["set", "set_many", "increment"])
async def test_a_write_that_wakes_after_a_purge_is_gone(
    near, far, proxy, server, operation
):
    """What is older than the purge never comes back: its caller has left long ago."""
    await warm(far)
    calls = {
        "set": lambda: far.set(STATE, "k", "late"),
        "set_many": lambda: far.set_many(STATE, {"k": "late"}),
        "increment": lambda: far.increment(COUNTER, "k", 1),
    }
    key = "mcp-crew:counter:{acme}:k" if operation == "increment" else KEY
    path = await stalled(proxy, calls[operation](), b"{acme}:k\r\n")

    await near.purge()
    try:
        await landed(path, server, "mcp-crew:state:{acme}:none")
        assert server.execute("EXISTS", key) == 0
    finally:
        proxy.heal()


async def test_a_delete_survives_the_purge_that_follows_it(near, far, proxy, server):
    """The purge takes the tombstone; the late write must still find something."""
    await near.set(STATE, "k", "old")
    await warm(far)
    path = await stalled(proxy, far.set(STATE, "k", "late"), b"{acme}:k\r\n")

    assert await near.delete(STATE, "k") is DeleteOutcome.DELETED
    await near.purge()
    try:
        await landed(path, server, KEY)
        assert not await near.exists(STATE, "k")
    finally:
        proxy.heal()


@pytest.mark.parametrize("who", ["same", "other"])
async def test_what_is_counted_after_a_purge_is_counted(crew, near, far, server, who):
    """The floor may be ahead of everybody's clock: it follows what was read."""
    await warm(near)
    await warm(far)
    ahead = server_us(server) + 3 * MICROSECONDS
    server.execute("SET", KEY, seal(ahead, b"\x01"), "PX", 60_000)
    assert await near.get(STATE, "k") == 1
    await near.purge()

    tenant = near if who == "same" else far
    assert await tenant.increment(COUNTER, "k", 1) == 1
    assert await tenant.set(STATE, "k", 2) is WriteOutcome.STORED
    assert await tenant.get(STATE, "k") == 2


# --- clocks ------------------------------------------------------------------------


async def step_back(crew, seconds):
    """The server's clock steps back, as after a failover; the crew measures it."""
    stamps = stamps_of(crew)
    stamps.hybrid._offset_us += round(seconds * MICROSECONDS)
    await stamps._measure()


async def test_a_server_clock_that_steps_back_hides_no_value(crew, near, far):
    """Stamps slew for long; whether a value lives is the server's time alone."""
    await near.set(STATE, "warm", 1)
    await far.set(STATE, "k", "alive", ttl=60)
    await step_back(crew, 600)

    assert await near.get(STATE, "k") == "alive"
    assert await near.exists(STATE, "k")
    assert await near.expire(STATE, "k", 60)
    assert await near.delete(STATE, "k") is DeleteOutcome.DELETED


async def test_a_server_clock_that_steps_back_is_not_asked_all_the_time(
    crew, near, server
):
    """One measurement in 30 s, also while the stamps slew."""
    await near.set(STATE, "warm", 1)
    await step_back(crew, 600)
    before = server.info("commandstats")["cmdstat_time"]["calls"]

    for number in range(10):
        await near.set(STATE, "k", number)
        await wait_until(lambda: not stamps_of(crew)._owner, "it is measured")

    assert server.info("commandstats")["cmdstat_time"]["calls"] <= before + 2


async def test_a_wild_stamp_read_early_does_not_hide_a_true_one(near, server):
    """Before the first measurement too, the first write is newer than what was read."""
    read = server_us(server) + 3 * MICROSECONDS
    wild = server_us(server) + 3_600 * MICROSECONDS
    server.execute("SET", KEY, seal(read, b"\x01"), "PX", 60_000)
    server.execute("SET", f"{KEY}2", seal(wild, b"\x01"), "PX", 60_000)
    assert await near.get_many(STATE, ["k", "k2"]) == {"k": 1, "k2": 1}

    await near.set(STATE, "j", 2)

    assert unseal(server.execute("GET", "mcp-crew:state:{acme}:j")).stamp > read


# --- counters ----------------------------------------------------------------------


async def test_a_deleted_counter_starts_anew(near, far, proxy, server):
    """What was counted before the delete, reply or no reply, is not counted again."""
    await warm(far)
    await far.increment(COUNTER, "k", 1)
    proxy.replies.stall()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(outcome(far.increment(COUNTER, "k", 5)))
        await wait_until(
            lambda: server.execute("HGET", "mcp-crew:counter:{acme}:k", "v") == b"6",
            "it landed",
        )
        task.cancel()
    proxy.heal()

    assert await far.delete(COUNTER, "k") is DeleteOutcome.DELETED

    assert await far.increment(COUNTER, "k", 1) == 1


# --- the registry ------------------------------------------------------------------


async def test_a_write_beside_a_purge_leaves_its_tenant_registered(crew, near):
    """Whoever starts later and reads the registry must find a tenant that has data."""
    await near.set(STATE, "k", 0)
    async with asyncio.TaskGroup() as group:

        def write(progress):
            if progress.pages == 2:  # the last one: nothing was left to remove
                group.create_task(near.set(STATE, "k", "after the last walk"))

        await near.purge(on_progress=write)

    assert await near.exists(STATE, "k")
    registry = crew._state.store.registry
    assert [name async for name in registry.tenants()] == ["acme"]


async def test_the_fault_of_a_foreign_registry_is_typed(near, server):
    """A string where the registry should be: an error of ours, and nothing written."""
    server.execute("SET", "mcp-crew:tenants", "not a zset", "PX", 60_000)

    assert isinstance(await outcome(near.set(STATE, "k", 1)), CrewRedisError)
    assert server.execute("EXISTS", KEY) == 0
