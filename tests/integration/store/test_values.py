"""One value at a time, on every server."""

from dataclasses import dataclass

import pytest
from pydantic import BaseModel

from mcp_crew_redis import DataType, DeleteOutcome, WriteOutcome
from mcp_crew_redis._wire.header import seal, unseal
from mcp_crew_redis.errors import CodecError, DataError

pytestmark = pytest.mark.every_server

BOTH = pytest.mark.parametrize("kind", [DataType.KNOWLEDGE, DataType.CACHE])
KEY = "mcp-crew:knowledge:{acme}:topic:id123"


class Product(BaseModel):
    name: str
    price: float


@dataclass
class Point:
    x: int
    y: int


@BOTH
async def test_what_is_set_is_what_is_got(acme, kind):
    """A value comes back equal, whatever its type's class."""
    value = {"name": "lamp", "tags": ["a", "b"], "price": 2.5}

    assert await acme.set(kind, "topic:id123", value) is WriteOutcome.STORED

    assert await acme.get(kind, "topic:id123") == value


async def test_the_manager_takes_the_original_names(crew, acme):
    """The original team's call, awaited."""
    outcome = await crew.manager.set(
        tenant_id="acme",
        data_type=DataType.KNOWLEDGE,
        identifier="topic:id123",
        value={"a": 1},
        ttl=86_400,
    )
    names = {
        "tenant_id": "acme",
        "data_type": DataType.KNOWLEDGE,
        "identifier": "topic:id123",
    }

    assert outcome is WriteOutcome.STORED
    assert await crew.manager.get(**names) == {"a": 1}
    assert await crew.manager.exists(**names)
    assert 86_399 < await crew.manager.ttl(**names) <= 86_400
    assert (await crew.manager.get_entry(**names)).source == "redis"
    assert await crew.manager.expire(**names, ttl=5)
    assert await crew.manager.delete(**names) is DeleteOutcome.DELETED
    assert await crew.manager.get(**names, default="none") == "none"


async def test_a_value_stands_under_the_documented_key(acme, server):
    """Prefix, namespace, tenant as hash tag, identifier."""
    await acme.set(DataType.KNOWLEDGE, "topic:id123", 1)

    assert unseal(server.execute("GET", KEY)).payload == b"\x01"


@pytest.mark.parametrize(
    ("into", "value"),
    [(Product, Product(name="lamp", price=2.5)), (Point, Point(1, 2)), (set, {1, 2})],
)
async def test_a_value_comes_back_as_the_type_asked_for(acme, into, value):
    """Models, dataclasses and builtins are validated."""
    await acme.set(DataType.STATE, "k", value)

    assert await acme.get(DataType.STATE, "k", into=into) == value


async def test_a_value_of_another_shape_is_an_error(acme):
    """What does not fit `into` is never returned."""
    await acme.set(DataType.STATE, "k", {"name": "lamp"})

    with pytest.raises(CodecError, match="Product"):
        await acme.get(DataType.STATE, "k", into=Product)


@BOTH
async def test_none_is_a_value_and_absence_is_not(acme, kind):
    """`default` and `get_entry` tell them apart."""
    await acme.set(kind, "null", None)

    assert await acme.get(kind, "null", default="absent") is None
    assert await acme.get(kind, "nothing", default="absent") == "absent"
    assert (await acme.get_entry(kind, "null")).value is None
    assert await acme.get_entry(kind, "nothing") is None


@BOTH
async def test_an_entry_tells_age_stamp_and_expiry(acme, kind):
    """By the server's clock."""
    await acme.set(kind, "k", 1, ttl=100)

    entry = await acme.get_entry(kind, "k", into=int)

    assert entry.value == 1
    assert 0 <= entry.age < 5
    assert not entry.is_stale
    assert entry.expires_at == pytest.approx(entry.stamp / 1e6 + 100, abs=0.01)


@BOTH
async def test_a_deleted_value_is_absent_everywhere(acme, kind):
    """A tombstone is nothing to those who read."""
    await acme.set(kind, "k", 1)

    assert await acme.delete(kind, "k") is DeleteOutcome.DELETED

    assert await acme.get(kind, "k") is None
    assert await acme.get_entry(kind, "k") is None
    assert not await acme.exists(kind, "k")
    assert await acme.ttl(kind, "k") is None
    assert not await acme.expire(kind, "k", 60)
    assert await acme.get_many(kind, ["k"]) == {}
    assert await acme.delete(kind, "k") is DeleteOutcome.ABSENT


@BOTH
async def test_a_deleted_value_can_be_set_again(acme, kind):
    """A newer write replaces its tombstone."""
    await acme.set(kind, "k", 1)
    await acme.delete(kind, "k")
    await acme.set(kind, "k", 2)

    assert await acme.get(kind, "k") == 2


async def test_a_tombstone_lives_as_long_as_the_setting_says(acme, server):
    """A day, unless set otherwise; the delete of nothing leaves one too."""
    await acme.delete(DataType.KNOWLEDGE, "topic:id123")

    assert 86_390_000 < server.execute("PTTL", KEY) <= 86_400_000


@BOTH
async def test_expire_changes_header_and_key_together(acme, server, kind):
    """`ttl` and the entry agree afterwards, and the value is untouched."""
    await acme.set(kind, "k", {"a": 1}, ttl=100)

    assert await acme.expire(kind, "k", 500)

    entry = await acme.get_entry(kind, "k")
    assert 499 < await acme.ttl(kind, "k") <= 500
    assert entry.value == {"a": 1}
    assert entry.expires_at == pytest.approx(entry.stamp / 1e6 + 500, abs=0.01)


@pytest.mark.parametrize(
    ("data_type", "kind", "hours"),
    [
        (DataType.TOOLS, "mongodb", 8),
        (DataType.TOOLS, "chatwoot", 2),
        (DataType.TOOLS, None, 4),
        (DataType.CONVERSATION, "high", 7 * 24),
        (DataType.KNOWLEDGE, "product", 30 * 24),
        (DataType.KNOWLEDGE, None, 7 * 24),
        (DataType.CACHE, None, 1),
        (DataType.STATE, None, 24),
    ],
)
async def test_the_kind_chooses_the_time_to_live(acme, data_type, kind, hours):
    """The original team's rows, spread by five percent either way."""
    await acme.set(data_type, "k", 1, kind=kind)

    assert await acme.ttl(data_type, "k") == pytest.approx(hours * 3_600, rel=0.051)


async def test_an_explicit_time_to_live_is_taken_as_it_is(acme):
    """It wins over the kind's."""
    await acme.set(DataType.KNOWLEDGE, "k", 1, ttl=60, kind="product")

    assert 59 < await acme.ttl(DataType.KNOWLEDGE, "k") <= 60


async def test_redis_alone_says_whether_a_value_is_over(acme, server):
    """A header's expiry is its writer's clock, which may have been behind."""
    await acme.set(DataType.KNOWLEDGE, "topic:id123", 1)
    stamp = unseal(server.execute("GET", KEY)).stamp
    server.execute("SET", KEY, seal(stamp, b"\x01", stamp // 1_000 - 1), "PX", 60_000)

    assert await acme.get(DataType.KNOWLEDGE, "topic:id123") == 1
    assert await acme.exists(DataType.KNOWLEDGE, "topic:id123")
    assert 59 < await acme.ttl(DataType.KNOWLEDGE, "topic:id123") <= 60
    assert await acme.expire(DataType.KNOWLEDGE, "topic:id123", 60)
    assert await acme.delete(DataType.KNOWLEDGE, "topic:id123") is DeleteOutcome.DELETED


@pytest.mark.parametrize("value", [b"x" * 40_000, b"x" * 3_000_000])
async def test_large_values_are_values(acme, value):
    """They take the other lane; nobody sees a difference."""
    await acme.set(DataType.STATE, "k", value)
    await acme.expire(DataType.STATE, "k", 60)

    assert await acme.get(DataType.STATE, "k", into=bytes) == value


# --- foreign bytes ----------------------------------------------------------------
@pytest.mark.parametrize(
    ("foreign", "match"),
    [
        (b"short", "not a value of this layer"),
        (b"a plain value of sixteen or more", "magic byte"),
        (b"\xc7\x20" + bytes(20), "newer release"),
        (b"\xc7\x14" + bytes(20), "newer release"),
        (seal(5, b"\xc1"), "not an encoded value"),
    ],
)
async def test_bytes_that_are_not_ours_are_typed_errors(acme, server, foreign, match):
    """Whoever put them there."""
    server.execute("SET", KEY, foreign, "EX", 60)

    with pytest.raises(CodecError, match=match):
        await acme.get(DataType.KNOWLEDGE, "topic:id123")
    with pytest.raises(CodecError, match=match):
        await acme.get_many(DataType.KNOWLEDGE, ["topic:id123"])


async def test_foreign_bytes_are_given_no_time_to_live(acme, server):
    """A header written into them would destroy them."""
    server.execute("SET", KEY, b"a plain value of sixteen or more", "EX", 60)

    with pytest.raises(CodecError):
        await acme.expire(DataType.KNOWLEDGE, "topic:id123", 60)


async def test_a_newer_format_is_not_written_over(acme, server):
    """This release does not know what it would destroy."""
    future = b"\xc7\x20" + bytes(20)
    server.execute("SET", KEY, future, "EX", 60)

    for call in (
        acme.set(DataType.KNOWLEDGE, "topic:id123", 1),
        acme.set_many(DataType.KNOWLEDGE, {"topic:id123": 1}),
        acme.delete(DataType.KNOWLEDGE, "topic:id123"),
        acme.expire(DataType.KNOWLEDGE, "topic:id123", 60),
    ):
        with pytest.raises(DataError, match="newer release"):
            await call

    assert server.execute("GET", KEY) == future


async def test_another_redis_type_under_the_key_is_a_data_error(acme, server):
    """A hash is no value."""
    server.execute("HSET", KEY, "f", "v")
    server.execute("EXPIRE", KEY, 60)

    for call in (
        acme.get(DataType.KNOWLEDGE, "topic:id123"),
        acme.set(DataType.KNOWLEDGE, "topic:id123", 1),
        acme.exists(DataType.KNOWLEDGE, "topic:id123"),
        acme.delete(DataType.KNOWLEDGE, "topic:id123"),
    ):
        with pytest.raises(DataError, match="another type"):
            await call


# --- counters ----------------------------------------------------------------------
async def test_a_counter_counts_and_is_kept_like_any_key(acme):
    """Its key exists, expires and can be deleted."""
    assert await acme.increment(DataType.COUNTER, "visits") == 1
    assert await acme.increment(DataType.COUNTER, "visits", 4, ttl=50) == 5

    assert await acme.exists(DataType.COUNTER, "visits")
    assert 49 < await acme.ttl(DataType.COUNTER, "visits") <= 50
    assert await acme.expire(DataType.COUNTER, "visits", 500)
    assert await acme.delete(DataType.COUNTER, "visits") is DeleteOutcome.DELETED
    assert await acme.ttl(DataType.COUNTER, "visits") is None
    assert await acme.delete_many(DataType.COUNTER, ["visits"]) == 0
