"""Tenants: each has a world of its own.

The tutorial's tier: one concept per test, the public API only, a real server.
"""

from __future__ import annotations

import pytest

from mcp_crew_redis import CrewRedis, DataType, InvalidTenantError


async def test_tenants_do_not_share_names(crew_redis: CrewRedis) -> None:
    """The same type and identifier of two tenants are two values."""
    acme, nova = crew_redis.tenant("acme"), crew_redis.tenant("nova")
    await acme.set(DataType.STATE, "run", "of acme")
    await acme.increment(DataType.COUNTER, "calls", 5)

    assert await nova.get(DataType.STATE, "run") is None
    assert await nova.increment(DataType.COUNTER, "calls") == 1

    await nova.set(DataType.STATE, "run", "of nova")
    assert await acme.get(DataType.STATE, "run") == "of acme"


async def test_a_scan_stays_with_its_tenant(crew_redis: CrewRedis) -> None:
    """No pattern reaches across, not even one that looks like another's key."""
    acme, nova = crew_redis.tenant("acme"), crew_redis.tenant("nova")
    await acme.set(DataType.STATE, "secret", 1)
    await nova.set(DataType.STATE, "own", 1)

    for match in ("*", "*secret*", "*}:*", "{acme}:*"):
        found = [name async for name in nova.scan(DataType.STATE, match)]
        assert found in (["own"], [])


@pytest.mark.parametrize("name", ["", "a b", "t*", "{acme}", "a:b", "-a", "x" * 65])
async def test_a_name_that_could_reach_another_is_refused(
    crew_redis: CrewRedis, name: str
) -> None:
    """Names are letters, digits and `_ . -` between them: nothing Redis reads."""
    with pytest.raises(InvalidTenantError):
        crew_redis.tenant(name)
    with pytest.raises(InvalidTenantError):
        await crew_redis.manager.get(
            tenant_id=name, data_type=DataType.STATE, identifier="x"
        )


async def test_the_same_names_make_the_same_key_everywhere(
    crew_redis: CrewRedis,
) -> None:
    """The key is documented: other programs may find it."""
    await crew_redis.tenant("acme").set(DataType.KNOWLEDGE, "topic:id123", "x")

    prefix = crew_redis.settings.prefix
    assert await crew_redis.redis.exists(f"{prefix}knowledge:{{acme}}:topic:id123")


async def test_usage_tells_what_a_tenant_takes(crew_redis: CrewRedis) -> None:
    """Keys and bytes by data type, of one tenant alone."""
    acme = crew_redis.tenant("acme")
    await acme.set_many(DataType.STATE, {"a": 1, "b": 2})
    await acme.set(DataType.CACHE, "c", "x" * 5_000)
    await crew_redis.tenant("nova").set(DataType.CACHE, "c", 1)

    usage = await acme.usage()

    assert usage.types["state"].keys == 2
    assert usage.types["cache"].keys == 1
    assert usage.types["cache"].bytes > 5_000
    assert usage.is_complete


async def test_purge_removes_one_tenant_and_nobody_else(
    crew_redis: CrewRedis,
) -> None:
    """Everything goes; the tenant may begin anew; others notice nothing."""
    acme, nova = crew_redis.tenant("acme"), crew_redis.tenant("nova")
    for tenant in (acme, nova):
        await tenant.set_many(DataType.STATE, {"a": 1, "b": 2})
        await tenant.increment(DataType.COUNTER, "calls")

    assert await acme.purge() >= 3

    assert await acme.get_many(DataType.STATE, ["a", "b"]) == {}
    assert await nova.get_many(DataType.STATE, ["a", "b"]) == {"a": 1, "b": 2}
    await acme.set(DataType.STATE, "a", "new")
    assert await acme.get(DataType.STATE, "a") == "new"
    assert await acme.increment(DataType.COUNTER, "calls") == 1
