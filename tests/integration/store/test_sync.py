"""What waited is brought into Redis: all of it, once, in fair turns, and no later."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from mcp_crew_redis._core.breaker import BreakerSettings
from mcp_crew_redis.errors import FallbackFullError, OutcomeUnknownError
from mcp_crew_redis.store.journal.journal import Journal
from mcp_crew_redis.store.journal_view import JournalView
from mcp_crew_redis.testing import FaultProxy
from mcp_crew_redis.types import DataType, DeleteOutcome, WriteOutcome
from tests.integration.core.bench import eventually, outcome
from tests.integration.store.outage_parts import (
    Ahead,
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
async def store(proxy):
    async with opened(proxy.client_kwargs) as store:
        yield store


@pytest.fixture
async def manager(store):
    manager = manager_of(store)
    await manager.set(**state("warm"), value=0)
    return manager


@pytest.fixture
async def other(server):
    """Another process, which Redis has not left."""
    async with opened(server.client_kwargs) as store:
        yield manager_of(store)


async def test_what_was_accepted_lands(proxy, store, manager, other):
    """Values, deletes and sets of many, in the order of their acceptance."""
    await manager.set(**state("gone"), value=1)
    await away(proxy, store)
    assert await manager.set(**state("a"), value=1) is WriteOutcome.DEFERRED
    assert await manager.set(**state("a"), value=2) is WriteOutcome.DEFERRED
    assert await manager.delete(**state("gone")) is DeleteOutcome.DEFERRED
    many = {f"m{number}": number for number in range(300)}
    outcome_ = await manager.set_many(
        tenant_id="acme", data_type=DataType.KNOWLEDGE, items=many
    )
    assert outcome_ is WriteOutcome.DEFERRED

    await back(proxy)
    await drained(store)

    assert await other.get(**state("a")) == 2
    assert await other.get(**state("gone")) is None
    found = await other.get_many(
        tenant_id="acme", data_type=DataType.KNOWLEDGE, identifiers=many
    )
    assert found == many
    assert (store.journal.depth, store.journal.size) == (0, 0)
    assert store.landing.statistics.applied == 302


async def test_nothing_is_sent_twice_when_all_goes_well(proxy, store, manager):
    """One round trip for what fits into one batch, and then quiet."""
    await away(proxy, store)
    for number in range(100):
        await manager.set(**state(f"k{number}"), value=number)
    await back(proxy)
    await drained(store)

    told = store.landing.statistics
    assert (told.applied, told.duplicates, told.superseded) == (100, 0, 0)


async def test_a_write_made_while_its_key_waits_wins(proxy, store, manager, other):
    """Live and waiting writes of one key meet: the later one stands."""
    await away(proxy, store)
    for number in range(500):
        await manager.set(**state(f"k{number}"), value="waited")
    await back(proxy)
    live = 0
    while store.journal.depth:
        for number in range(0, 500, 7):
            await manager.set(**state(f"k{number}"), value="later")
            live += 1
        await asyncio.sleep(0)  # what is deferred never waits
    assert live
    await drained(store)

    for number in range(500):
        wanted = "waited" if number % 7 else "later"
        assert await other.get(**state(f"k{number}")) == wanted
    assert store.landing.statistics.conflicts == 0


async def test_a_reader_never_sees_its_own_write_vanish(proxy, store, manager):
    """From the overlay until the moment in which Redis has it."""
    await manager.set(**state("k"), value=0)
    await away(proxy, store)
    await manager.set(**state("k"), value=1)
    await back(proxy)
    seen = []
    while store.journal.depth:
        seen.append(await manager.get(**state("k")))
        await asyncio.sleep(0)  # what is read from the overlay never waits
    seen.append(await manager.get(**state("k")))

    assert set(seen) == {1}


async def test_a_reply_lost_under_a_batch_loses_and_doubles_nothing(
    server, proxy, store, manager, other
):
    """The batch is sent again; what had landed is a duplicate."""
    await away(proxy, store)
    for number in range(20):
        await manager.set(**state(f"k{number}"), value=number)
    await manager.increment(tenant_id="acme", identifier="n", amount=7)
    proxy.heal()
    proxy.drop_reply_to(b"state:{acme}:k7")
    await proxy.accept()
    await proxy.wait_for_dropped_reply()
    await drained(store)

    assert server.execute("HGET", "p:counter:{acme}:n", "v") == b"7"
    for number in range(20):
        assert await other.get(**state(f"k{number}")) == number
    assert store.landing.statistics.conflicts == 0


async def test_a_closed_store_gives_its_batch_back(proxy, store, manager):
    """Closed in the middle of a batch, the journal still holds all of it."""
    await away(proxy, store)
    for number in range(20):
        await manager.set(**state(f"k{number}"), value=number)
    await manager.increment(tenant_id="acme", identifier="n", amount=7)
    proxy.heal()
    proxy.replies.forget()
    await proxy.accept()
    await wait_until(lambda: proxy.requests.count(b"PING") > 0, "a probe passes")
    proxy.replies.stall()

    await store.sync.aclose(deadline=0.05)

    journal = store.journal
    assert journal.depth == 21
    assert len(journal.batch(100, 10**6)) == 21


async def test_one_poisoned_key_holds_up_nothing(server, proxy, store, manager):
    """What cannot land waits for a decision, alone; the others land."""
    server.execute("RPUSH", "p:state:{acme}:k3", "x")
    server.execute("PEXPIRE", "p:state:{acme}:k3", 60_000)
    await away(proxy, store)
    for number in range(10):
        await manager.set(**state(f"k{number}"), value=number)
    await back(proxy)
    await drained(store)

    assert [one.identifier for one in JournalView(store).unresolved()] == ["k3"]
    assert store.journal.depth == store.journal.unresolved == 1
    assert store.landing.statistics.applied == 9


async def test_a_full_server_keeps_them_waiting(server, proxy, store, manager, other):
    """OOM is no decision about an entry: with room again, it lands."""
    await away(proxy, store)
    await manager.set(**state("k"), value=1)
    server.execute("CONFIG", "SET", "maxmemory", 1)
    try:
        await back(proxy)
        await wait_until(
            lambda: (store.sync.reason or "").startswith("RefusedError"), "it is told"
        )
        assert JournalView(store).statistics().unresolved == 0
    finally:
        server.execute("CONFIG", "SET", "maxmemory", 0)
    await drained(store)

    assert await other.get(**state("k")) == 1
    assert store.sync.reason is None


async def test_refusals_do_not_turn_into_a_busy_loop(server, proxy, store, manager):
    """It pauses, longer and longer, while the server refuses."""
    await away(proxy, store)
    await manager.set(**state("k"), value=1)
    server.execute("CONFIG", "SET", "maxmemory", 1)
    try:
        await back(proxy)
        await wait_until(lambda: proxy.requests.count(b"state:{acme}:k") > 0, "tried")
        before = proxy.requests.count(b"state:{acme}:k")
        loop = asyncio.get_running_loop()
        until = loop.time() + 1.0
        await wait_until(lambda: loop.time() >= until, "a second passes")
        assert proxy.requests.count(b"state:{acme}:k") - before < 20
    finally:
        server.execute("CONFIG", "SET", "maxmemory", 0)


async def test_a_server_that_forgot_its_scripts_takes_them_again(
    server, proxy, store, manager, other
):
    """SCRIPT FLUSH in an outage."""
    await away(proxy, store)
    await manager.set(**state("k"), value=1)
    server.execute("SCRIPT", "FLUSH")
    await back(proxy)
    await drained(store)

    assert await other.get(**state("k")) == 1


async def test_a_user_without_script_load_can_synchronise(make_server):
    """As live writes can: EVAL carries the source."""
    server = make_server("valkey")
    server.execute(
        *("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*"),
        *("+@all", "-script|load"),
    )
    async with FaultProxy(server.unix_socket) as proxy:
        way = {**proxy.client_kwargs, "username": "app", "password": "pw"}
        async with opened(way) as store:
            manager = manager_of(store)
            await manager.set(**state("warm"), value=0)
            await away(proxy, store)
            await manager.set(**state("k"), value=1)
            server.execute("SCRIPT", "FLUSH")
            await back(proxy)
            await drained(store)

            assert await manager.get(**state("k")) == 1


async def test_a_tenant_with_much_delays_another_by_a_batch_at_most(
    server, proxy, store, manager
):
    """Fair over tenants: the only entry of one is in the first batch."""
    await away(proxy, store)
    for number in range(5_000):
        await manager.set(**state(f"k{number}", "big"), value=number)
    await manager.set(**state("only", "small"), value=1)
    await back(proxy)
    await wait_until(
        lambda: server.execute("EXISTS", "p:state:{small}:only") == 1, "it landed"
    )

    assert store.journal.depth > 5_000 - 1_000
    await drained(store)


async def test_a_tenant_first_written_in_an_outage_is_registered(
    proxy, store, manager, other
):
    """With its first entry that lands."""
    await away(proxy, store)
    await manager.set(**state("k", "newcomer"), value=1)
    await back(proxy)
    await drained(store)

    assert "newcomer" in [one async for one in store.registry.tenants()]


async def test_a_recovering_circuit_is_left_its_ramp(proxy, other):
    """While only a share passes, batches neither fail half-way nor get doubted."""
    breaker = BreakerSettings(probe_base=0.05, probe_cap=0.1, ramp=1.0)
    async with opened(proxy.client_kwargs, breaker=breaker) as store:
        manager = manager_of(store)
        for number in range(200):
            await manager.set(**state(f"k{number}"), value="before")
        await away(proxy, store)
        for number in range(200):
            await manager.set(**state(f"k{number}"), value="ours")
        for number in range(200):
            await other.set(**state(f"k{number}"), value="theirs")
        await back(proxy)
        await drained(store)

        told = store.landing.statistics
        assert (told.conflicts, told.superseded) == (200, 0)


async def test_each_change_is_told_once(server, proxy, store, manager):
    """However many entries wait, and however often it was tried."""
    with capture_logs() as logs:
        await away(proxy, store)
        for number in range(300):
            await manager.set(**state(f"k{number}"), value=number)
            await asyncio.sleep(0)
        await back(proxy)
        await drained(store)

    told = [line["event"] for line in logs if line["event"].startswith("journal.")]
    assert told == ["journal.deferring", "journal.drained"]


# --- bounds -----------------------------------------------------------------------


async def test_a_full_journal_refuses_and_drops_nothing(proxy):
    """What was accepted before is still there, and what was refused is not."""
    async with opened(proxy.client_kwargs, journal=Journal(max_entries=5)) as store:
        manager = manager_of(store)
        await manager.set(**state("warm"), value=0)
        await away(proxy, store)
        for number in range(5):
            await manager.set(**state(f"k{number}"), value=number)
        for call in (
            manager.set(**state("k5"), value=5),
            manager.delete(**state("k6")),
            manager.increment(tenant_id="acme", identifier="n"),
            manager.set_many(
                tenant_id="acme", data_type=DataType.STATE, items={"k7": 1, "k8": 2}
            ),
        ):
            assert isinstance(await outcome(call), FallbackFullError)
        await manager.set(**state("k0"), value="again")

        await back(proxy)
        await drained(store)

        assert await manager.get(**state("k0")) == "again"
        for number in range(1, 5):
            assert await manager.get(**state(f"k{number}")) == number
        for number in range(5, 9):
            assert await manager.get(**state(f"k{number}")) is None


async def test_an_outcome_unknown_is_told_where_the_journal_is_full(proxy, server):
    """It may stand in Redis: that is more to know than that nothing was accepted."""
    async with opened(proxy.client_kwargs, journal=Journal(max_entries=0)) as store:
        manager = manager_of(store)
        await manager.set(**state("warm"), value=0)
        proxy.drop_reply_to(b"state:{acme}:k")
        proxy.refuse()

        result = await outcome(manager.set(**state("k"), value=1))

        assert isinstance(result, OutcomeUnknownError)


# --- time -------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [3_600.0, -3_600.0])
async def test_a_wrong_clock_is_corrected_when_the_servers_is_known(
    proxy, other, seconds
):
    """Never seen Redis, an hour off: stamps move, their order stays."""
    proxy.refuse()
    clock = Ahead(seconds)
    async with opened(proxy.client_kwargs, clock=clock) as store:
        manager = manager_of(store)
        for number in range(3):
            assert await manager.set(**state("k"), value=number) is (
                WriteOutcome.DEFERRED
            )
        await manager.set(**state("later"), value="ours")
        await other.set(**state("later"), value="theirs")
        await back(proxy)
        await drained(store)

        entry = await other.get_entry(**state("k"))
        assert entry is not None
        assert entry.value == 2
        assert abs(entry.age) < 30
        assert await other.get(**state("later")) == "theirs"


async def test_a_later_write_of_a_process_whose_clock_is_behind_is_kept(
    server, proxy, other
):
    """A loop or process before this one knew the server's time; this one does not."""
    journal = Journal()
    async with opened(proxy.client_kwargs, journal=journal) as first:
        await manager_of(first).set(**state("warm"), value=0)
        await away(proxy, first)
        await manager_of(first).set(**state("k"), value="first")
        await manager_of(first).set(**state("d"), value="first")
    behind = Ahead(-3_600.0)
    async with opened(proxy.client_kwargs, journal=journal, clock=behind) as second:
        await manager_of(second).set(**state("k"), value="second")
        await manager_of(second).delete(**state("d"))
        assert await manager_of(second).get(**state("k")) == "second"
        await back(proxy)
        await drained(second)

    assert await other.get(**state("k")) == "second"
    assert await other.get(**state("d")) is None


async def test_after_a_wrong_clock_live_writes_are_no_later_than_they_are(proxy, other):
    """Nobody has seen the wrong stamps: the clock need not go on above them."""
    proxy.refuse()
    async with opened(proxy.client_kwargs, clock=Ahead(3_600.0)) as store:
        manager = manager_of(store)
        await manager.set(**state("k"), value=1)
        await back(proxy)
        await drained(store)
        await manager.set(**state("live"), value=2)

        mine = await other.get_entry(**state("live"))
        await other.set(**state("theirs"), value=3)
        theirs = await other.get_entry(**state("theirs"))

        assert mine is not None
        assert theirs is not None
        assert mine.stamp < theirs.stamp


async def test_a_purge_by_a_wrong_clock_reaches_no_further_than_now(
    server, proxy, other
):
    """Its floor is the server's time, or writes of others would be purged unmade."""
    proxy.refuse()
    async with opened(proxy.client_kwargs, clock=Ahead(3_600.0)) as store:
        await manager_of(store).set(**state("k"), value=1)
        store.sync._is_closed = True  # nothing but the purge asks the server
        await back(proxy)
        await eventually(
            lambda: manager_of(store).purge(tenant_id="acme"), "Redis is back"
        )

    floor = int(server.execute("GET", "p:meta:{acme}:floor"))
    seconds, _ = server.execute("TIME")
    assert floor < (int(seconds) + 60) * 1_000_000


# --- purge ------------------------------------------------------------------------


async def test_a_purged_tenant_does_not_come_back(proxy, store, manager, other):
    """What another process purges while it waits here is refused, of every kind."""
    await away(proxy, store)
    await manager.set(**state("k"), value=1)
    await manager.increment(tenant_id="acme", identifier="n")
    await manager.delete(**state("d"))
    await other.purge(tenant_id="acme")
    await back(proxy)
    await drained(store)

    assert store.landing.statistics.purged == 3
    for data_type in (DataType.STATE, DataType.COUNTER):
        found = other.scan(tenant_id="acme", data_type=data_type)
        assert [one async for one in found] == []


async def test_an_own_purge_empties_the_journal(proxy, store, manager):
    """Of that tenant, and of nobody else."""
    await manager.set(**state("k", "globex"), value=0)
    await away(proxy, store)
    await manager.set(**state("k"), value=1)
    await manager.set(**state("k", "globex"), value=1)
    store.sync._is_closed = True  # nothing but the purge
    await back(proxy)
    await wait_until(lambda: outcome_ok(store.context.port), "Redis is back", timeout=5)

    await manager.purge(tenant_id="acme")

    assert [one.tenant_id for one in store.journal.live()] == ["globex"]


async def outcome_ok(port):
    return not isinstance(await outcome(port.send("PING")), Exception)
