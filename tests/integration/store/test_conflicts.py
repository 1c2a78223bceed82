"""Written here in an outage, and elsewhere since: who wins, and who is asked."""

from __future__ import annotations

import asyncio

import pytest

from mcp_crew_redis.store.conflicts import MAX_CONFLICTS, Merged
from mcp_crew_redis.store.journal_view import JournalView
from mcp_crew_redis.store.manager import RedisManager
from mcp_crew_redis.store.store import Store
from mcp_crew_redis.testing import FaultProxy
from mcp_crew_redis.types import DataType
from tests.integration.core.bench import eventually
from tests.integration.store.outage_parts import (
    away,
    back,
    drained,
    manager_of,
    opened,
    state,
)
from tests.rig.waiting import wait_until


@pytest.fixture
async def proxy(server):
    async with FaultProxy(server.unix_socket) as proxy:
        yield proxy


@pytest.fixture
async def other(server):
    async with opened(server.client_kwargs) as store:
        yield manager_of(store)


class Bench:
    """A store with a merge callback, and a conflict made on request."""

    store: Store
    manager: RedisManager

    def __init__(self, proxy, other):
        self.proxy, self.other = proxy, other
        self.asked = []
        self.answer = lambda _conflict: None

    def merge(self, conflict):
        self.asked.append(conflict)
        return self.answer(conflict)

    async def conflict(self, names=("k",), ours="ours", theirs="theirs"):
        """Write here without Redis, then elsewhere, then give Redis back."""
        await self.manager.set(**state("warm"), value=0)
        await away(self.proxy, self.store)
        for name in names:
            await self.manager.set(**state(name), value=ours)
        for name in names:
            await self.other.set(**state(name), value=theirs)
        await back(self.proxy)

    @property
    def told(self):
        return self.store.landing.statistics


@pytest.fixture
async def bench(proxy, other):
    bench = Bench(proxy, other)
    async with opened(proxy.client_kwargs, merge=bench.merge) as store:
        bench.store, bench.manager = store, manager_of(store)
        yield bench


async def test_the_later_write_elsewhere_is_kept_and_the_conflict_told(bench):
    """Counted, remembered with both values, and nothing clobbered."""
    await bench.conflict()
    await drained(bench.store)

    assert await bench.other.get(**state("k")) == "theirs"
    assert await bench.manager.get(**state("k")) == "theirs"
    (conflict,) = JournalView(bench.store).conflicts()
    assert (conflict.local, conflict.remote) == ("ours", "theirs")
    assert (conflict.tenant_id, conflict.identifier) == ("acme", "k")
    assert conflict.data_type is DataType.STATE
    assert conflict.local_stamp < conflict.remote_stamp
    assert (bench.told.conflicts, bench.told.applied) == (1, 0)


async def test_a_merged_value_is_written_over_what_it_was_merged_with(bench):
    """And the losing write's time to live is its own."""
    bench.answer = lambda conflict: Merged(f"{conflict.local}+{conflict.remote}")
    await bench.conflict()
    await drained(bench.store)

    assert await bench.other.get(**state("k")) == "ours+theirs"
    assert (bench.told.merged, bench.told.conflicts) == (1, 0)
    left = await bench.other.ttl(**state("k"))
    assert left is not None
    assert 86_400 * 0.9 < left < 86_400 * 1.1


async def test_a_merge_may_be_a_coroutine_and_choose_the_time_to_live(bench):
    """As set does."""

    async def answer(_conflict):
        await asyncio.sleep(0)
        return Merged("merged", ttl=60.0)

    bench.answer = answer
    await bench.conflict()
    await drained(bench.store)

    assert await bench.other.get(**state("k")) == "merged"
    assert await bench.other.ttl(**state("k")) <= 60.0


async def test_deletes_meet_values(bench):
    """Either side may have deleted."""
    await bench.manager.set(**state("k"), value=0)
    await bench.manager.set(**state("m"), value=0)
    await away(bench.proxy, bench.store)
    await bench.manager.delete(**state("k"))
    await bench.manager.set(**state("m"), value="ours")
    await bench.other.set(**state("k"), value="theirs")
    await bench.other.delete(**state("m"))
    await back(bench.proxy)
    await drained(bench.store)

    found = {one.identifier: one for one in JournalView(bench.store).conflicts()}
    assert (found["k"].is_local_delete, found["k"].is_remote_delete) == (True, False)
    assert (found["m"].is_local_delete, found["m"].is_remote_delete) == (False, True)
    assert await bench.other.get(**state("k")) == "theirs"
    assert await bench.other.get(**state("m")) is None


def raises(_conflict):
    raise RuntimeError("the callback is broken")


def cancels(_conflict):
    raise asyncio.CancelledError


async def gives_up(_conflict):
    raise asyncio.CancelledError


BROKEN = {
    "raises": raises,
    "cancels": cancels,
    "gives up": gives_up,
    "no Merged": lambda _conflict: "merged",
    "not encodable": lambda _conflict: Merged(object()),
    "too large": lambda _conflict: Merged("x" * 9 * 1024 * 1024),
    "ttl nan": lambda _conflict: Merged("merged", ttl=float("nan")),
    "ttl negative": lambda _conflict: Merged("merged", ttl=-1.0),
    "ttl endless": lambda _conflict: Merged("merged", ttl=float("inf")),
}


@pytest.mark.parametrize("how", BROKEN)
async def test_a_broken_merge_leaves_what_stands_and_stops_nobody(bench, how):
    """Asked once for each conflict; everything else lands."""
    bench.answer = BROKEN[how]
    await bench.manager.set(**state("warm"), value=0)
    await away(bench.proxy, bench.store)
    for number in range(10):
        await bench.manager.set(**state(f"k{number}"), value="ours")
    for number in (0, 5):
        await bench.other.set(**state(f"k{number}"), value="theirs")
    await back(bench.proxy)
    await drained(bench.store)

    assert len(bench.asked) == 2
    assert (bench.told.conflicts, bench.told.applied) == (2, 8)
    assert await bench.other.get(**state("k5")) == "theirs"
    assert await bench.other.get(**state("k9")) == "ours"


async def test_a_merge_that_hangs_holds_up_no_counter(bench):
    """Nor any live call; it is given up at its timeout, or when the store is closed."""
    reached = asyncio.Event()

    async def answer(_conflict):
        reached.set()
        await asyncio.Event().wait()

    bench.answer = answer
    await bench.manager.increment(tenant_id="acme", identifier="n")
    await away(bench.proxy, bench.store)
    await bench.manager.set(**state("k"), value="ours")
    await bench.manager.increment(tenant_id="acme", identifier="n")
    await bench.other.set(**state("k"), value="theirs")
    await back(bench.proxy)
    await wait_until(reached.is_set, "the callback is asked")

    async with asyncio.timeout(1.0):
        value = await bench.manager.increment(tenant_id="acme", identifier="n")
        await bench.manager.set(**state("live"), value=1)
    assert value == 3


async def test_a_write_while_the_callback_thinks_is_not_merged_over(bench):
    """The user has written again: what was to be merged is of the past."""
    reached, may_go = asyncio.Event(), asyncio.Event()

    async def answer(conflict):
        reached.set()
        await may_go.wait()
        return Merged(f"{conflict.local}+{conflict.remote}")

    bench.answer = answer
    await bench.conflict()
    await wait_until(reached.is_set, "the callback is asked")
    await bench.manager.set(**state("k"), value="later")
    may_go.set()
    await drained(bench.store)

    assert await bench.other.get(**state("k")) == "later"
    assert len(bench.asked) == 1
    assert (bench.told.merged, bench.told.conflicts) == (0, 0)


async def test_a_write_elsewhere_while_the_callback_thinks_is_merged_anew(bench):
    """What it has seen does not stand any more."""
    reached, may_go = asyncio.Event(), asyncio.Event()

    async def answer(conflict):
        reached.set()
        await may_go.wait()
        return Merged(f"{conflict.local}+{conflict.remote}")

    bench.answer = answer
    await bench.conflict()
    await wait_until(reached.is_set, "the callback is asked")
    await bench.other.set(**state("k"), value="again")
    may_go.set()
    await drained(bench.store)

    assert await bench.other.get(**state("k")) == "ours+again"
    assert len(bench.asked) == 2


async def test_a_merge_whose_reply_is_lost_is_not_merged_twice(bench):
    """It is found to stand."""
    bench.answer = lambda conflict: Merged(conflict.local + conflict.remote)
    await bench.manager.set(**state("warm"), value=0)
    await bench.manager.set(**state("k"), value="0")
    await away(bench.proxy, bench.store)
    await bench.manager.set(**state("k"), value="1")
    await bench.other.set(**state("k"), value="2")

    def cut(conflict):
        bench.proxy.drop_reply_to(b"state:{acme}:k")
        return Merged(conflict.local + conflict.remote)

    bench.answer = cut
    await back(bench.proxy)
    await drained(bench.store)

    assert await bench.other.get(**state("k")) == "12"
    assert bench.told.merged == 1


async def test_what_was_perhaps_written_before_is_superseded_not_a_conflict(
    bench, server
):
    """Sent, unanswered, landed, and then replaced by somebody who had seen it."""
    await bench.manager.set(**state("warm"), value=0)
    bench.proxy.drop_reply_to(b"state:{acme}:k")
    bench.proxy.refuse()
    await bench.manager.set(**state("k"), value="ours")
    await away(bench.proxy, bench.store)
    assert await bench.other.get(**state("k")) == "ours"
    await bench.other.set(**state("k"), value="theirs")
    await back(bench.proxy)
    await drained(bench.store)

    assert (bench.told.superseded, bench.told.conflicts) == (1, 0)
    assert bench.asked == []
    assert await bench.other.get(**state("k")) == "theirs"


async def test_conflicts_are_remembered_up_to_a_bound(bench):
    """The newest; all are counted."""
    names = [f"k{number}" for number in range(MAX_CONFLICTS + 50)]
    await bench.conflict(names)
    await drained(bench.store)

    view = JournalView(bench.store)
    assert view.statistics().conflicts == MAX_CONFLICTS + 50
    assert len(view.conflicts()) == MAX_CONFLICTS


async def test_without_a_callback_the_newer_write_stands(proxy, other):
    """And is told all the same."""
    bench = Bench(proxy, other)
    async with opened(proxy.client_kwargs) as store:
        bench.store, bench.manager = store, manager_of(store)
        await bench.conflict()
        await drained(store)

        assert await other.get(**state("k")) == "theirs"
        assert bench.told.conflicts == 1


async def test_an_own_write_that_was_cancelled_is_no_conflict(bench):
    """It may stand, and it is the later one: nobody else has written."""
    bench.answer = lambda conflict: Merged(f"{conflict.local}+{conflict.remote}")
    await bench.manager.set(**state("warm"), value=0)
    await away(bench.proxy, bench.store)
    await bench.manager.set(**state("k"), value="waits")
    kick, bench.store.sync._is_closed = bench.store.sync.kick, True
    await back(bench.proxy)
    port = bench.store.context.port
    await eventually(lambda: port.send("PING"), "Redis is back")
    bench.proxy.replies.stall()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(bench.manager.set(**state("k"), value="cancelled"))
        reader = bench.other

        async def stands():
            return await reader.get(**state("k")) == "cancelled"

        await wait_until(stands, "it stands")
        task.cancel()
    bench.proxy.replies.release()

    bench.store.sync._is_closed = False
    kick()
    await drained(bench.store)

    assert await bench.other.get(**state("k")) == "cancelled"
    assert (bench.told.conflicts, bench.told.merged) == (0, 0)
    assert bench.asked == []
