"""Counters through an outage: every amount is added once, whatever gets lost."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from mcp_crew_redis.errors import ConnectionLostError, DataError, UnavailableError
from mcp_crew_redis.store.journal.entries import Delta
from mcp_crew_redis.store.journal_view import JournalView
from mcp_crew_redis.store.tally import INT64_MAX
from mcp_crew_redis.testing import FaultProxy
from mcp_crew_redis.types import DataType
from tests.integration.core.bench import eventually, outcome
from tests.integration.store.outage_parts import (
    away,
    back,
    drained,
    manager_of,
    opened,
)
from tests.integration.store.parts import all_of
from tests.rig.waiting import wait_until

KEY = "p:counter:{acme}:n"
N: dict[str, Any] = {"tenant_id": "acme", "identifier": "n"}


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
    assert await manager.increment(**N, amount=10) == 10
    return manager


def value(server, key=KEY):
    return int(server.execute("HGET", key, "v") or 0)


async def test_increments_go_on_and_land_once(server, proxy, store, manager):
    """Believed values meanwhile, exact ones afterwards."""
    await away(proxy, store)
    assert [await manager.increment(**N) for _ in range(5)] == [11, 12, 13, 14, 15]
    entry = await manager.get_entry(
        tenant_id="acme", data_type=DataType.COUNTER, identifier="n"
    )
    assert (entry.value, entry.source, entry.is_stale) == (15, "journal", True)
    server.execute("HINCRBY", KEY, "v", 100)  # somebody else goes on
    assert store.journal.depth == 1

    await back(proxy)
    await drained(store)

    assert value(server) == 115
    assert await manager.increment(**N) == 116


async def test_a_batch_cut_off_after_its_execution_counts_once(
    server, proxy, store, manager
):
    """Unanswered, deferred under its number, sent again, taken for repeated."""
    proxy.drop_reply_to(b"counter:{acme}:n")
    proxy.refuse()
    values = await all_of(manager.increment(**N) for _ in range(10))
    assert sorted(values) == list(range(11, 21))
    assert value(server) == 20 or store.journal.depth

    await back(proxy)
    await drained(store)

    assert value(server) == 20
    assert store.landing.statistics.duplicates == 1


async def test_what_comes_after_a_cut_is_not_mixed_with_it(
    server, proxy, store, manager
):
    """The sum that was sent is frozen; later amounts have another number."""
    proxy.drop_reply_to(b"counter:{acme}:n")
    proxy.refuse()
    await manager.increment(**N, amount=5)
    for _ in range(3):
        await manager.increment(**N, amount=7)
    assert [one.amount for one in store.journal.deltas[KEY.encode()]] == [5, 21]

    await back(proxy)
    await drained(store)

    assert value(server) == 36


async def test_callers_during_the_synchronisation_get_exact_values(
    server, proxy, store, manager
):
    """They wait for what is under way, and follow it."""
    await away(proxy, store)
    await manager.increment(**N, amount=5)
    proxy.heal()
    await proxy.accept()
    total, values = 15, []
    while store.journal.depth or len(values) < 50:
        values.append(await manager.increment(**N))
        total += 1
        await asyncio.sleep(0)

    await drained(store)
    assert value(server) == total
    assert values[-1] == total
    assert values == sorted(set(values))


async def test_a_hung_server_holds_callers_no_longer_than_a_timeout(
    server, proxy, store, manager
):
    """Not even those who wait for what the journal is sending."""
    await away(proxy, store)
    await manager.increment(**N, amount=5)
    proxy.heal()
    await proxy.accept()
    proxy.replies.forget()
    await proxy.requests.wait_for(b"counter:{acme}:n")
    proxy.replies.stall()
    loop = asyncio.get_running_loop()
    began = loop.time()

    await all_of(manager.increment(**N) for _ in range(5))

    assert loop.time() - began < 1.6
    proxy.replies.release()
    await back(proxy)
    await drained(store)
    await eventually(lambda: manager.increment(**N), "it works again")
    assert value(server) == 21


async def test_a_cancelled_callers_amount_neither_blocks_nor_doubles(
    server, proxy, store, manager
):
    """Cancelled after the send: nobody waits, and the next in the outage goes on."""
    proxy.replies.stall()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(manager.increment(**N, amount=5))
        await wait_until(lambda: value(server) == 15, "it landed")
        task.cancel()
    await away(proxy, store)
    await manager.increment(**N, amount=100)
    # A tenant that has to be noted anew cannot be while Redis is away.
    store.registry.forget("acme")
    store._noted.clear()
    await manager.increment(**N, amount=1_000)

    proxy.replies.release()
    await back(proxy)
    await drained(store)

    assert value(server) == 1_115


async def test_an_amount_deferred_beside_a_batch_under_way_counts_once(
    server, proxy, store, manager
):
    """The tenant cannot be noted, so it goes into the journal at once."""
    proxy.replies.stall()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(manager.increment(**N, amount=5))
        await wait_until(lambda: value(server) == 15, "it landed")
        keys = store.keys.tenant("acme")
        second = await store.counters.defer(keys, "n", 100, 60_000)
        proxy.refuse()
        proxy.cut()
    assert second == 110
    assert first.result() in (15, 115)

    proxy.replies.release()
    await back(proxy)
    await drained(store)

    assert value(server) == 115


async def test_a_journal_full_beside_an_uncertain_batch_still_drains(
    server, proxy, store, manager
):
    """What is uncertain needs room that only draining gives."""
    proxy.replies.stall()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(manager.increment(**N, amount=5))
        await wait_until(lambda: value(server) == 15, "it landed")
        task.cancel()
    await away(proxy, store)
    keys = store.keys.tenant("acme")
    await store.counters.defer(keys, "n", 100, 60_000)
    await store.counters.defer(keys, "other", 1, 60_000)
    store.journal._max_entries = store.journal.depth

    proxy.replies.release()
    await back(proxy)
    await drained(store)

    assert value(server) == 115
    assert value(server, "p:counter:{acme}:other") == 1


async def test_a_sum_that_does_not_fit_waits_alone(server, proxy, store, manager):
    """It would overflow the counter; what was added after it would not."""
    await away(proxy, store)
    await manager.increment(**N, amount=INT64_MAX)
    await manager.increment(**N, amount=1)
    assert store.journal.depth == 2
    await back(proxy)
    await drained(store)

    await wait_until(lambda: value(server) == 11, "the second has landed")
    (unresolved,) = JournalView(store).unresolved()
    assert (unresolved.kind, unresolved.identifier) == ("counter", "n")
    assert await outcome(manager.increment(**N)) == 12


async def test_an_unresolved_sum_can_be_applied_once_it_fits(
    server, proxy, store, manager
):
    """Once, although later numbers of its writer were added meanwhile."""
    view = JournalView(store)
    await away(proxy, store)
    await manager.increment(**N, amount=INT64_MAX)
    await back(proxy)
    await wait_until(lambda: len(view.unresolved()) == 1, "it is known")
    assert view.apply(view.unresolved()) == 1
    await wait_until(lambda: len(view.unresolved()) == 1, "it still does not fit")
    await manager.increment(**N, amount=-10)
    assert view.apply(view.unresolved()) == 1
    await drained(store)

    assert value(server) == INT64_MAX
    assert view.apply([]) == 0
    assert store.journal.depth == 0


async def test_another_type_under_the_key_is_the_owners_to_decide(
    server, proxy, store, manager
):
    """Nothing is added, nothing is lost, and live callers are told."""
    await away(proxy, store)
    await manager.increment(**N, amount=5)
    server.execute("SET", KEY, "x", "PX", 60_000)
    await back(proxy)
    await drained(store)

    (unresolved,) = JournalView(store).unresolved()
    assert unresolved.kind == "counter"
    assert isinstance(await outcome(manager.increment(**N)), DataError)


async def test_a_counter_deleted_while_redis_is_here_forgets_what_waits(
    server, proxy, store, manager
):
    """It begins at zero."""
    await away(proxy, store)
    await manager.increment(**N, amount=5)
    store.sync._is_closed = True
    await back(proxy)
    await eventually(
        lambda: manager.delete(
            tenant_id="acme", data_type=DataType.COUNTER, identifier="n"
        ),
        "Redis is back",
    )

    assert store.journal.depth == 0
    assert server.execute("EXISTS", KEY) == 0
    assert await manager.increment(**N) == 1


async def test_nothing_is_added_to_an_unknown_counter_by_zero(proxy, store, manager):
    """There is nothing that could be returned."""
    await away(proxy, store)

    result = await outcome(
        manager.increment(tenant_id="acme", identifier="unknown", amount=0)
    )

    assert isinstance(result, UnavailableError)
    assert store.journal.depth == 0


async def test_an_adopted_sum_does_not_block_a_counter_with_a_caller_gone(
    server, proxy, store, manager
):
    """What another process left, and what a cancelled caller left: each once."""
    proxy.replies.stall()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(manager.increment(**N, amount=5))
        await wait_until(lambda: value(server) == 15, "it landed")
        task.cancel()
    proxy.replies.release()
    adopted = Delta(
        key=KEY.encode(),
        tenant_id="acme",
        writer="dead",
        sequence=3,
        amount=100,
        ttl_ms=60_000,
        made_us=store.context.stamps.hybrid.now_us(),
    )
    assert store.journal.adopt(adopted)
    await drained(store)

    assert value(server) == 115


async def test_counting_through_many_cuts_loses_and_doubles_nothing(
    server, proxy, store, manager
):
    """Replies lost, connections cut and refused, callers cancelled, at random."""
    random, promised, doubtful = Random(11), 10, 0
    for _ in range(60):
        event = random.randrange(6)
        if event == 0:
            proxy.drop_reply_to(b"counter:{acme}:n")
        elif event == 1:
            proxy.cut()
        elif event == 2:
            proxy.refuse()
            proxy.cut()
        elif event == 3:
            proxy.heal()
            await proxy.accept()
        calls = [manager.increment(**N) for _ in range(random.randrange(1, 8))]
        for result in await all_of(calls):
            if isinstance(result, int):
                promised += 1
            elif not isinstance(result, ConnectionLostError):
                doubtful += 1
    await back(proxy)
    await eventually(lambda: manager.increment(**N), "Redis is back")
    await drained(store)

    assert promised + 1 <= value(server) <= promised + 1 + doubtful
    assert doubtful == 0
