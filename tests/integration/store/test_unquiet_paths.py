"""Ordered writes over paths that stall, wake, lose replies and are cut."""

import asyncio
import json
import os
import sys
from pathlib import Path

import anyio
import pytest

from mcp_crew_redis import CrewRedis, CrewSettings, DataType, DeleteOutcome
from mcp_crew_redis._wire.header import unseal
from mcp_crew_redis.testing import FaultProxy
from tests.integration.store.storm import KEY, NAMES, run_storm
from tests.rig.waiting import wait_until

STATE = DataType.STATE
STORM = str(Path(__file__).with_name("storm.py"))
ROOT = str(Path(__file__).resolve().parents[3])


@pytest.fixture
async def proxy(server):
    async with FaultProxy(server.unix_socket) as proxy:
        yield proxy


@pytest.fixture
async def far(proxy):
    """The tenant as a process on the other side of the proxy sees it."""
    async with CrewRedis(CrewSettings(unix_socket=proxy.unix_socket)) as crew:
        yield crew.tenant("acme")


def calls(server, command):
    stats = server.info("commandstats").get(f"cmdstat_{command}")
    return int(stats["calls"]) if stats else 0


async def test_a_write_that_wakes_late_replaces_nothing_newer(acme, far, proxy, server):
    """Its caller has gone, its path was stalled; the newer value stands."""
    await far.set(STATE, "a", "first")
    await acme.set(STATE, "a", "second")
    before = calls(server, "evalsha")
    proxy.requests.stall()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await far.set(STATE, "a", "late")
    await acme.set(STATE, "a", "newest")

    proxy.requests.release()
    await wait_until(
        lambda: calls(server, "evalsha") >= before + 2, "the late write arrives"
    )

    assert await acme.get(STATE, "a") == "newest"


async def test_a_deleted_value_is_not_brought_back_by_a_late_write(
    acme, far, proxy, server
):
    """That is what its tombstone is for."""
    await far.set(STATE, "a", "first")
    before = calls(server, "evalsha")
    proxy.requests.stall()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await far.set(STATE, "a", "late")
    assert await acme.delete(STATE, "a") is DeleteOutcome.DELETED

    proxy.requests.release()
    await wait_until(
        lambda: calls(server, "evalsha") >= before + 2, "the late write arrives"
    )

    assert not await acme.exists(STATE, "a")


@pytest.mark.parametrize("operation", ["set", "set_many", "expire", "cache"])
async def test_a_lost_reply_is_asked_for_again(far, proxy, server, operation):
    """The same stamp and bytes again are a duplicate: nothing is unknown."""
    await far.set(STATE, "a", 0)
    await far.set_many(STATE, {"a": 0})
    await far.expire(STATE, "a", 60)
    proxy.drop_reply_to(b"SET" if operation == "cache" else b"EVALSHA")

    if operation == "set":
        await far.set(STATE, "a", 1)
    elif operation == "set_many":
        await far.set_many(STATE, {"a": 1})
    elif operation == "expire":
        assert await far.expire(STATE, "a", 50)
    else:
        await far.set(DataType.CACHE, "a", 1)

    expected = 0 if operation in ("expire", "cache") else 1
    assert await far.get(STATE, "a") == expected


async def test_a_delete_whose_reply_was_lost_is_deferred_and_done_once(
    far, proxy, server
):
    """Its own tombstone is found standing: it was this delete."""
    await far.set(STATE, "a", 0)
    await far.delete(STATE, "other")
    proxy.drop_reply_to(b"EVALSHA")

    assert await far.delete(STATE, "a") is DeleteOutcome.DEFERRED
    assert await far.get(STATE, "a") is None


def stamps(server):
    """What stands, by name."""
    data = {name: server.execute("GET", KEY.format(name)) for name in NAMES}
    return {name: unseal(value).stamp for name, value in data.items() if value}


async def test_no_key_ends_older_than_its_newest_acknowledged_stamp(server):
    """Two crews, each behind a proxy: stalls, cuts, lost replies and cancels."""
    storm = await run_storm(server.unix_socket, 3.0, crews=2, seed=7)

    assert storm.acknowledged > 100
    # What was still on its way has arrived by now, or never will.
    assert all(stamp >= storm.newest[name] for name, stamp in stamps(server).items())


@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_two_processes_for_a_minute_leave_the_newest_writes(server):
    """The same in two processes; each key stands at what either has seen of it."""
    seen = []

    async def process(seed):
        program = [sys.executable, STORM, server.unix_socket, "60", str(seed)]
        done = await anyio.run_process(program, env={**os.environ, "PYTHONPATH": ROOT})
        seen.append(json.loads(done.stdout.splitlines()[-1]))

    async with anyio.create_task_group() as processes:
        processes.start_soon(process, 1)
        processes.start_soon(process, 2)

    standing = stamps(server)
    for one in seen:
        assert one["acknowledged"] > 1_000
        assert all(standing[name] >= one["newest"][name] for name in NAMES)
