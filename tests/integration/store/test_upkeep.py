"""Upkeep: a tenant's identifiers, its size, its removal, and nobody else's."""

from __future__ import annotations

import asyncio

import pytest

from mcp_crew_redis._wire.header import seal, seal_tombstone
from mcp_crew_redis._wire.keys import KeySpace, MetaKey
from mcp_crew_redis.errors import InvalidIdentifierError, InvalidTenantError
from mcp_crew_redis.store import walking
from mcp_crew_redis.store.counters import Counters
from mcp_crew_redis.store.registry import TenantRegistry
from mcp_crew_redis.store.upkeep import Upkeep
from mcp_crew_redis.testing import ManualClock
from mcp_crew_redis.types import DataType
from tests.integration.store.parts import PREFIX, store

pytestmark = pytest.mark.every_server

OLD = 1_000_000
SPACE = KeySpace(PREFIX)
NEIGHBOURS = ("a", "a.b", "a-b", "aa", "b", "A", "meta", "a_b")
HOSTILE = ("x", "x:{a}:y", "*", "{a}", "é", "a/b", "p:state:{a}:x", "\\", "[a]", "?")


@pytest.fixture
async def context(server):
    async with store(server.client_kwargs) as context:
        yield context


@pytest.fixture
def registry(context):
    return TenantRegistry(context)


@pytest.fixture
def upkeep(context, registry):
    return Upkeep(context, registry)


def fresh(make_server, server):
    """Return a server of that kind whose table nobody has used: its pages are even.

    Valkey 9.1 was seen to stay in the middle of a rehash after many flushes; SCAN then
    gives thousands of keys at once.
    """
    return make_server(server.name)


def put(server, tenant, data_type, identifier, value=b"v", stamp=OLD):
    key = SPACE.tenant(tenant).key(data_type, identifier)
    server.execute("SET", key, seal(stamp, value), "EX", 600)
    return key


def put_many(server, tenant, identifiers, data_type=DataType.STATE):
    """Put them in one round trip; return their keys."""
    space = SPACE.tenant(tenant)
    keys = [space.key(data_type, identifier) for identifier in identifiers]
    with server._control(5.0) as client, client.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.set(key, seal(OLD, b"v"), ex=600)
        pipeline.execute()
    return keys


def fill(server, tenant):
    """Give a tenant something of every kind; return its keys."""
    keys = [
        key
        for data_type in (DataType.STATE, DataType.TOOLS, DataType.EMBEDDING)
        for key in put_many(server, tenant, HOSTILE, data_type)
    ]
    counter = SPACE.tenant(tenant).key(DataType.COUNTER, "n")
    server.execute("HSET", counter, "v", 1)
    server.execute("EXPIRE", counter, 600)
    server.execute("SADD", SPACE.tenant(tenant).meta(MetaKey.TYPES), "tool.updated")
    return [*keys, counter, SPACE.tenant(tenant).meta(MetaKey.TYPES)]


async def scanned(upkeep, tenant, data_type=DataType.STATE, match="*"):
    keys = SPACE.tenant(tenant)
    return [identifier async for identifier in upkeep.scan(keys, data_type, match)]


# --- scan -------------------------------------------------------------------------


async def test_a_scan_gives_the_identifiers_as_they_were_written(server, upkeep):
    """Decoded, of this tenant and this type, embeddings in all their slots."""
    for tenant in NEIGHBOURS:
        fill(server, tenant)

    for data_type in (DataType.STATE, DataType.EMBEDDING):
        assert sorted(await scanned(upkeep, "a", data_type)) == sorted(HOSTILE)
    assert await scanned(upkeep, "a", DataType.COUNTER) == ["n"]
    assert await scanned(upkeep, "nobody") == []


async def test_a_scan_narrows_by_a_glob_over_identifiers(server, upkeep):
    """Everything but the wildcards stands for itself."""
    for identifier in ("run:1", "run:2", "walk:1", "run:*"):
        put(server, "a", DataType.STATE, identifier)

    assert sorted(await scanned(upkeep, "a", match="run:*")) == [
        *("run:*", "run:1", "run:2")
    ]
    assert await scanned(upkeep, "a", match="run:\\*") == ["run:*"]
    assert sorted(await scanned(upkeep, "a", match="*:[12]")) == [
        *("run:1", "run:2", "walk:1")
    ]


async def test_a_deleted_value_is_not_given(server, upkeep):
    """Its tombstone is the memory of a delete."""
    key = put(server, "a", DataType.STATE, "gone")
    server.execute("SET", key, seal_tombstone(OLD), "EX", 600)
    put(server, "a", DataType.STATE, "here")

    assert await scanned(upkeep, "a") == ["here"]


async def test_many_identifiers_come_page_by_page_and_once(server, upkeep):
    """While the table grows under the scan."""
    expected = {f"i{at}" for at in range(3_000)}
    put_many(server, "a", sorted(expected))
    found = []
    async for identifier in upkeep.scan(SPACE.tenant("a"), DataType.STATE):
        found.append(identifier)
        if len(found) % 50 == 0:
            put_many(server, "b", [f"{len(found)}-{at}" for at in range(100)])

    assert len(found) == len(set(found))
    assert set(found) == expected


async def test_what_a_scan_remembers_is_bounded(server, upkeep, monkeypatch):
    """At the cost of a repetition, should the server make one."""
    monkeypatch.setattr(walking, "MAX_REMEMBERED", 10)
    put_many(server, "a", [f"i{at}" for at in range(50)])

    assert len(await scanned(upkeep, "a")) == 50


async def test_a_scan_may_be_left_at_any_moment(server, upkeep):
    """Nothing is held open."""
    put_many(server, "a", [f"i{at}" for at in range(2_000)])
    async for _ in upkeep.scan(SPACE.tenant("a"), DataType.STATE):
        break

    assert len(await scanned(upkeep, "a")) == 2_000


@pytest.mark.key_leaks(reason="foreign keys on purpose")
async def test_foreign_keys_are_not_given(server, upkeep):
    """What this layer cannot have written is nobody's."""
    server.execute("SET", b"p:state:{a}:%zz", "v")
    server.execute("SET", b"p:state:{a}:\xff", "v")
    server.execute("SET", b"p:state:{a}x:k", "v")
    server.execute("RPUSH", b"p:state:{a}:list", "v")

    assert await scanned(upkeep, "a") == ["list"]


@pytest.mark.parametrize("match", ["", "x" * 600, "\ud800"])
async def test_a_glob_that_is_none_is_refused(upkeep, match):
    """Before anything is sent."""
    with pytest.raises(InvalidIdentifierError):
        await scanned(upkeep, "a", match=match)


# --- usage ------------------------------------------------------------------------


async def test_usage_counts_keys_and_bytes_by_type(server, upkeep):
    """Tombstones apart; bytes as the server counts them."""
    put(server, "a", DataType.STATE, "small")
    large = put(server, "a", DataType.STATE, "large", b"x" * 10_000)
    gone = put(server, "a", DataType.KNOWLEDGE, "gone")
    server.execute("SET", gone, seal_tombstone(OLD), "EX", 600)
    fill(server, "a.b")

    usage = await upkeep.usage("a")

    state, knowledge = usage.types["state"], usage.types["knowledge"]
    assert (state.keys, state.tombstones) == (2, 0)
    assert state.bytes > server.execute("MEMORY", "USAGE", large) > 10_000
    assert (knowledge.keys, knowledge.bytes, knowledge.tombstones) == (0, 0, 1)
    assert knowledge.tombstone_bytes > 16
    assert (usage.keys, usage.tombstones) == (2, 1)
    assert usage.bytes == state.bytes + knowledge.tombstone_bytes
    assert usage.is_complete
    assert not usage.is_estimate


async def test_usage_sees_every_kind_of_key(server, upkeep):
    """Counters, embeddings in all slots, and what is known of the tenant."""
    keys = fill(server, "a")
    usage = await upkeep.usage("a")

    assert set(usage.types) == {"state", "tools", "embedding", "counter", "meta"}
    assert usage.keys == len(keys)
    assert (await upkeep.usage("nobody")).keys == 0


async def test_usage_tells_how_far_it_is_and_stops_in_time(server, make_server):
    """What was counted so far, marked as incomplete."""
    server, clock = fresh(make_server, server), ManualClock()
    async with store(server.client_kwargs, clock=clock) as context:
        upkeep = Upkeep(context)
        put_many(server, "a", [f"i{at}" for at in range(2_000)])
        told = []

        whole = await upkeep.usage("a", told.append, within=60.0)
        part = await upkeep.usage("a", within=0.0)

    assert whole.is_complete
    assert [progress.pages for progress in told] == list(range(1, len(told) + 1))
    assert (told[-1].cursor, told[-1].seen) == (0, 2_000)
    assert not part.is_complete
    assert 0 < part.keys < 2_000


async def test_usage_without_memory_usage_is_an_estimate(server):
    """Some managed services refuse that command: lengths, and it says so."""
    server.execute("ACL", "SETUSER", "poor", "on", ">pw", "~*", "+@all", "-memory")
    try:
        kwargs = {**server.client_kwargs, "username": "poor", "password": "pw"}
        async with store(kwargs) as context:
            key = put(server, "a", DataType.STATE, "k", b"x" * 100)
            counter = SPACE.tenant("a").key(DataType.COUNTER, "n")
            await Counters(context, "w").increment(SPACE.tenant("a"), "n", 1, 60_000)
            usage = await Upkeep(context).usage("a")
    finally:
        server.execute("ACL", "DELUSER", "poor")

    assert usage.is_estimate
    assert usage.types["state"].bytes == len(key) + 116
    assert usage.types["counter"].bytes == len(counter)


# --- purge ------------------------------------------------------------------------


async def test_a_purge_removes_all_of_one_tenant_and_nothing_else(
    server, upkeep, registry
):
    """Whatever its neighbours are called."""
    for tenant in NEIGHBOURS:
        fill(server, tenant)
        await registry.note(tenant)
    keys = fill(server, "a")
    total = server.execute("DBSIZE")

    assert await upkeep.purge("a") == len(keys)

    assert server.execute("DBSIZE") == total - len(keys) + 1  # the floor
    assert all(server.execute("EXISTS", key) == 0 for key in keys)
    left = {tenant async for tenant in registry.tenants()}
    assert left == set(NEIGHBOURS) - {"a"}


@pytest.mark.parametrize("tenant", ["*", "t*", "a?", "[a]", "", "a}", "a/1", "a:"])
async def test_a_hostile_tenant_is_refused(server, upkeep, tenant):
    """Nothing is removed for a pattern."""
    put(server, "a", DataType.STATE, "k")

    with pytest.raises(InvalidTenantError):
        await upkeep.purge(tenant)
    with pytest.raises(InvalidTenantError):
        await upkeep.usage(tenant)
    assert server.execute("DBSIZE") == 1


async def test_the_floor_stands_before_anything_goes(server, upkeep, context):
    """And later stamps of this process are above it."""
    key = put(server, "a", DataType.STATE, "k")
    seen = []

    def on_progress(progress):
        floor = server.execute("GET", SPACE.tenant("a").meta(MetaKey.FLOOR))
        seen.append((progress.floor, int(floor), server.execute("EXISTS", key)))

    await upkeep.purge("a", on_progress)

    floor = seen[0][0]
    assert seen[0] == (floor, floor, 1)
    assert seen[-1] == (floor, floor, 0)
    await context.stamps.ready()
    assert context.stamps.stamp() > floor


async def test_a_write_newer_than_the_floor_survives(server, upkeep, registry):
    """It came after the purge; the tenant stays on the list."""
    await registry.note("a")
    put_many(server, "a", [f"old{at}" for at in range(3)])

    def on_progress(progress):
        if progress.pages == 0:
            put(server, "a", DataType.STATE, "new", stamp=progress.floor + 1)

    assert await upkeep.purge("a", on_progress) == 3

    assert await scanned(upkeep, "a") == ["new"]
    assert [tenant async for tenant in registry.tenants()] == ["a"]


async def test_an_old_write_beside_the_first_walk_goes_too(server, upkeep):
    """A walk may miss what comes meanwhile: the next one does not."""
    put_many(server, "a", [f"old{at}" for at in range(1_500)])

    def on_progress(progress):
        if progress.pages and not progress.cursor and progress.pages < 20:
            put(server, "a", DataType.STATE, f"late{progress.pages}")

    await upkeep.purge("a", on_progress)

    assert len(await scanned(upkeep, "a")) <= 1


async def test_a_purge_that_was_cancelled_is_taken_up_by_the_next(server, make_server):
    """What is gone is gone; the rest follows."""
    server = fresh(make_server, server)
    put_many(server, "a", [f"i{at}" for at in range(2_000)])
    async with store(server.client_kwargs) as context:
        upkeep = Upkeep(context)
        async with asyncio.TaskGroup() as group:

            def on_progress(progress):
                if progress.removed > 100:
                    task.cancel()

            task = group.create_task(upkeep.purge("a", on_progress))

        assert task.cancelled()
        left = server.execute("DBSIZE") - 1
        assert 0 < left < 2_000
        assert await upkeep.purge("a") == left
        assert await upkeep.purge("a") == 0


async def test_a_purged_tenant_is_noted_again_when_it_writes(upkeep, registry):
    """With its types, which went too."""
    await registry.note_type("a", "tool.updated")
    await upkeep.purge("a")
    assert await registry.types("a") == frozenset()

    await registry.note_type("a", "tool.updated")

    assert await registry.types("a") == {"tool.updated"}
    assert [tenant async for tenant in registry.tenants()] == ["a"]


async def test_keys_of_queues_and_other_prefixes_stay(server, upkeep):
    """They are not the tenant's, or not this layer's."""
    keys = (
        b"p:tasks:{queue/0}:t:a:1",
        b"p:x:state:{a}:k",
        b"q:state:{a}:k",
        b"state:{a}:k",
    )
    for key in keys:
        server.execute("SET", key, "v", "EX", 60)

    assert await upkeep.purge("a") == 0
    assert all(server.execute("EXISTS", key) for key in keys)
