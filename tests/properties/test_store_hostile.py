"""Hostile names through purges, scans, deletes and prefixes: nobody's keys are others'.

That no two of them meet is in test_store_isolation.py; here they are taken away again.
"""

from __future__ import annotations

from random import Random

import pytest
from redis.asyncio import Redis

from mcp_crew_redis import CrewRedis, CrewSettings, DataType
from mcp_crew_redis._wire.keys import KeySpace
from mcp_crew_redis._wire.ttl import is_permanent

TRIPLES = 5_000
SEED = 20_251_123
TYPES = [
    *(DataType.STATE, DataType.KNOWLEDGE, DataType.CONVERSATION),
    *(DataType.CACHE, DataType.TOOLS, DataType.COUNTER),
]
# Each is a beginning, an end or a look-alike of another, or of a part of a key.
TENANTS = [
    *("a", "aa", "A", "a.", "a-a", "a_a", "a.a", "0", "00", "a0", "floor", "meta"),
    *("state", "mcp-crew", "tenants", "types", "counter", "a" * 64, "a" * 63),
]
PIECES = [
    *"{}*?[]\\:/|% \n\r\0'\"^$-.~@+=é漢🙂",
    *(
        "%2A",
        "%",
        "}:",
        "{a}",
        ":{aa}:",
        "mcp-crew:",
        "floor",
        "..",
        "a",
        "[a-z]",
        "\\",
    ),
]
HARMLESS = [name for name in TENANTS if name[-1].isalnum()]


def triples():
    """Give 5,000 different ones."""
    random, found = Random(SEED), set()
    while len(found) < TRIPLES:
        name = "".join(random.choices(PIECES, k=random.randint(1, 6)))
        found.add((random.choice(HARMLESS), random.choice(TYPES), name))
    return sorted(found)


async def fill(crew, all_triples):
    """Store each under its name; a tenth is deleted again, and leaves tombstones."""
    for number, (tenant_id, data_type, name) in enumerate(all_triples):
        tenant = crew.tenant(tenant_id)
        if data_type is DataType.COUNTER:
            await tenant.increment(data_type, name, number + 1)
            continue
        await tenant.set(data_type, name, number)
        if number % 10 == 0:
            await tenant.delete(data_type, name)


async def everything(server):
    """Return every key with its bytes."""
    async with Redis(**server.client_kwargs) as client:
        keys = sorted(await client.keys("*"))
        pipeline = client.pipeline(transaction=False)
        for key in keys:
            pipeline.dump(key)
        return dict(zip(keys, await pipeline.execute(), strict=True))


def of_tenant(space, keys, tenant_id):
    """Return the keys that this tenant owns, by the parser."""
    parsed = {key: space.parse(key) for key in keys}
    return {key for key, it in parsed.items() if it and it.tenant == tenant_id}


@pytest.mark.timeout(180)
async def test_each_purge_takes_one_tenants_keys_and_no_byte_of_others(server):
    """One after the other, until only the permanent keys are left."""
    space = KeySpace()
    async with CrewRedis(CrewSettings(unix_socket=server.unix_socket)) as crew:
        await fill(crew, triples())
        left = await everything(server)
        assert all(
            server.execute("PTTL", key) > 0 or is_permanent(space, key) for key in left
        )
        for tenant_id in HARMLESS:
            own = of_tenant(space, left, tenant_id)
            assert await crew.tenant(tenant_id).purge() == len(own)
            after = await everything(server)
            floor = f"mcp-crew:meta:{{{tenant_id}}}:floor".encode()
            gone = own | {floor, space.tenants}
            assert {k: v for k, v in left.items() if k not in gone} == {
                k: v for k, v in after.items() if k not in gone
            }
            assert of_tenant(space, after, tenant_id) == {floor}
            left = after
    assert all(is_permanent(space, key) for key in left)


@pytest.mark.timeout(120)
async def test_globs_in_identifiers_delete_and_match_themselves_only(server):
    """A name that is a pattern is deleted as a name."""
    random = Random(SEED)
    names = {"".join(random.choices("*?[]ab\\^-", k=3)) for _ in range(400)}
    async with CrewRedis(CrewSettings(unix_socket=server.unix_socket)) as crew:
        tenant = crew.tenant("a")
        await tenant.set_many(DataType.STATE, dict.fromkeys(names, 1))
        doomed = set(random.sample(sorted(names), 100))
        assert await tenant.delete_many(DataType.STATE, doomed) == len(doomed)

        left = {name async for name in tenant.scan(DataType.STATE)}

    assert left == names - doomed


@pytest.mark.parametrize("inner", ["mcp-crew:sub:", "mcp-crew:state:", "m:mcp-crew:"])
async def test_prefixes_within_prefixes_do_not_meet(server, inner):
    """Two applications on one server, one prefix the beginning of the other."""
    outer_where = CrewSettings(unix_socket=server.unix_socket)
    inner_where = CrewSettings(unix_socket=server.unix_socket, prefix=inner)
    async with CrewRedis(outer_where) as outer, CrewRedis(inner_where) as within:
        for number, crew in enumerate((outer, within)):
            for name in ("k", "{a}", "state:{a}:k"):
                await crew.tenant("a").set(DataType.STATE, name, number)
                await crew.tenant("a").increment(DataType.COUNTER, name, number)
        before = await everything(server)

        assert await outer.tenant("a").purge() == 6

        assert (await within.tenant("a").usage()).keys == 6
        after = await everything(server)
        inner_keys = KeySpace(inner)
        kept = {k: v for k, v in before.items() if inner_keys.parse(k) is not None}
        assert len(kept) == 6
        assert {k: after.get(k) for k in kept} == kept
        assert await within.tenant("a").get(DataType.STATE, "k") == 1
