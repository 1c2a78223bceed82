"""State: typed values that expire, and what is told of them.

The tutorial's tier: one concept per test, the public API only, a real server.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import BaseModel

from mcp_crew_redis import (
    CodecError,
    CrewRedis,
    CrewSettings,
    DataError,
    DataType,
    DeleteOutcome,
    EmbeddedServer,
    Importance,
    InvalidTtlError,
    KnowledgeType,
    Tenant,
    UnavailableError,
    ValueTooLargeError,
    WriteOutcome,
)
from mcp_crew_redis.testing import FaultProxy
from tests.rig.servers import RealServer
from tests.rig.waiting import wait_until

HOUR, DAY = 3_600.0, 86_400.0


@pytest.fixture
def acme(crew_redis: CrewRedis) -> Tenant:
    return crew_redis.tenant("acme")


# --- values -------------------------------------------------------------------
async def test_a_value_comes_back_as_it_was(acme: Tenant) -> None:
    """Containers, times, decimals, bytes and sets keep their types."""
    value = {
        "goal": "plan the trip",
        "budget": Decimal("99.90"),
        "seen": {1, 2},
        "at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "raw": b"\x00\xff",
        "path": ("a", "b"),
    }

    outcome = await acme.set(DataType.STATE, "run:42", value)

    assert outcome is WriteOutcome.STORED
    assert await acme.get(DataType.STATE, "run:42") == value


async def test_the_manager_takes_the_tenant_as_an_argument(
    crew_redis: CrewRedis, acme: Tenant
) -> None:
    """A `Tenant` is the same with the first argument filled in."""
    await crew_redis.manager.set(
        tenant_id="acme", data_type=DataType.STATE, identifier="x", value=1
    )

    assert await acme.get(DataType.STATE, "x") == 1


async def test_types_have_their_own_names(acme: Tenant) -> None:
    """The same identifier under two data types is two values."""
    await acme.set(DataType.STATE, "x", "state")
    await acme.set(DataType.CACHE, "x", "cache")

    assert await acme.get(DataType.STATE, "x") == "state"
    assert await acme.get(DataType.CACHE, "x") == "cache"


async def test_an_identifier_may_be_any_text(acme: Tenant) -> None:
    """What Redis or a pattern would take for syntax is only text."""
    for identifier in ("a b", "{other}:x", "*", "ção", "a\nb"):
        await acme.set(DataType.CACHE, identifier, identifier)

    names = [name async for name in acme.scan(DataType.CACHE)]
    assert sorted(names) == sorted(("a b", "{other}:x", "*", "ção", "a\nb"))


# --- typed reads --------------------------------------------------------------
@dataclass(frozen=True)
class Trip:
    city: str
    days: int


class Plan(BaseModel):
    goal: str
    steps: list[str]


async def test_into_gives_back_a_dataclass_or_a_model(acme: Tenant) -> None:
    """What is stored is plain data; `into` says what it is read as."""
    await acme.set(DataType.STATE, "trip", Trip("Porto", 3))
    await acme.set(DataType.STATE, "plan", Plan(goal="go", steps=["pack"]))

    assert await acme.get(DataType.STATE, "trip", into=Trip) == Trip("Porto", 3)
    plan = await acme.get(DataType.STATE, "plan", into=Plan)
    assert plan is not None
    assert plan.steps == ["pack"]
    assert await acme.get(DataType.STATE, "trip") == {"city": "Porto", "days": 3}


async def test_what_does_not_match_into_is_an_error(acme: Tenant) -> None:
    """A value of another shape is refused; the error does not repeat it."""
    await acme.set(DataType.STATE, "trip", {"city": "secret", "days": "many"})

    with pytest.raises(CodecError) as caught:
        await acme.get(DataType.STATE, "trip", into=Trip)

    assert "secret" not in str(caught.value)


# --- absence ------------------------------------------------------------------
async def test_nothing_there_is_the_default(acme: Tenant) -> None:
    """None, unless the caller names another default."""
    assert await acme.get(DataType.STATE, "missing") is None
    assert await acme.get(DataType.STATE, "missing", default="none kept") == "none kept"
    assert not await acme.exists(DataType.STATE, "missing")


async def test_a_stored_none_is_not_absence(acme: Tenant) -> None:
    """None is a value: `default`, `exists` and `get_entry` tell it from nothing."""
    await acme.set(DataType.STATE, "empty", None)

    assert await acme.get(DataType.STATE, "empty", default="none kept") is None
    assert await acme.exists(DataType.STATE, "empty")
    assert await acme.get_entry(DataType.STATE, "empty") is not None
    assert await acme.get_entry(DataType.STATE, "missing") is None


async def test_an_entry_tells_age_and_order(acme: Tenant) -> None:
    """`get_entry` says where a value was read and what it is newer than."""
    await acme.set(DataType.STATE, "x", "old")
    old = await acme.get_entry(DataType.STATE, "x", into=str)
    await acme.set(DataType.STATE, "x", "new")
    new = await acme.get_entry(DataType.STATE, "x", into=str)

    assert old is not None
    assert new is not None
    assert (new.value, new.source, new.is_stale) == ("new", "redis", False)
    assert new.stamp > old.stamp
    assert 0 <= new.age < 10


# --- kinds and times to live --------------------------------------------------
@pytest.mark.parametrize(
    ("data_type", "kind", "seconds"),
    [
        (DataType.TOOLS, "mongodb", 8 * HOUR),
        (DataType.TOOLS, "chatwoot", 2 * HOUR),
        (DataType.TOOLS, "any other server", 4 * HOUR),
        (DataType.CONVERSATION, Importance.HIGH, 7 * DAY),
        (DataType.CONVERSATION, "low", 1 * DAY),
        (DataType.KNOWLEDGE, KnowledgeType.PRODUCT, 30 * DAY),
        (DataType.KNOWLEDGE, None, 7 * DAY),
        (DataType.STATE, None, 1 * DAY),
        (DataType.CACHE, None, 1 * HOUR),
    ],
)
async def test_the_kind_says_how_long_a_value_lives(
    acme: Tenant, data_type: DataType, kind: str | None, seconds: float
) -> None:
    """Every value expires; 5 % either way keeps what was written together apart."""
    await acme.set(data_type, "x", 1, kind=kind)

    assert await acme.ttl(data_type, "x") == pytest.approx(seconds, rel=0.06)


async def test_an_explicit_ttl_wins(acme: Tenant) -> None:
    """It is taken as it is, in seconds, and can be changed later."""
    await acme.set(DataType.KNOWLEDGE, "x", 1, kind="product", ttl=90)
    assert await acme.ttl(DataType.KNOWLEDGE, "x") == pytest.approx(90, abs=5)

    assert await acme.expire(DataType.KNOWLEDGE, "x", 600)
    assert await acme.ttl(DataType.KNOWLEDGE, "x") == pytest.approx(600, abs=5)

    assert not await acme.expire(DataType.KNOWLEDGE, "missing", 600)
    assert await acme.ttl(DataType.KNOWLEDGE, "missing") is None


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), 1e12])
async def test_a_ttl_that_cannot_be_is_refused(acme: Tenant, ttl: float) -> None:
    """Before anything is sent: what stood still stands."""
    await acme.set(DataType.STATE, "x", "old")

    with pytest.raises(InvalidTtlError):
        await acme.set(DataType.STATE, "x", "new", ttl=ttl)

    assert await acme.get(DataType.STATE, "x") == "old"


async def test_an_unknown_kind_is_refused(acme: Tenant) -> None:
    """A misspelt kind is an error; only TOOLS has a row for every other name."""
    with pytest.raises(DataError):
        await acme.set(DataType.CONVERSATION, "x", 1, kind="hihg")


# --- deletes and tombstones ---------------------------------------------------
async def test_a_delete_says_whether_there_was_something(acme: Tenant) -> None:
    """Deleted, then absent; what is deleted may be written again."""
    await acme.set(DataType.STATE, "x", 1)

    assert await acme.delete(DataType.STATE, "x") is DeleteOutcome.DELETED
    assert await acme.delete(DataType.STATE, "x") is DeleteOutcome.ABSENT
    assert await acme.get(DataType.STATE, "x") is None

    await acme.set(DataType.STATE, "x", 2)
    assert await acme.get(DataType.STATE, "x") == 2


async def test_a_deleted_value_leaves_a_tombstone(acme: Tenant) -> None:
    """It keeps the place in the order; every question treats it as nothing."""
    await acme.set(DataType.STATE, "x", 1)
    await acme.delete(DataType.STATE, "x")

    assert (await acme.usage()).types["state"].tombstones == 1
    assert not await acme.exists(DataType.STATE, "x")
    assert await acme.ttl(DataType.STATE, "x") is None
    assert await acme.get_many(DataType.STATE, ["x"]) == {}
    assert [name async for name in acme.scan(DataType.STATE)] == []


async def test_a_late_write_does_not_undo_a_delete(own_server: RealServer) -> None:
    """A write that is held up on its way loses to the delete that came after it."""
    here = CrewRedis(CrewSettings(unix_socket=Path(own_server.unix_socket)))
    async with FaultProxy(own_server.unix_socket) as proxy, here:
        settings = CrewSettings(unix_socket=Path(proxy.unix_socket), command_timeout=1)
        async with CrewRedis(settings) as there:
            slow, quick = there.tenant("acme"), here.tenant("acme")
            await slow.set(DataType.STATE, "x", "first")

            proxy.requests.stall()
            outcome = await slow.set(DataType.STATE, "x", "late")
            assert outcome is WriteOutcome.DEFERRED
            await quick.delete(DataType.STATE, "x")
            proxy.requests.release()
            await wait_until(lambda: proxy.requests.held_count == 0, "it has arrived")

            await there.journal.drained(5)
            assert await quick.get(DataType.STATE, "x") is None


# --- many at once -------------------------------------------------------------
async def test_many_values_take_one_round_trip(acme: Tenant) -> None:
    """Writes, reads and deletes by the dozen; what is missing is left out."""
    items = {f"step:{number}": number for number in range(100)}

    assert await acme.set_many(DataType.STATE, items) is WriteOutcome.STORED
    assert await acme.get_many(DataType.STATE, [*items, "missing"]) == items
    assert await acme.delete_many(DataType.STATE, [*items, "missing"]) == 100


async def test_a_batch_is_checked_before_the_first_is_sent(acme: Tenant) -> None:
    """One that cannot be stored keeps all of them from being sent."""
    with pytest.raises(CodecError):
        await acme.set_many(DataType.STATE, {"good": 1, "bad": object()})

    assert not await acme.exists(DataType.STATE, "good")


async def test_scan_finds_by_pattern(acme: Tenant) -> None:
    """`match` is a glob over identifiers."""
    await acme.set_many(DataType.STATE, {"run:1": 1, "run:2": 2, "plan": 3})

    found = [name async for name in acme.scan(DataType.STATE, "run:*")]

    assert sorted(found) == ["run:1", "run:2"]


# --- what is refused, and what an outage is -----------------------------------
async def test_types_of_other_modules_are_refused(acme: Tenant) -> None:
    """The error names who writes and reads them."""
    with pytest.raises(DataError, match=r"tenant\.sessions"):
        await acme.set(DataType.SESSION, "x", 1)


async def test_a_value_too_large_is_refused_before_it_is_sent(
    crew_redis_server: EmbeddedServer,
) -> None:
    """The limit is a setting; the error has both sizes."""
    settings = CrewSettings(
        unix_socket=Path(crew_redis_server.unix_socket), max_value_bytes=1_000
    )
    async with CrewRedis(settings) as crew:
        with pytest.raises(ValueTooLargeError):
            await crew.tenant("acme").set(DataType.STATE, "x", "y" * 1_000)


@pytest.fixture
async def doomed(own_server: RealServer) -> AsyncIterator[Tenant]:
    settings = CrewSettings(
        unix_socket=Path(own_server.unix_socket), command_timeout=0.5
    )
    async with CrewRedis(settings) as crew:
        yield crew.tenant("acme")


async def test_an_outage_is_an_error_and_never_a_miss(
    doomed: Tenant, own_server: RealServer
) -> None:
    """Nothing there and nobody there are different answers."""
    await doomed.set(DataType.STATE, "x", 1)
    own_server.kill()

    with pytest.raises(UnavailableError):
        await doomed.get(DataType.STATE, "x", default="nothing kept")
    with pytest.raises(UnavailableError):
        await doomed.exists(DataType.STATE, "x")
