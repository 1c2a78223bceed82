"""What is read without Redis: own writes that wait, and nothing made up."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mcp_crew_redis.errors import ConnectionLostError, UnavailableError
from mcp_crew_redis.testing import FaultProxy
from mcp_crew_redis.types import DataType, DeleteOutcome, WriteOutcome
from tests.integration.core.bench import outcome
from tests.integration.store.outage_parts import (
    away,
    back,
    drained,
    manager_of,
    opened,
    state,
)
from tests.integration.store.parts import all_of
from tests.rig.waiting import wait_until

CACHE: dict[str, Any] = {
    "tenant_id": "acme",
    "data_type": DataType.CACHE,
    "identifier": "c",
}
KEY = "p:state:{acme}:k"


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
    await manager.set(**state("clean"), value="stands")
    await manager.set(**CACHE, value="stands")
    return manager


@pytest.fixture
async def other(server):
    async with opened(server.client_kwargs) as store:
        yield store


@pytest.fixture
async def gone(proxy, store, manager):
    """The manager, after Redis went away."""
    await away(proxy, store)
    return manager


async def test_own_writes_are_read(gone):
    """By every way of reading."""
    assert await gone.set(**state("k"), value=1, ttl=60) is WriteOutcome.DEFERRED

    assert await gone.get(**state("k")) == 1
    assert await gone.exists(**state("k"))
    assert 59 < await gone.ttl(**state("k")) <= 60
    found = await gone.get_many(
        tenant_id="acme", data_type=DataType.STATE, identifiers=["k"]
    )
    assert found == {"k": 1}


async def test_their_staleness_can_be_seen(gone):
    """A newer one may exist where nobody can ask."""
    await gone.set(**state("k"), value=1)

    entry = await gone.get_entry(**state("k"))

    assert (entry.value, entry.source, entry.is_stale) == (1, "journal", True)
    assert 0 <= entry.age < 5


async def test_own_deletes_are_read(gone):
    """As absent, and not as unknown."""
    assert await gone.delete(**state("clean")) is DeleteOutcome.DEFERRED

    assert await gone.get(**state("clean")) is None
    assert await gone.get_entry(**state("clean")) is None
    assert not await gone.exists(**state("clean"))
    assert await gone.ttl(**state("clean")) is None


async def test_what_is_not_known_is_no_miss(gone):
    """Synchronised types raise: absent would be a lie."""
    for call in (
        gone.get(**state("clean")),
        gone.get_entry(**state("clean")),
        gone.exists(**state("clean")),
        gone.ttl(**state("clean")),
        gone.get_many(
            tenant_id="acme", data_type=DataType.STATE, identifiers=["clean"]
        ),
    ):
        assert isinstance(await outcome(call), UnavailableError)


async def test_many_of_which_one_is_not_known_is_no_miss(gone):
    """What waits does not hide what cannot be asked."""
    await gone.set(**state("k"), value=1)

    result = await outcome(
        gone.get_many(
            tenant_id="acme", data_type=DataType.STATE, identifiers=["k", "clean"]
        )
    )

    assert isinstance(result, UnavailableError)


async def test_a_cache_that_cannot_be_asked_has_nothing(gone):
    """Whoever caches computes again."""
    assert await gone.get(**CACHE) is None
    assert await gone.get(**CACHE, default=7) == 7
    many = await gone.get_many(
        tenant_id="acme", data_type=DataType.CACHE, identifiers=["c"]
    )
    assert many == {}


async def test_own_writes_of_a_cache_are_read(gone):
    """And land like the others."""
    assert await gone.set(**CACHE, value="new") is WriteOutcome.DEFERRED
    assert await gone.get(**CACHE) == "new"


async def test_a_waiting_value_is_over_in_time(gone):
    """Its time runs while it waits."""
    await gone.set(**state("k"), value=1, ttl=0.05)

    async def is_over():
        return await gone.get(**state("k")) is None

    await wait_until(is_over, "it is over")
    assert not await gone.exists(**state("k"))


async def test_a_waiting_value_can_live_longer(proxy, store, gone):
    """As a later write of the same bytes."""
    await gone.set(**state("k"), value=1, ttl=60)

    assert await gone.expire(**state("k"), ttl=600)
    assert 500 < await gone.ttl(**state("k")) <= 600

    await back(proxy)
    await drained(store)
    assert 500 < await gone.ttl(**state("k")) <= 600
    assert await gone.get(**state("k")) == 1


async def test_a_deleted_value_that_waits_cannot_live_longer(gone):
    """There is none."""
    await gone.delete(**state("clean"))

    assert not await gone.expire(**state("clean"), ttl=600)


async def test_a_value_written_after_a_delete_is_read(gone):
    """The newest that waits counts."""
    await gone.delete(**state("clean"))
    await gone.set(**state("clean"), value=2)

    assert await gone.get(**state("clean")) == 2


async def test_values_are_not_shared_with_who_wrote_them(gone):
    """Bytes wait, not objects."""
    value = {"a": [1]}
    await gone.set(**state("k"), value=value)
    value["a"].append(2)

    read = await gone.get(**state("k"))
    read["a"].append(3)

    assert await gone.get(**state("k")) == {"a": [1]}


async def test_tenants_do_not_read_each_others(gone):
    """Without Redis as with it."""
    await gone.set(**state("k"), value=1)

    result = await outcome(gone.get(**state("k", "globex")))

    assert isinstance(result, UnavailableError)


# --- the way in -------------------------------------------------------------------


async def test_a_write_without_an_answer_is_kept_under_its_stamp(
    server, proxy, store, manager
):
    """It may stand already: then what waits is a duplicate of it."""
    proxy.drop_reply_to(b"state:{acme}:k")
    proxy.refuse()

    assert await manager.set(**state("k"), value=1) is WriteOutcome.DEFERRED
    assert await manager.get(**state("k")) == 1
    standing = server.execute("GET", KEY)

    await back(proxy)
    await drained(store)
    assert server.execute("GET", KEY) == standing
    assert store.landing.statistics.duplicates == 1


async def test_the_newest_write_of_a_process_stands_whatever_ends_last(
    server, proxy, store, manager
):
    """An earlier one times out after a later one has been deferred."""
    proxy.requests.stall()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(manager.set(**state("k"), value="first"))
        await proxy.wait_for_request(b"state:{acme}:k")
        large = "second" * 20_000  # another lane, which cannot be had
        proxy.refuse()
        second = group.create_task(manager.set(**state("k"), value=large))
    assert {first.result(), second.result()} <= {WriteOutcome.DEFERRED}

    assert await manager.get(**state("k")) == large
    proxy.requests.release()
    await back(proxy)
    await drained(store)
    assert await manager.get(**state("k")) == large


async def test_a_cancelled_write_leaves_nothing_half_done(proxy, store, manager):
    """Cancelled while it waits for an answer: the key is as it was, or written."""
    proxy.replies.stall()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(manager.set(**state("k"), value=1))
        await proxy.wait_for_request(b"state:{acme}:k")
        task.cancel()
    proxy.replies.release()

    assert store.journal.depth == 0
    assert await manager.set(**state("k"), value=2) is WriteOutcome.STORED
    assert await manager.get(**state("k")) == 2


async def test_a_pool_of_three_connections_survives_an_outage(proxy):
    """Two lanes and one more are enough to go away and come back."""
    async with opened(proxy.client_kwargs, pool_size=3) as store:
        manager = manager_of(store)
        await manager.set(**state("k"), value=0)
        await away(proxy, store)
        await all_of(
            manager.set(**state(f"k{number}"), value="x" * 100_000)
            for number in range(10)
        )
        await back(proxy)
        await drained(store)
        assert await manager.get(**state("k9")) == "x" * 100_000


async def test_two_stores_of_one_process_keep_apart(proxy, server, store, gone):
    """What one has accepted, the other neither reads nor sends."""
    async with opened(server.client_kwargs) as second:
        await gone.set(**state("clean"), value="waits")

        assert await manager_of(second).get(**state("clean")) == "stands"
        assert second.journal.depth == 0


async def test_of_two_writers_the_newer_stamp_waits(store, gone):
    """The earlier one had to wait for a connection, and comes second with nothing."""
    keys, values = store.keys.tenant("acme"), store.values
    key = keys.key("state", "k")
    stamp = store.context.stamps.stamp()
    earlier = values.sealed(stamp, values.encoded("earlier"), 60_000)
    await gone.set(**state("k"), value="later")

    error = ConnectionLostError("no connection in time")
    await values._fallback.keep(keys, ((key, earlier),), error)

    assert await gone.get(**state("k")) == "later"


async def test_a_write_after_one_far_ahead_is_kept(
    server, proxy, store, manager, other
):
    """What stood was an hour ahead, and was written over; then came an outage."""
    await manager_of(other).set(**state("warm"), value=0)
    other.context.stamps.hybrid._offset_us += 3_600_000_000
    await manager_of(other).set(**state("k"), value="ahead")
    assert await manager.set(**state("k"), value="above") is WriteOutcome.STORED
    await away(proxy, store)
    await manager.set(**state("k"), value="later")
    assert await manager.get(**state("k")) == "later"

    await back(proxy)
    await drained(store)
    assert await manager.get(**state("k")) == "later"
