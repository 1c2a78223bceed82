"""Ordered writes over paths that stall, wake, lose replies and are cut."""

import asyncio
from contextlib import AsyncExitStack
from random import Random

import pytest

from mcp_crew_redis import CrewRedis, CrewSettings, DataType, DeleteOutcome
from mcp_crew_redis._wire.header import unseal
from mcp_crew_redis.errors import UnavailableError
from mcp_crew_redis.testing import FaultProxy
from tests.rig.waiting import wait_until

STATE = DataType.STATE
KEY = "mcp-crew:state:{{acme}}:{}"
NAMES = ("a", "b", "c", "d")


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


async def test_a_delete_whose_reply_was_lost_says_deleted(far, proxy):
    """Its own tombstone is found standing: it was this delete."""
    await far.set(STATE, "a", 0)
    await far.delete(STATE, "other")
    proxy.drop_reply_to(b"EVALSHA")

    assert await far.delete(STATE, "a") is DeleteOutcome.DELETED


class Storm:
    """Writers whose paths to the server fail all the time, for some seconds."""

    def __init__(self, server, seconds):
        self.random = Random(7)
        self.server = server
        self.newest = dict.fromkeys(NAMES, 0)
        self.acknowledged = 0
        self._time = asyncio.get_running_loop().time
        self._end = self._time() + seconds

    @property
    def is_over(self):
        return self._time() >= self._end

    def look(self, name):
        """The stamp that stands is never older than one that has stood."""
        data = self.server.execute("GET", KEY.format(name))
        stamp = 0 if data is None else unseal(data).stamp
        assert stamp >= self.newest[name]
        self.newest[name] = stamp

    async def write(self, tenant):
        while not self.is_over:
            name = self.random.choice(NAMES)
            try:
                async with asyncio.timeout(self.random.choice([None, 0.001, 0.01])):
                    if self.random.random() < 0.2:
                        await tenant.delete(STATE, name)
                    else:
                        await tenant.set(STATE, name, self.random.random())
            except (UnavailableError, TimeoutError):
                await asyncio.sleep(0.002)
                continue
            self.acknowledged += 1
            self.look(name)

    async def disturb(self, proxy):
        faults = [
            proxy.requests.stall,
            proxy.requests.stall,
            proxy.replies.stall,
            proxy.cut,
            lambda: proxy.drop_reply_to(b"EVALSHA"),
        ]
        while not self.is_over:
            await asyncio.sleep(self.random.uniform(0.05, 0.3))
            self.random.choice(faults)()
            await asyncio.sleep(self.random.uniform(0.01, 0.2))
            proxy.heal()


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "seconds", [3.0, pytest.param(60.0, marks=pytest.mark.slow)], ids=["short", "long"]
)
async def test_no_key_ends_older_than_its_newest_acknowledged_stamp(server, seconds):
    """Two crews, each behind a proxy: stalls, cuts, lost replies and cancels."""
    storm = Storm(server, seconds)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        proxies = [await enter(FaultProxy(server.unix_socket)) for _ in range(2)]
        tenants = []
        for proxy in proxies:
            where = CrewSettings(unix_socket=proxy.unix_socket, command_timeout=0.2)
            crew = await enter(CrewRedis(where))
            tenants.append(crew.tenant("acme"))
            await tenants[-1].set(STATE, "warm", 0)
        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(storm.write(tenants[number % 2]))
            for proxy in proxies:
                group.create_task(storm.disturb(proxy))
        for proxy in proxies:
            proxy.heal()
        for name in NAMES:
            storm.look(name)

    for name in NAMES:  # what was still on its way has arrived, or never will
        storm.look(name)
    assert storm.acknowledged > 100
