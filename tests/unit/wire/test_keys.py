"""Rules of keys: format, spreading, parsing, slots."""

from __future__ import annotations

import pytest

from mcp_crew_redis._wire.keys import (
    KeySpace,
    MetaKey,
    ParsedKey,
    TenantKeys,
    cluster_slot,
    hash_tag,
)
from mcp_crew_redis.errors import (
    ConfigurationError,
    DataError,
    InvalidIdentifierError,
    InvalidTenantError,
)
from mcp_crew_redis.types import DataType


@pytest.fixture
def space():
    return KeySpace()


@pytest.fixture
def keys(space):
    return space.tenant("account123")


def _crc16_bit_by_bit(data):
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc


def test_key_has_the_documented_format(keys):
    """Prefix, namespace, tenant as hash tag, identifier."""
    key = keys.key(DataType.KNOWLEDGE, "topic:id123")

    assert key == b"mcp-crew:knowledge:{account123}:topic:id123"


def test_embeddings_are_spread_over_sixteen_slots(keys):
    """Bulk keys carry one of 16 shards in the tag, and use all of them."""
    tags = {hash_tag(keys.key(DataType.EMBEDDING, f"doc-{n}")) for n in range(500)}

    assert tags == {f"account123/{n}".encode() for n in range(16)}


def test_all_other_keys_of_a_tenant_share_one_slot(keys):
    """So that one script may touch several of them."""
    types = [kind for kind in DataType if kind is not DataType.EMBEDDING]
    slots = {
        cluster_slot(keys.key(kind, f"id-{n}")) for n in range(20) for kind in types
    }

    assert {cluster_slot(keys.meta(MetaKey.FLOOR))} == slots


def test_what_is_kept_about_tenants_has_fixed_keys(space, keys):
    """The registry belongs to nobody, the floor and the event types to the tenant."""
    assert space.tenants == b"mcp-crew:tenants"
    assert keys.meta(MetaKey.FLOOR) == b"mcp-crew:meta:{account123}:floor"
    assert keys.meta(MetaKey.TYPES) == b"mcp-crew:meta:{account123}:types"


def test_parse_inverts_build(space, keys):
    """A key gives back what it was built of."""
    assert space.parse(keys.key("knowledge", "ação: 1")) == ParsedKey(
        "knowledge", "account123", None, "ação: 1"
    )
    spread = space.parse(keys.key("embedding", "ab"))
    assert spread is not None
    assert spread.shard in range(16)
    assert spread.identifier == "ab"


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"mcp-crew:",
        b"mcp-crew:tenants",
        b"other:knowledge:{a}:x",
        b"mcp-crew:knowledge:{a}:",
        b"mcp-crew:knowledge:{a}x",
        b"mcp-crew:knowledge:{}:x",
        b"mcp-crew:knowledge:{a*}:x",
        b"mcp-crew:knowledge:{a/3}:x",
        b"mcp-crew:embedding:{a}:x",
        b"mcp-crew:embedding:{a/16}:x",
        b"mcp-crew:embedding:{a/03}:x",
        b"mcp-crew:Knowledge:{a}:x",
        b"mcp-crew:tasks:{queue}:x",
        b"mcp-crew:tasks:{queue/0}:l:acme:1",
        b"mcp-crew:knowledge:{a}:%41",
        b"mcp-crew:knowledge:{a}:x\n",
        b"mcp-crew:knowledge:{a}:\xff",
        b"mcp-crew:knowledge:{a}:" + b"x" * 513,
    ],
)
def test_foreign_key_parses_to_none(space, key):
    """What the key space cannot have built is nobody's."""
    assert space.parse(key) is None


def test_wrong_shard_parses_to_none(space, keys):
    """A key sits in the shard of its identifier, or it is not ours."""
    key = keys.key("embedding", "ab")
    own = hash_tag(key).rpartition(b"/")[2]
    others = {key.replace(b"/" + own, b"/%d" % n) for n in range(16)} - {key}

    assert [space.parse(other) for other in others] == [None] * 15


@pytest.mark.parametrize(
    "namespace", ["", "Knowledge", "a:b", "a}", "1a", "a" * 33, "tasks"]
)
def test_namespace_outside_the_grammar_is_refused(keys, namespace):
    """A namespace cannot reach into the hash tag either."""
    with pytest.raises(DataError):
        keys.key(namespace, "x")
    with pytest.raises(DataError):
        keys.pattern(namespace)


@pytest.mark.parametrize("identifier", ["", "\ud800", "x" * 513, None, 5, b"x", []])
@pytest.mark.parametrize("namespace", ["state", "embedding"])
def test_bad_identifier_is_refused_on_every_path(keys, namespace, identifier):
    """First use of a namespace, later use and spread keys refuse alike."""
    for _ in range(2):
        with pytest.raises(InvalidIdentifierError):
            keys.key(namespace, identifier)
        keys.key(namespace, "fine")


@pytest.mark.parametrize("tenant_id", ["t*", "a}", "", None, 3, ["x"], "a/3"])
def test_bad_tenant_has_no_keys(space, tenant_id):
    """Neither through the space nor past it."""
    with pytest.raises(InvalidTenantError):
        space.tenant(tenant_id)
    with pytest.raises(InvalidTenantError):
        TenantKeys("mcp-crew:", tenant_id)


@pytest.mark.parametrize(
    "prefix",
    ["", ":", "mcp-crew", "a{b}:", "a*:", "a b:", "a" * 64 + ":", "é:", "a:\n"],
)
def test_bad_prefix_names_the_setting(prefix):
    """A brace would move the hash tag; without a colon two prefixes could meet."""
    with pytest.raises(ConfigurationError, match="REDIS_CREW_PREFIX"):
        KeySpace(prefix)


def test_prefix_is_part_of_every_key():
    """Another prefix is another world."""
    space = KeySpace("app:v2:")
    key = space.tenant("a").key("state", "x")

    assert key == b"app:v2:state:{a}:x"
    assert space.parse(key) == ParsedKey("state", "a", None, "x")
    assert KeySpace("app:").parse(key) is None
    assert space.tenants == b"app:v2:tenants"
    assert space.namespace_prefix("event") == b"app:v2:event:"


def test_pattern_stays_within_tenant_and_namespace(keys):
    """Whatever the caller matches, the head of the pattern is literal."""
    assert keys.pattern("state") == b"mcp-crew:state:{account123}:*"
    assert keys.pattern("state", "}:*") == b"mcp-crew:state:{account123}:%7D:*"
    assert keys.pattern("embedding") == b"mcp-crew:embedding:{account123/*}:*"


def test_remembered_tenants_are_bounded(space):
    """The oldest is forgotten; its keys are the same when it returns."""
    before = space.tenant("t0").key("state", "x")

    for n in range(5_000):
        space.tenant(f"t{n}")

    assert len(space._tenants) == 4_096
    assert space.tenant("t0").key("state", "x") == before


def test_tenant_keys_are_remembered(space):
    """Asking again costs a look-up, not a validation."""
    assert space.tenant("a") is space.tenant("a")


@pytest.mark.parametrize(
    ("key", "tag"),
    [
        (b"a{b}c", b"b"),
        (b"a{}c", b"a{}c"),
        (b"a{b", b"a{b"),
        (b"}{x}{y}", b"x"),
        (b"{{x}}", b"{x"),
        (b"plain", b"plain"),
    ],
)
def test_hash_tag_follows_the_cluster_rule(key, tag):
    """Between the first brace and the next closing one, unless empty."""
    assert tag == hash_tag(key)


def test_slot_is_the_crc16_of_the_cluster_specification():
    """The specification's check value, and a second implementation bit by bit."""
    assert cluster_slot(b"123456789") == 0x31C3 % 16_384
    for key in (b"", b"a", b"\xff\x00", b"foo{account123}bar"):
        assert cluster_slot(key) == _crc16_bit_by_bit(hash_tag(key)) % 16_384
