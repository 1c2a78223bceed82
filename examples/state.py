"""What the manager does, one act after the other. Run it: python examples/state.py.

# Output:
stored; read back as Trip(city='Porto', days=3)
tools of mongodb live for about 8 hours, those of any other server for 4
none there: None; a stored None: None; with a default: 'nothing kept'
what there is of three: ['plan', 'prices']
identifiers: ['plan', 'prices', 'trip']
0 s old, read from redis, stale: False
deleted, then absent
40 calls counted at once; the counter stands at 40
refused before anything was sent: CodecError
knowledge: 1 key, state: 2 keys, tools: 2 keys
"""

from dataclasses import dataclass

import anyio

from mcp_crew_redis import CodecError, CrewRedis, DataType, Tenant


@dataclass(frozen=True)
class Trip:
    """What an agent plans."""

    city: str
    days: int


async def one_value(tenant: Tenant) -> None:
    """Store a value and read it as the type that it is."""
    outcome = await tenant.set(DataType.STATE, "trip", Trip("Porto", 3))
    trip = await tenant.get(DataType.STATE, "trip", into=Trip)
    print(f"{outcome}; read back as {trip}")


async def times_to_live(tenant: Tenant) -> None:
    """Let the kind choose how long a value lives; `ttl=` in seconds would win."""
    await tenant.set(DataType.TOOLS, "mongodb", ["find"], kind="mongodb")
    await tenant.set(DataType.TOOLS, "weather", ["forecast"], kind="weather")
    mongodb = await tenant.ttl(DataType.TOOLS, "mongodb") or 0
    weather = await tenant.ttl(DataType.TOOLS, "weather") or 0
    print(
        f"tools of mongodb live for about {mongodb / 3600:.0f} hours, "
        f"those of any other server for {weather / 3600:.0f}"
    )


async def nothing_there(tenant: Tenant) -> None:
    """Tell a value that is None from one that is not there."""
    await tenant.set(DataType.KNOWLEDGE, "empty", None, kind="product")
    none_there = await tenant.get(DataType.KNOWLEDGE, "missing")
    stored_none = await tenant.get(DataType.KNOWLEDGE, "empty")
    default = await tenant.get(DataType.KNOWLEDGE, "missing", default="nothing kept")
    print(
        f"none there: {none_there}; a stored None: {stored_none}; "
        f"with a default: {default!r}"
    )


async def many_values(tenant: Tenant) -> None:
    """Write many and read many, each in one round trip."""
    await tenant.set_many(DataType.STATE, {"plan": ["fly", "walk"], "prices": [90, 0]})
    found = await tenant.get_many(DataType.STATE, ["plan", "prices", "hotel"])
    print("what there is of three:", sorted(found))
    identifiers = [name async for name in tenant.scan(DataType.STATE)]
    print("identifiers:", sorted(identifiers))


async def about_a_value(tenant: Tenant) -> None:
    """Ask how old a value is and where it was read; then delete it."""
    entry = await tenant.get_entry(DataType.STATE, "trip", into=Trip)
    assert entry is not None
    print(f"{entry.age:.0f} s old, read from {entry.source}, stale: {entry.is_stale}")
    first = await tenant.delete(DataType.STATE, "trip")
    second = await tenant.delete(DataType.STATE, "trip")
    print(f"{first}, then {second}")


async def counting(tenant: Tenant) -> None:
    """Count from many callers at once: exact, and one round trip for all of them."""
    async with anyio.create_task_group() as agents:
        for _ in range(40):
            agents.start_soon(tenant.increment, DataType.COUNTER, "calls")
    count = await tenant.increment(DataType.COUNTER, "calls", 0)
    print("40 calls counted at once; the counter stands at", count)
    await tenant.delete(DataType.COUNTER, "calls")


async def mistakes(tenant: Tenant) -> None:
    """What cannot be stored is refused before anything is sent."""
    try:
        await tenant.set(DataType.STATE, "trip", object())
    except CodecError as error:
        print("refused before anything was sent:", type(error).__name__)


async def what_it_takes(tenant: Tenant) -> None:
    """Count a tenant's keys; bytes and tombstones are told too."""
    usage = await tenant.usage()
    counts = {name: usage.types[name].keys for name in ("knowledge", "state", "tools")}
    told = (
        f"{name}: {count} key{'s' * (count != 1)}" for name, count in counts.items()
    )
    print(", ".join(told))


async def main() -> None:
    """Play every act for one tenant of an embedded server."""
    acts = (
        one_value,
        times_to_live,
        nothing_there,
        many_values,
        about_a_value,
        counting,
        mistakes,
        what_it_takes,
    )
    async with CrewRedis.embedded() as crew:
        tenant = crew.tenant("acme")
        for act in acts:
            await act(tenant)


if __name__ == "__main__":
    anyio.run(main)
