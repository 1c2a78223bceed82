"""What Redis had acknowledged and lost is put back by those who wrote it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from mcp_crew_redis.crew.checkup import journal_health
from mcp_crew_redis.store.journal_view import JournalView
from mcp_crew_redis.testing import FaultProxy
from mcp_crew_redis.types import DataType, WriteOutcome
from tests.integration.core.bench import eventually, outcome
from tests.integration.store.outage_parts import (
    away,
    back,
    drained,
    manager_of,
    opened,
    state,
)
from tests.rig.waiting import wait_until

N: dict[str, Any] = {"tenant_id": "acme", "identifier": "n"}
COUNTER: dict[str, Any] = {
    "tenant_id": "acme",
    "data_type": DataType.COUNTER,
    "identifier": "n",
}
KEY, COUNTER_KEY = "p:state:{acme}:k", "p:counter:{acme}:n"


@pytest.fixture
async def store(own_server):
    async with opened(own_server.client_kwargs) as store:
        yield store


@pytest.fixture
def manager(store):
    return manager_of(store)


async def met_again(store):
    """Wait until the store has met the server again."""
    port = store.context.port
    await eventually(lambda: port.send("PING"), "the server answers", timeout=10.0)


async def test_what_a_server_lost_stands_again(own_server, store, manager):
    """Values, deletes and counters, with what they had to live."""
    await manager.set(**state("k"), value=1, ttl=600)
    await manager.set(**state("d"), value=1)
    await manager.delete(**state("d"))
    await manager.set_many(
        tenant_id="acme", data_type=DataType.STATE, items={"m1": 1, "m2": 2}
    )
    for _ in range(3):
        await manager.increment(**N, amount=5)
    grave = own_server.execute("GET", "p:state:{acme}:d")

    own_server.restart(keep_data=False)
    await met_again(store)

    assert await manager.get(**state("k")) == 1
    assert 500 < await manager.ttl(**state("k")) <= 600
    assert own_server.execute("GET", "p:state:{acme}:d") == grave
    assert await manager.get(**state("m2")) == 2
    assert await manager.increment(**N) == 16
    assert store.window.statistics.restored >= 5


async def test_nothing_is_sent_before_it(own_server, store, manager):
    """Whoever reads first already finds it."""
    for number in range(50):
        await manager.set(**state(f"k{number}"), value=number)
    own_server.restart(keep_data=False)

    async def read():
        return await manager.get(**state("k49"))

    assert await eventually(read, "the server answers", timeout=10.0) == 49


async def test_a_server_that_lost_nothing_is_left_as_it_is(own_server, store, manager):
    """All of it is found standing: nothing is added twice."""
    await manager.set(**state("k"), value=1)
    await manager.increment(**N, amount=5)
    before = own_server.execute("GET", KEY)

    own_server.restart(keep_data=True)
    await met_again(store)

    assert own_server.execute("GET", KEY) == before
    assert own_server.execute("HGET", COUNTER_KEY, "v") == b"5"
    assert (store.window.statistics.replays, store.window.statistics.restored) == (1, 0)


async def test_what_others_wrote_later_is_not_clobbered(own_server, store, manager):
    """The newest stamp stands, wherever it comes from."""
    await manager.set(**state("k"), value="old")
    async with opened(own_server.client_kwargs, replay_window=0.0) as other:
        await manager_of(other).set(**state("k"), value="newer")
    own_server.restart(keep_data=True)
    await met_again(store)

    assert await manager.get(**state("k")) == "newer"


async def test_an_emptied_server_that_was_not_restarted_stays_empty(
    own_server, store, manager
):
    """FLUSHALL is somebody's will."""
    await manager.set(**state("k"), value=1)
    own_server.execute("FLUSHALL")
    own_server.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await met_again(store)

    assert await manager.get(**state("k")) is None
    assert store.window.statistics.replays == 0


async def test_without_a_window_what_is_lost_is_lost(own_server):
    """So that the tests of the window can fail."""
    async with opened(own_server.client_kwargs, replay_window=0.0) as store:
        manager = manager_of(store)
        await manager.set(**state("k"), value=1)
        await manager.increment(**N)
        await manager.purge(tenant_id="globex")
        assert store.window.is_empty
        own_server.restart(keep_data=False)
        await met_again(store)

        assert await manager.get(**state("k")) is None


async def test_a_deleted_counter_does_not_come_back(own_server, store, manager):
    """Nor does what was added before it was deleted."""
    await manager.increment(**N, amount=5)
    await manager.delete(**COUNTER)
    own_server.restart(keep_data=False)
    await met_again(store)

    assert own_server.execute("EXISTS", COUNTER_KEY) == 0

    await manager.increment(**N, amount=2)
    own_server.restart(keep_data=False)
    await met_again(store)
    assert own_server.execute("HGET", COUNTER_KEY, "v") == b"2"


async def test_many_deleted_counters_do_not_come_back(own_server, store, manager):
    """As one by one."""
    names = [f"n{number}" for number in range(20)]
    for name in names:
        await manager.increment(tenant_id="acme", identifier=name)
    await manager.delete_many(
        tenant_id="acme", data_type=DataType.COUNTER, identifiers=names
    )
    own_server.restart(keep_data=False)
    await met_again(store)

    assert own_server.execute("DBSIZE") <= 1  # the tenants


async def test_a_counter_deleted_under_a_synchronisation_does_not_come_back(
    own_server,
):
    """What was on its way when it was deleted is of the past too."""
    async with (
        FaultProxy(own_server.unix_socket) as proxy,
        opened(proxy.client_kwargs) as store,
    ):
        manager = manager_of(store)
        await manager.increment(**N)
        await away(proxy, store)
        await manager.increment(**N, amount=5)
        proxy.heal()
        await proxy.accept()
        proxy.requests.forget()
        await proxy.requests.wait_for(b"counter:{acme}:n")
        await manager.delete(**COUNTER)
        await drained(store)
        assert own_server.execute("EXISTS", COUNTER_KEY) == 0
        own_server.restart(keep_data=False)
        await met_again(store)

        assert own_server.execute("EXISTS", COUNTER_KEY) == 0


async def test_a_purge_stays_a_purge(own_server, store, manager):
    """Its floor stands again, and nothing from before it."""
    await manager.set(**state("k"), value=1)
    await manager.increment(**N)
    await manager.purge(tenant_id="acme")
    floor = own_server.execute("GET", "p:meta:{acme}:floor")
    await manager.set(**state("after"), value=2)
    own_server.restart(keep_data=False)
    await met_again(store)

    assert own_server.execute("GET", "p:meta:{acme}:floor") == floor
    assert own_server.execute("EXISTS", KEY, COUNTER_KEY) == 0
    assert await manager.get(**state("after")) == 2


async def test_a_lost_purge_is_done_again(own_server, store, manager):
    """The server has what it had removed: it must not be read again."""
    await manager.set(**state("k"), value=1)
    standing = own_server.execute("GET", KEY)
    await manager.purge(tenant_id="acme")
    own_server.restart(keep_data=False)
    own_server.execute("SET", KEY, standing, "PX", 60_000)
    await met_again(store)

    await wait_until(lambda: own_server.execute("EXISTS", KEY) == 0, "it is removed")


async def test_what_the_journal_brought_in_is_remembered_too(own_server):
    """The server dies just after it has taken what had waited for it."""
    async with (
        FaultProxy(own_server.unix_socket) as proxy,
        opened(proxy.client_kwargs, replay_window=0.2) as store,
    ):
        manager = manager_of(store)
        await manager.set(**state("warm"), value=0)
        await away(proxy, store)
        await manager.set(**state("k"), value=1)
        await manager.increment(**N, amount=5)
        loop = asyncio.get_running_loop()
        until = loop.time() + 3.0  # longer than the window and its allowance
        await wait_until(lambda: loop.time() > until, "the outage is long")
        await back(proxy)
        await drained(store)
        own_server.restart(keep_data=False)
        await met_again(store)

        assert await manager.get(**state("k")) == 1
        assert own_server.execute("HGET", COUNTER_KEY, "v") == b"5"


async def test_what_was_put_back_is_remembered_anew(own_server):
    """A server that dies twice in a row gets it twice, however long it was away."""
    async with opened(own_server.client_kwargs, replay_window=0.2) as store:
        manager = manager_of(store)
        await manager.set(**state("k"), value=1)
        own_server.kill()
        loop = asyncio.get_running_loop()
        until = loop.time() + 3.0
        await wait_until(lambda: loop.time() > until, "the outage is long")
        own_server.restart(keep_data=False)
        await met_again(store)
        for number in range(300):
            await manager.set(**state(f"more{number}"), value=0)
        own_server.restart(keep_data=False)
        await met_again(store)

        assert await manager.get(**state("k")) == 1


async def test_a_floor_that_was_put_back_is_remembered_anew(own_server):
    """As everything else: the server that has it only now may die too."""
    async with opened(own_server.client_kwargs, replay_window=0.2) as store:
        manager = manager_of(store)
        await manager.set(**state("k"), value=1)
        await manager.purge(tenant_id="acme")
        floor = own_server.execute("GET", "p:meta:{acme}:floor")
        own_server.kill()
        loop = asyncio.get_running_loop()
        until = loop.time() + 3.0
        await wait_until(lambda: loop.time() > until, "the outage is long")
        own_server.restart(keep_data=False)
        await met_again(store)
        for number in range(300):
            await manager.set(**state(f"more{number}", "globex"), value=0)
        own_server.restart(keep_data=False)
        await met_again(store)

        assert own_server.execute("GET", "p:meta:{acme}:floor") == floor


async def test_a_lost_purge_is_done_again_although_the_server_dies_meanwhile(
    own_server, store, manager
):
    """Until it has been done, nobody may take it for done."""
    await manager.set(**state("k"), value=1)
    standing = own_server.execute("GET", KEY)
    await manager.purge(tenant_id="acme")
    own_server.restart(keep_data=False)
    own_server.execute("SET", KEY, standing, "PX", 60_000)
    own_server.execute("CLIENT", "PAUSE", 1_500, "WRITE")
    await met_again(store)

    await wait_until(
        lambda: own_server.execute("EXISTS", KEY) == 0, "it is removed", timeout=8.0
    )


async def test_a_stamp_far_ahead_does_not_empty_the_window(own_server, store, manager):
    """Somebody's clock is wrong by an hour, and one write is made above it."""
    async with opened(own_server.client_kwargs, replay_window=0.0) as other:
        hybrid = other.context.stamps.hybrid
        await manager_of(other).set(**state("warm"), value=0)
        hybrid._offset_us += 3_600_000_000
        await manager_of(other).set(**state("wild"), value="ahead")
    for number in range(300):
        await manager.set(**state(f"k{number}"), value=number)
    assert await manager.set(**state("wild"), value="ours") is WriteOutcome.STORED
    assert store.window.size > 0

    own_server.restart(keep_data=False)
    await met_again(store)

    assert await manager.get(**state("k299")) == 299
    assert await manager.get(**state("wild")) == "ours"


async def test_a_live_write_beside_the_synchronisation_is_the_one_remembered(
    own_server, store, manager
):
    """It was under way when the older one of its key was brought in."""
    await manager.set(**state("warm"), value=0)
    values, window, stamps = store.values, store.window, store.context.stamps
    key = store.keys.tenant("acme").key("state", "k")
    older, newer = stamps.stamp(), stamps.stamp()
    await wait_until(lambda: stamps.hybrid.now_us() > newer, "time passes")

    window.brought(key, values.sealed(older, values.encoded("older"), 60_000))
    window.landed(key, newer, values.sealed(newer, values.encoded("newer"), 60_000))
    own_server.restart(keep_data=False)
    await met_again(store)

    assert await manager.get(**state("k")) == "newer"


async def test_large_values_do_not_push_out_counters_and_floors(
    own_server, store, manager
):
    """They take no room to speak of, and nobody can put them back otherwise."""
    await manager.set(**state("x", "globex"), value=1)
    await manager.purge(tenant_id="globex")
    await manager.increment(**N, amount=5)
    for number in range(20):
        await manager.set(**state(f"k{number}"), value="x" * 1_000_000)
    own_server.restart(keep_data=False)
    await met_again(store)

    assert own_server.execute("EXISTS", "p:meta:{globex}:floor") == 1
    assert own_server.execute("HGET", COUNTER_KEY, "v") == b"5"


# --- refusals ---------------------------------------------------------------------


async def test_what_neither_server_nor_journal_take_back_is_counted(
    own_server, store, manager
):
    """Nothing is dropped in silence."""
    await manager.set(**state("k"), value=1)
    await manager.increment(**N, amount=5)
    store.journal._max_bytes = 1
    own_server._options = ("--maxmemory", "1")
    own_server.restart(keep_data=False)

    view = JournalView(store)
    await wait_until(
        lambda: view.statistics().not_restored == 2, "it is counted", timeout=10.0
    )
    assert "could not be put back" in (journal_health(view).reason or "")


async def test_what_a_new_server_refuses_waits_in_the_journal(
    own_server, store, manager
):
    """It has no memory now: with some, nothing is missing and nothing twice."""
    await manager.set(**state("k"), value=1)
    await manager.increment(**N, amount=5)
    own_server._options = ("--maxmemory", "1")
    own_server.restart(keep_data=False)
    await wait_until(lambda: store.journal.depth == 2, "it is kept", timeout=10.0)
    assert await manager.get(**state("k")) == 1

    own_server.execute("CONFIG", "SET", "maxmemory", 0)
    await drained(store)

    assert await manager.get(**state("k")) == 1
    assert own_server.execute("HGET", COUNTER_KEY, "v") == b"5"
    assert await manager.increment(**N) == 6


@pytest.mark.parametrize("keep_data", [True, False])
async def test_what_was_accepted_in_the_outage_is_not_replaced_by_what_was_before(
    own_server, store, manager, keep_data
):
    """Refused by the new server, the older write finds the newer one waiting."""
    await manager.set(**state("k"), value="before")
    await manager.increment(**N, amount=5)
    own_server.kill()
    await wait_until(lambda: _deferred(manager), "the outage is known", timeout=10.0)
    await manager.set(**state("k"), value="in the outage")
    await manager.increment(**N, amount=100)
    own_server._options = ("--maxmemory", "1")
    own_server.restart(keep_data=keep_data)
    await wait_until(lambda: store.window.statistics.replays > 0, "met", timeout=10.0)
    assert await manager.get(**state("k")) == "in the outage"

    own_server.execute("CONFIG", "SET", "maxmemory", 0)
    await drained(store)

    assert await manager.get(**state("k")) == "in the outage"
    assert own_server.execute("HGET", COUNTER_KEY, "v") == b"105"


async def _deferred(manager):
    result = await outcome(manager.set(**state("probe"), value=0))
    return result is WriteOutcome.DEFERRED


async def test_a_user_without_script_load_gets_its_data_back(make_server):
    """And above all gets onto the server at all."""
    server = make_server("valkey")
    users = (
        *("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*"),
        *("+@all", "-script|load"),
    )
    server.execute(*users)
    way = {**server.client_kwargs, "username": "app", "password": "pw"}
    async with opened(way) as store:
        manager = manager_of(store)
        await manager.set(**state("k"), value=1)
        server.kill()
        server.restart(keep_data=False)
        server.execute(*users)
        await met_again(store)

        assert await manager.get(**state("k")) == 1


async def test_a_replay_that_is_cut_off_begins_anew(own_server):
    """Nothing is sent by others before it is whole."""
    async with (
        FaultProxy(own_server.unix_socket) as proxy,
        opened(proxy.client_kwargs) as store,
    ):
        manager = manager_of(store)
        for number in range(100):
            await manager.set(**state(f"k{number}"), value=number)
        await manager.increment(**N, amount=5)
        proxy.drop_reply_to(b"state:{acme}:k99")
        own_server.restart(keep_data=False)
        await proxy.wait_for_dropped_reply()
        await met_again(store)

        for number in range(100):
            assert await manager.get(**state(f"k{number}")) == number
        assert own_server.execute("HGET", COUNTER_KEY, "v") == b"5"


# --- bounds -----------------------------------------------------------------------


async def test_the_window_is_bounded_by_bytes(own_server):
    """What leaves it early is counted."""
    async with opened(own_server.client_kwargs) as store:
        manager = manager_of(store)
        for number in range(20):
            await manager.set(**state(f"k{number}"), value="x" * 1_000_000)

        assert store.window.size <= 16 * 1024 * 1024
        assert JournalView(store).statistics().window_overflowed >= 4


async def test_caches_are_not_remembered(store, manager):
    """They may be lost: whoever needs them computes again."""
    await manager.set(
        tenant_id="acme", data_type=DataType.CACHE, identifier="c", value=1
    )

    assert store.window.is_empty


async def test_deleting_many_counters_stays_bounded(store, manager):
    """What is void is forgotten in time, even where nothing is acknowledged."""
    await manager.increment(**N)
    for number in range(0, 5_000, 500):
        names = [f"n{number + at}" for at in range(500)]
        await manager.delete_many(
            tenant_id="acme", data_type=DataType.COUNTER, identifiers=names
        )
    now_us = store.context.stamps.hybrid.now_us
    store.context.stamps.hybrid._offset_us += 3_600_000_000
    assert now_us() > 0
    await manager.delete(**COUNTER)
    for number in range(600):
        await manager.delete(
            tenant_id="acme", data_type=DataType.COUNTER, identifier=f"x{number}"
        )

    assert len(store.window._void) < 2_000


async def test_a_replay_is_told_once(own_server, store, manager):
    """With its figures."""
    for number in range(10):
        await manager.set(**state(f"k{number}"), value=number)
    with capture_logs() as logs:
        own_server.restart(keep_data=False)
        await met_again(store)

    (told,) = [line for line in logs if line["event"] == "window.replayed"]
    assert (told["write_count"], told["restored_count"]) == (10, 10)
    assert told["refused_count"] == 0
