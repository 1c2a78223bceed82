"""What type checkers make of tenants: checked by mypy and pyright, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import assert_type

from mcp_crew_redis import (
    CrewRedis,
    DataType,
    DeleteOutcome,
    Entry,
    RedisManager,
    Tenant,
    WriteOutcome,
    redis_manager,
)


class Product:
    """A type of the user's own."""


async def of_a_tenant(crew: CrewRedis) -> None:
    """Values come back as the type that was asked for."""
    acme = crew.tenant("acme")
    assert_type(acme, Tenant)
    assert_type(acme.id, str)
    assert_type(await acme.set(DataType.STATE, "k", 1, ttl=60.0), WriteOutcome)
    assert_type(await acme.get(DataType.STATE, "k"), object)
    assert_type(await acme.get(DataType.STATE, "k", into=Product), Product | None)
    assert_type(await acme.get(DataType.STATE, "k", into=list[int]), list[int] | None)
    assert_type(await acme.get(DataType.STATE, "k", into=int, default=0), int)
    assert_type(await acme.get(DataType.STATE, "k", into=int, default="x"), int | str)
    entry = await acme.get_entry(DataType.STATE, "k", into=Product)
    assert_type(entry, Entry[Product] | None)
    assert_type(await acme.get_entry(DataType.STATE, "k"), Entry[object] | None)
    assert_type(await acme.delete(DataType.STATE, "k"), DeleteOutcome)
    assert_type(await acme.exists(DataType.STATE, "k"), bool)
    assert_type(await acme.ttl(DataType.STATE, "k"), float | None)
    assert_type(await acme.expire(DataType.STATE, "k", 60), bool)
    assert_type(await acme.get_many(DataType.STATE, ["k"]), dict[str, object])
    assert_type(await acme.get_many(DataType.STATE, ["k"], into=int), dict[str, int])
    assert_type(await acme.set_many(DataType.STATE, {"k": 1}), WriteOutcome)
    assert_type(await acme.delete_many(DataType.STATE, ["k"]), int)
    assert_type(await acme.increment(DataType.COUNTER, "k"), int)
    assert_type(acme.scan(DataType.STATE), AsyncIterator[str])
    assert_type(await acme.purge(), int)


async def of_a_manager(crew: CrewRedis) -> None:
    """The same through the original names."""
    manager = crew.manager
    assert_type(manager, RedisManager)
    stored = await redis_manager.set(
        tenant_id="account123",
        data_type=DataType.KNOWLEDGE,
        identifier="topic:id123",
        value={"a": 1},
        ttl=86400,
    )
    assert_type(stored, WriteOutcome)
    found = await manager.get(
        tenant_id="account123",
        data_type=DataType.KNOWLEDGE,
        identifier="topic:id123",
        into=Product,
    )
    assert_type(found, Product | None)
    untyped = await manager.get(
        tenant_id="account123", data_type=DataType.KNOWLEDGE, identifier="topic:id123"
    )
    assert_type(untyped, object)


async def refused(tenant: Tenant) -> None:
    """What would be a mistake at run time is one here."""
    await tenant.set("state", "k", 1)  # type: ignore[arg-type]  # not a DataType
    await tenant.get(DataType.STATE, "k", 5)  # type: ignore[call-overload]  # keyword only
    tenant.id = "other"  # type: ignore[misc]  # frozen
