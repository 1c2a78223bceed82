"""5,000 hostile triples through a real server: none collide, cross or stay."""

from random import Random

import pytest

from mcp_crew_redis import CrewRedis, CrewSettings, DataType
from mcp_crew_redis._wire.keys import KeySpace
from mcp_crew_redis.errors import InvalidIdentifierError, InvalidTenantError

TRIPLES = 5_000
TYPES = [
    DataType.STATE,
    DataType.KNOWLEDGE,
    DataType.CONVERSATION,
    DataType.CACHE,
    DataType.TOOLS,
]
PIECES = [
    *"{}*?[]\\:/|%. \t\n\r\0'\"#&$^~@+=-_aAzZ09é漢🙂",
    *("%41", "%", "..", "}:", "{a}", ":{b}:", "mcp-crew:", "*", "GET", "\r\nDEL", "a"),
]
HOSTILE_TENANTS = ("t*", "{a}", "a}b", "a:b", "a/b", "", " a", "a\n", "-a", "a" * 65)


def tenant_ids(random):
    """Names that look like parts of each other, and of keys."""
    letters = "abAB01._-"
    while True:
        size = random.randint(1, 5)
        name = "".join(random.choice(letters) for _ in range(size))
        if name[0].isalnum() and name[-1].isalnum():
            yield name


@pytest.mark.timeout(120)
async def test_hostile_names_neither_meet_nor_cross(server):
    """Each triple reads back its own value, and nobody else's."""
    random = Random(20_250_801)
    tenants = tenant_ids(random)
    expected = {}
    while len(expected) < TRIPLES:
        identifier = "".join(random.choice(PIECES) for _ in range(random.randint(1, 6)))
        triple = (next(tenants), random.choice(TYPES), identifier)
        expected[triple] = len(expected)

    async with CrewRedis(CrewSettings(unix_socket=server.unix_socket)) as crew:
        for (tenant_id, data_type, identifier), value in expected.items():
            await crew.tenant(tenant_id).set(data_type, identifier, value)
        for (tenant_id, data_type, identifier), value in expected.items():
            found = await crew.tenant(tenant_id).get(data_type, identifier)
            assert found == value, (tenant_id, data_type, identifier)
        await check_scans(crew, expected, random)

    check_keys(server, expected)


async def check_scans(crew, expected, random):
    """What a tenant lists is its own, all of it, and nothing else."""
    for tenant_id, data_type, _ in random.sample(sorted(expected), 40):
        own = {
            identifier
            for owner, kind, identifier in expected
            if (owner, kind) == (tenant_id, data_type)
        }
        listed = [name async for name in crew.tenant(tenant_id).scan(data_type)]
        assert sorted(listed) == sorted(own)


def check_keys(server, expected):
    """One key for each triple; each says whose it is, and expires."""
    space = KeySpace()
    keys = [key for key in server.execute("KEYS", "*") if key != space.tenants]
    owners = {
        (parsed.tenant, parsed.namespace, parsed.identifier)
        for parsed in map(space.parse, keys)
    }
    assert len(keys) == len(expected)
    assert owners == {(tenant, kind.value, name) for tenant, kind, name in expected}
    assert all(server.execute("PTTL", key) > 0 for key in random_some(keys))


def random_some(keys):
    """The leak guard looks at every key; here a few are enough."""
    return Random(1).sample(keys, 100)


@pytest.mark.parametrize("tenant_id", HOSTILE_TENANTS)
async def test_hostile_tenants_are_refused(server, tenant_id):
    """Never repaired: two names must not become one."""
    async with CrewRedis(CrewSettings(unix_socket=server.unix_socket)) as crew:
        with pytest.raises(InvalidTenantError):
            crew.tenant(tenant_id)


async def test_what_cannot_be_encoded_is_refused(server):
    """A lone surrogate has no bytes."""
    async with CrewRedis(CrewSettings(unix_socket=server.unix_socket)) as crew:
        with pytest.raises(InvalidIdentifierError):
            await crew.tenant("a").set(DataType.STATE, "\udc80", 1)
