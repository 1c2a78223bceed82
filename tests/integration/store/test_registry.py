"""The registry: which tenants there are, written once and read page by page."""

from __future__ import annotations

import asyncio

import pytest

from mcp_crew_redis.errors import (
    InvalidIdentifierError,
    InvalidTenantError,
    UnavailableError,
)
from mcp_crew_redis.store import registry as module
from mcp_crew_redis.store.registry import TenantRegistry
from mcp_crew_redis.testing import ManualClock
from tests.integration.store.parts import all_of, store

pytestmark = pytest.mark.every_server

DAY = 86_400.0


@pytest.fixture
def clock():
    return ManualClock(wall=20_000 * DAY + 100.0)


@pytest.fixture
async def context(server, clock):
    async with store(server.client_kwargs, clock=clock) as context:
        yield context


@pytest.fixture
def registry(context):
    return TenantRegistry(context)


def sent(server, name):
    return server.info("commandstats").get(f"cmdstat_{name}", {}).get("calls", 0)


async def listed(registry, since_days=None):
    return sorted([tenant async for tenant in registry.tenants(since_days)])


async def test_a_noted_tenant_is_listed_with_its_day(server, context, registry):
    """In the one sorted set, which never expires."""
    await registry.note("acme")

    assert await listed(registry) == ["acme"]
    assert float(server.execute("ZSCORE", context.keys.tenants, "acme")) == 20_000.0


async def test_a_second_note_sends_nothing(server, registry):
    """It is a look-up."""
    for _ in range(5):
        await registry.note("acme")

    assert registry.is_noted("acme")
    assert not registry.is_noted("other")
    assert sent(server, "zadd") == 1


async def test_callers_of_one_tenant_share_a_write(server, registry):
    """100 first writes, one note."""
    await all_of(registry.note("acme") for _ in range(100))

    assert sent(server, "zadd") == 1


async def test_a_new_day_is_noted(server, context, registry, clock):
    """And so is every hour, for the tenant may have been purged elsewhere."""
    await registry.note("acme")
    await clock.advance(3_601.0)
    await registry.note("acme")
    assert sent(server, "zadd") == 2
    await clock.advance(DAY)
    await registry.note("acme")

    assert float(server.execute("ZSCORE", context.keys.tenants, "acme")) == 20_001.0


async def test_a_note_is_old_with_its_day(server, context, registry, clock):
    """A minute before midnight it lasts a minute."""
    await clock.advance(DAY - 160.0)
    await registry.note("acme")
    await clock.advance(61.0)
    assert not registry.is_noted("acme")
    await registry.note("acme")

    assert float(server.execute("ZSCORE", context.keys.tenants, "acme")) == 20_001.0


async def test_a_clock_behind_takes_no_day_back(server, context, registry, clock):
    """The score is the last day, whoever says so."""
    server.execute("ZADD", context.keys.tenants, 20_009, "acme")
    await registry.note("acme")

    assert float(server.execute("ZSCORE", context.keys.tenants, "acme")) == 20_009.0


async def test_only_tenants_seen_lately_are_listed_on_request(
    server, context, registry
):
    """Today is 0 days ago."""
    for tenant, day in (("today", 20_000), ("yesterday", 19_999), ("old", 19_000)):
        server.execute("ZADD", context.keys.tenants, day, tenant)

    assert await listed(registry, 0) == ["today"]
    assert await listed(registry, 1) == ["today", "yesterday"]
    assert await listed(registry) == ["old", "today", "yesterday"]


async def test_many_tenants_are_listed_page_by_page(server, context, registry):
    """Each once."""
    pairs = [word for at in range(3_000) for word in (20_000, f"t{at}")]
    server.execute("ZADD", context.keys.tenants, *pairs)

    assert await listed(registry) == sorted(f"t{at}" for at in range(3_000))
    assert sent(server, "zscan") > 2


async def test_what_is_no_tenant_is_not_listed(server, context, registry):
    """Somebody else wrote it."""
    server.execute("ZADD", context.keys.tenants, 1, "a{b}", 1, b"\xff", 1, "acme")

    assert await listed(registry) == ["acme"]


@pytest.mark.parametrize("tenant", ["", "t*", "a{b", "a b", None])
async def test_a_hostile_tenant_is_refused(server, registry, tenant):
    """Before anything is sent."""
    with pytest.raises(InvalidTenantError):
        await registry.note(tenant)
    with pytest.raises(InvalidTenantError):
        await registry.note_type(tenant, "tool.updated")

    assert server.execute("DBSIZE") == 0


async def test_the_memory_of_notes_is_bounded(registry, monkeypatch):
    """The oldest note goes first."""
    monkeypatch.setattr(module, "MAX_NOTED", 3)
    for at in range(5):
        await registry.note(f"t{at}")

    assert [registry.is_noted(f"t{at}") for at in range(5)] == [0, 0, 1, 1, 1]


async def test_a_cancelled_note_is_taken_over(server, registry):
    """The others do not notice."""
    await registry.note("warm")
    async with asyncio.TaskGroup() as group:
        with server.paused():
            tasks = [group.create_task(registry.note("acme")) for _ in range(3)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            tasks[0].cancel()
            await asyncio.sleep(0)

    assert tasks[0].cancelled()
    assert registry.is_noted("acme")
    assert registry._flights == {}


async def test_a_note_that_fails_fails_for_all_and_is_tried_again(server):
    """Nobody waits for a second timeout; nothing is remembered."""
    async with store(server.client_kwargs, command_timeout=0.2) as context:
        registry = TenantRegistry(context)
        await registry.note("warm")
        with server.paused():
            errors = await all_of(registry.note("acme") for _ in range(3))

    assert all(isinstance(error, UnavailableError) for error in errors)
    assert len({id(error) for error in errors}) == 3
    assert not registry.is_noted("acme")
    assert registry._flights == {}


# --- types ------------------------------------------------------------------------


async def test_types_are_noted_with_their_tenant(server, registry):
    """Once each."""
    for _ in range(3):
        await registry.note_type("acme", "tool.updated")
        await registry.note_type("acme", "ünd {mehr}")

    assert await registry.types("acme") == {"tool.updated", "ünd {mehr}"}
    assert await registry.types("other") == frozenset()
    assert await listed(registry) == ["acme"]
    assert sent(server, "sadd") == 2


@pytest.mark.parametrize("event_type", ["", "\ud800", "x" * 600, None])
async def test_a_type_that_is_none_is_refused(server, registry, event_type):
    """Before anything is sent."""
    with pytest.raises(InvalidIdentifierError):
        await registry.note_type("acme", event_type)

    assert server.execute("DBSIZE") == 0


# --- removal ----------------------------------------------------------------------


async def test_a_removed_tenant_is_noted_again_when_it_writes(server, registry):
    """With its types."""
    await registry.note_type("acme", "tool.updated")
    await registry.remove("acme")
    assert await listed(registry) == []
    assert not registry.is_noted("acme")

    await registry.note_type("acme", "tool.updated")

    assert await listed(registry) == ["acme"]
    assert sent(server, "sadd") == 2
