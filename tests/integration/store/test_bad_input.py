"""What is refused, and that nothing of it reaches the server."""

import math

import pytest

from mcp_crew_redis import DataType
from mcp_crew_redis.errors import (
    CodecError,
    DataError,
    InvalidIdentifierError,
    InvalidTenantError,
    InvalidTtlError,
    ValueTooLargeError,
)
from mcp_crew_redis.settings import CrewSettings


@pytest.fixture
def settings(server):
    return CrewSettings(unix_socket=server.unix_socket, max_value_bytes=10_000)


@pytest.fixture
def sent(crew):
    """Commands that have left, on both lanes."""
    node = crew.redis.node
    return lambda: node.interactive.submitted + node.bulk.submitted


OWNED = [
    (DataType.EMBEDDING, "tenant.embeddings"),
    (DataType.SESSION, "tenant.sessions"),
    (DataType.RATE_LIMIT, "tenant.rate_limits"),
    (DataType.EVENT, "tenant.events"),
    (DataType.TASK, "tenant.tasks"),
]


def calls(tenant, data_type):
    return [
        tenant.set(data_type, "k", 1),
        tenant.get(data_type, "k"),
        tenant.get_entry(data_type, "k"),
        tenant.delete(data_type, "k"),
        tenant.exists(data_type, "k"),
        tenant.ttl(data_type, "k"),
        tenant.expire(data_type, "k", 60),
        tenant.get_many(data_type, ["k"]),
        tenant.set_many(data_type, {"k": 1}),
        tenant.delete_many(data_type, ["k"]),
        tenant.increment(data_type, "k"),
    ]


@pytest.mark.parametrize(("data_type", "owner"), OWNED)
async def test_types_of_other_modules_name_their_owner(acme, sent, data_type, owner):
    """Every operation refuses them, and says where to go."""
    before = sent()
    for call in calls(acme, data_type):
        with pytest.raises(DataError, match=owner):
            await call

    assert sent() == before


@pytest.mark.parametrize("data_type", ["nonsense", None, 7])
async def test_what_is_no_data_type_is_refused(acme, sent, data_type):
    """By name, by absence, by number."""
    before = sent()
    for call in calls(acme, data_type):
        with pytest.raises(DataError, match="not a DataType"):
            await call

    assert sent() == before


async def test_counters_are_no_values(acme, sent):
    """`set` and `get` on a counter would mix two kinds of things."""
    before = sent()
    counter = DataType.COUNTER
    for call in (
        acme.set(counter, "c", 1),
        acme.get(counter, "c"),
        acme.set_many(counter, {"c": 1}),
        acme.get_many(counter, ["c"]),
    ):
        with pytest.raises(DataError, match="increment"):
            await call
    with pytest.raises(DataError, match=r"DataType\.COUNTER"):
        await acme.increment(DataType.STATE, "c")

    assert sent() == before


@pytest.mark.parametrize(
    "ttl", [0, -1, 0.0001, math.nan, math.inf, 1e12, "60", True, 400 * 365 * 86_400]
)
async def test_times_to_live_outside_the_range_are_refused(acme, sent, ttl):
    """Zero, negative, centuries, not a number."""
    before = sent()
    for data_type in (DataType.STATE, DataType.CACHE):
        for call in (
            acme.set(data_type, "k", 1, ttl=ttl),
            acme.set_many(data_type, {"k": 1}, ttl=ttl),
            acme.expire(data_type, "k", ttl),
        ):
            with pytest.raises(InvalidTtlError):
                await call

    assert sent() == before


@pytest.mark.parametrize("kind", ["nonsense", "", 5, ["high"]])
@pytest.mark.parametrize("ttl", [None, 60])
async def test_unknown_kinds_are_refused(acme, sent, kind, ttl):
    """Also where a time to live would make them irrelevant."""
    before = sent()
    with pytest.raises(DataError):
        await acme.set(DataType.KNOWLEDGE, "k", 1, kind=kind, ttl=ttl)

    assert sent() == before


async def test_a_value_over_the_limit_is_refused(acme, sent):
    """The error says how large it was and what is allowed."""
    before = sent()
    with pytest.raises(ValueTooLargeError) as caught:
        await acme.set(DataType.STATE, "k", b"x" * 10_000)
    with pytest.raises(ValueTooLargeError):
        await acme.set_many(DataType.CACHE, {"k": b"x" * 10_000})

    assert caught.value.limit == 10_000
    assert caught.value.size > 10_000
    assert sent() == before


async def test_a_value_just_within_the_limit_is_stored(acme):
    """Header and length prefix included."""
    value = b"x" * (10_000 - 16 - 3)

    await acme.set(DataType.STATE, "k", value)

    assert await acme.get(DataType.STATE, "k") == value


async def test_what_cannot_be_encoded_is_refused(acme, sent):
    """The error says where it is, never what."""
    before = sent()
    with pytest.raises(CodecError) as caught:
        await acme.set(DataType.STATE, "k", {"secret": object()})

    assert "secret" not in str(caught.value) or "object" in str(caught.value)
    assert sent() == before


@pytest.mark.parametrize("identifier", ["", "x" * 513, "\ud800", None, 7, b"k"])
async def test_identifiers_outside_the_grammar_are_refused(acme, sent, identifier):
    """Empty, too long, not Unicode, not a string."""
    before = sent()
    for call in (
        acme.set(DataType.STATE, identifier, 1),
        acme.get(DataType.STATE, identifier),
        acme.delete(DataType.CACHE, identifier),
        acme.get_many(DataType.STATE, [identifier]),
        acme.increment(DataType.COUNTER, identifier),
    ):
        with pytest.raises(InvalidIdentifierError):
            await call

    assert sent() == before


@pytest.mark.parametrize("tenant_id", ["", "a*", "a b", "{a}", "a:b", None, "x" * 65])
async def test_tenant_ids_outside_the_grammar_are_refused(crew, sent, tenant_id):
    """By the crew's tenant() and by the manager alike."""
    before = sent()
    with pytest.raises(InvalidTenantError):
        crew.tenant(tenant_id)
    with pytest.raises(InvalidTenantError):
        await crew.manager.get(
            tenant_id=tenant_id, data_type=DataType.STATE, identifier="k"
        )

    assert sent() == before


async def test_the_codec_error_of_a_bad_read_holds_no_value(acme):
    """Errors end in logs."""
    await acme.set(DataType.STATE, "k", {"password": "hunter2"})

    with pytest.raises(CodecError) as caught:
        await acme.get(DataType.STATE, "k", into=list[int])

    assert "hunter2" not in str(caught.value)
