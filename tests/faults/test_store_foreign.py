"""What others may have put under our keys, and what callers may hand in by mistake."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_crew_redis import CrewRedis, CrewSettings, DataType
from mcp_crew_redis._wire.header import seal
from mcp_crew_redis.errors import CodecError, CrewRedisError, DataError, InvalidTtlError
from tests.integration.core.bench import outcome

STATE, CACHE, COUNTER = DataType.STATE, DataType.CACHE, DataType.COUNTER
KEY = "mcp-crew:state:{acme}:k"
WRITERS = ("set", "hset", "del", "unlink", "evalsha", "eval", "expire", "pexpire")


@pytest.fixture
async def crew(server):
    async with CrewRedis(CrewSettings(unix_socket=server.unix_socket)) as crew:
        yield crew


@pytest.fixture
def acme(crew):
    return crew.tenant("acme")


def calls_served(server):
    """Return how many commands of each name the server has executed."""
    stats = server.info("commandstats")
    ours = {f"cmdstat_{name}" for name in (*WRITERS, "get", "mget", "zadd", "time")}
    return {name: stats[name]["calls"] for name in ours & set(stats)}


# --- foreign types -----------------------------------------------------------------


def plant(server, kind, key=KEY):
    """Put a Redis type that is not ours under the key."""
    command = {
        "list": ("RPUSH", key, "x"),
        "hash": ("HSET", key, "field", "x"),
        "set": ("SADD", key, "x"),
        "zset": ("ZADD", key, "1", "x"),
        "stream": ("XADD", key, "*", "field", "x"),
    }[kind]
    server.execute(*command)
    server.execute("PEXPIRE", key, "60000")


ON_VALUES = {
    "get": lambda tenant: tenant.get(STATE, "k"),
    "get_entry": lambda tenant: tenant.get_entry(STATE, "k"),
    "get_many": lambda tenant: tenant.get_many(STATE, ["j", "k"]),
    "exists": lambda tenant: tenant.exists(STATE, "k"),
    "ttl": lambda tenant: tenant.ttl(STATE, "k"),
    "expire": lambda tenant: tenant.expire(STATE, "k", 50),
    "set": lambda tenant: tenant.set(STATE, "k", 1),
    "set_many": lambda tenant: tenant.set_many(STATE, {"j": 1, "k": 1}),
    "delete": lambda tenant: tenant.delete(STATE, "k"),
    "delete_many": lambda tenant: tenant.delete_many(STATE, ["j", "k"]),
}


@pytest.mark.parametrize("kind", ["list", "hash", "set", "zset", "stream"])
@pytest.mark.parametrize("operation", sorted(set(ON_VALUES) - {"get_many"}))
async def test_another_redis_type_is_a_data_error_to_all(acme, server, operation, kind):
    """Never an empty answer; and it is left as it was. Only MGET cannot tell."""
    plant(server, kind)
    before = server.execute("DUMP", KEY)

    with pytest.raises(DataError):
        await ON_VALUES[operation](acme)

    assert server.execute("DUMP", KEY) == before
    assert not await acme.exists(STATE, "j")


async def test_get_many_counts_another_redis_type_as_absent(acme, server):
    """One round trip: MGET answers nil for it, as the docstring says."""
    plant(server, "list")

    assert await acme.get_many(STATE, ["j", "k"]) == {}


async def test_a_value_where_a_counter_should_be_is_a_data_error(acme, server):
    """A string, a list, and a hash that is none of ours."""
    key = "mcp-crew:counter:{acme}:k"
    for kind in ("list", "set", "zset"):
        plant(server, kind, key)
        with pytest.raises(DataError):
            await acme.increment(COUNTER, "k")
        server.execute("DEL", key)
    server.execute("SET", key, "7", "PX", "60000")
    with pytest.raises(DataError):
        await acme.increment(COUNTER, "k")
    server.execute("DEL", key)
    server.execute("HSET", key, "v", "many")
    server.execute("PEXPIRE", key, "60000")
    with pytest.raises(DataError):
        await acme.increment(COUNTER, "k")


async def test_what_is_no_value_does_not_hide_the_others_of_a_batch(acme, server):
    """Their callers get an error, then, without the bad one, all of the good ones."""
    await acme.set_many(STATE, {"a": 1, "b": 2})
    server.execute("SET", KEY, "garbage", "PX", "60000")

    with pytest.raises(CodecError):
        await acme.get_many(STATE, ["a", "b", "k"])

    assert await acme.get_many(STATE, ["a", "b"]) == {"a": 1, "b": 2}


# --- foreign bytes -----------------------------------------------------------------

foreign = st.one_of(
    st.binary(max_size=64),
    st.binary(max_size=64).map(lambda data: b"\xc7" + data),
    st.binary(max_size=64).map(lambda data: b"\xc7\x10" + data),
    st.builds(
        seal, st.integers(0, 2**53 - 1), st.binary(max_size=64), st.integers(0, 2**47)
    ),
)


async def try_bytes(server, data):
    server.execute("FLUSHALL")
    async with CrewRedis(CrewSettings(unix_socket=server.unix_socket)) as crew:
        acme = crew.tenant("acme")
        server.execute("SET", KEY, data, "PX", "60000")
        for operation in ("get", "get_entry", "get_many", "exists", "ttl"):
            answer = await outcome(ON_VALUES[operation](acme))
            assert not isinstance(answer, Exception) or isinstance(answer, CodecError)
        for operation in ("expire", "set", "delete", "set_many"):
            answer = await outcome(ON_VALUES[operation](acme))
            assert not isinstance(answer, Exception) or isinstance(answer, DataError)


@pytest.mark.timeout(120)
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=foreign)
def test_any_bytes_under_a_key_are_typed_errors_at_most(server, data):
    """Whatever stands there: a value, absence, or an error that says why."""
    asyncio.run(try_bytes(server, data))


async def test_an_empty_string_is_the_same_to_every_read(acme, server):
    """Nothing of ours is empty: either all say absent, or all say foreign."""
    server.execute("SET", KEY, "", "PX", "60000")

    answers = [
        isinstance(await outcome(ON_VALUES[operation](acme)), CodecError)
        for operation in ("get", "get_entry", "get_many", "exists", "ttl")
    ]

    assert len(set(answers)) == 1


# --- mistakes of callers -----------------------------------------------------------

MISTAKES = {
    "set in a set": lambda tenant: tenant.set(STATE, "k", {1: object()}),
    "generator": lambda tenant: tenant.set(STATE, "k", (n for n in range(3))),
    "surrogate": lambda tenant: tenant.set(STATE, "k", "\ud800"),
    "itself": lambda tenant: tenant.set(STATE, "k", endless()),
    "list as type": lambda tenant: tenant.get([], "k"),
    "list as type of set": lambda tenant: tenant.set([], "k", 1),
    "list as type of delete": lambda tenant: tenant.delete([], "k"),
    "list as type of exists": lambda tenant: tenant.exists({}, "k"),
    "list as type of counter": lambda tenant: tenant.increment([], "k"),
    "list as type of many": lambda tenant: tenant.delete_many([], ["k"]),
    "list as identifier": lambda tenant: tenant.get(STATE, ["k"]),
    "lists as identifiers": lambda tenant: tenant.get_many(STATE, [["k"]]),
    "lists to delete": lambda tenant: tenant.delete_many(STATE, [["k"]]),
    "one str": lambda tenant: tenant.get_many(STATE, "k"),
    "bytes as item": lambda tenant: tenant.set_many(STATE, {b"k": 1}),
    "half an amount": lambda tenant: tenant.increment(COUNTER, "k", 0.5),
    "a true amount": lambda tenant: tenant.increment(COUNTER, "k", True),
    "too large an amount": lambda tenant: tenant.increment(COUNTER, "k", 2**63),
    "a counter for ever": lambda tenant: tenant.increment(
        COUNTER, "k", 1, ttl=math.inf
    ),
    "a cache of owned": lambda tenant: tenant.set(DataType.SESSION, "k", 1),
    "bad among good": lambda tenant: tenant.set_many(
        STATE, {"a": 1, "b": object(), "c": 2}
    ),
    "long among good": lambda tenant: tenant.get_many(STATE, ["a", "x" * 600]),
    "kind of another type": lambda tenant: tenant.set(STATE, "k", 1, kind="mongodb"),
    "NaN": lambda tenant: tenant.expire(CACHE, "k", math.nan),
    "a century": lambda tenant: tenant.set(CACHE, "k", 1, ttl=100 * 365 * 86_400),
    "a huge int": lambda tenant: tenant.set(CACHE, "k", 1, ttl=10**400),
}


def endless():
    value: list[object] = []
    value.append(value)
    return value


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_a_mistake_is_a_typed_error_and_nothing_was_sent(acme, server, mistake):
    """By the server's own books."""
    before = calls_served(server)

    async def make():
        return await MISTAKES[mistake](acme)

    assert isinstance(await outcome(make()), CrewRedisError)
    assert calls_served(server) == before
    assert server.execute("DBSIZE") == 0


@pytest.mark.parametrize("ttl", [0, -1, math.nan, math.inf, 1e12, "5", None])
async def test_expire_takes_no_odd_times(acme, ttl):
    """A value that is asked to live for None does not live for ever."""
    await acme.set(STATE, "k", 1)

    with pytest.raises(InvalidTtlError):
        await acme.expire(STATE, "k", ttl)

    assert 0 < await acme.ttl(STATE, "k") < 10**8


@pytest.mark.parametrize("into", [5, "int", object(), [int], lambda value: value])
async def test_what_is_no_type_to_validate_with_is_a_codec_error(acme, into):
    """The value is there and stays."""
    await acme.set(STATE, "k", {"a": 1})

    for call in (
        acme.get(STATE, "k", into=into),
        acme.get_entry(STATE, "k", into=into),
        acme.get_many(STATE, ["k"], into=into),
    ):
        assert isinstance(await outcome(call), CodecError)


@pytest.mark.timeout(60)
async def test_many_thousands_at_once(acme, server):
    """Far above every chunk; each comes back, and one delete takes them all."""
    items = {f"n{number}": number for number in range(20_000)}

    await acme.set_many(STATE, items)
    assert await acme.get_many(STATE, items) == items
    assert await acme.delete_many(STATE, items) == len(items)
    assert await acme.get_many(STATE, items) == {}

    await acme.set_many(CACHE, items)
    assert await acme.get_many(CACHE, [*items, "none"]) == items
    assert await acme.delete_many(CACHE, items) == len(items)
