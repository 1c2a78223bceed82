"""Outages: what a crew goes on doing while Redis is away, and what becomes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mcp_crew_redis import (
    CrewRedis,
    CrewSettings,
    DataType,
    DeleteOutcome,
    Tenant,
    UnavailableError,
    WriteOutcome,
)
from mcp_crew_redis._wire.header import unseal
from tests.rig.servers import RealServer

STATE = DataType.STATE


@pytest.fixture
async def crew(own_server: RealServer) -> AsyncIterator[CrewRedis]:
    """A crew whose server may be killed."""
    settings = CrewSettings(
        unix_socket=Path(own_server.unix_socket), circuit_breaker_timeout=0.3
    )
    async with CrewRedis(settings) as crew:
        yield crew


@pytest.fixture
def acme(crew: CrewRedis) -> Tenant:
    """A tenant of it."""
    return crew.tenant("acme")


def stands(server: RealServer, name: str) -> bytes | None:
    """What the server holds under a name, payload only."""
    data = server.execute("GET", f"mcp-crew:state:{{acme}}:{name}")
    return None if data is None else bytes(unseal(data).payload)


async def test_a_write_without_redis_is_deferred_and_then_stored(
    crew: CrewRedis, acme: Tenant, own_server: RealServer
) -> None:
    """It returns at once, says where it is, and arrives by itself."""
    own_server.kill()

    assert await acme.set(STATE, "x", "offline") is WriteOutcome.DEFERRED
    assert crew.journal.statistics().depth == 1

    own_server.start()
    await crew.journal.drained(10)
    assert stands(own_server, "x") == b"\xa7offline"


async def test_what_was_deferred_is_read_from_the_journal(
    acme: Tenant, own_server: RealServer
) -> None:
    """Whoever wrote it reads it, and can see that it is not Redis who says so."""
    own_server.kill()
    await acme.set(STATE, "x", 1)

    assert await acme.get(STATE, "x") == 1
    entry = await acme.get_entry(STATE, "x")
    assert entry is not None
    assert (entry.source, entry.is_stale) == ("journal", True)
    assert await acme.exists(STATE, "x")
    assert 0 < (await acme.ttl(STATE, "x") or 0) <= 86_400 * 1.05


async def test_what_was_not_written_here_cannot_be_read(
    acme: Tenant, own_server: RealServer
) -> None:
    """Nobody knows what stands in Redis: that is an error and no miss."""
    await acme.set(STATE, "x", 1)
    own_server.kill()

    with pytest.raises(UnavailableError):
        await acme.get(STATE, "x")


async def test_a_delete_without_redis_hides_the_value_and_arrives_later(
    crew: CrewRedis, acme: Tenant, own_server: RealServer
) -> None:
    """Gone at once for its own process, for all others when Redis is back."""
    await acme.set(STATE, "x", 1)
    own_server.kill()

    assert await acme.delete(STATE, "x") is DeleteOutcome.DEFERRED
    assert await acme.get(STATE, "x") is None

    own_server.start()
    await crew.journal.drained(10)
    data = own_server.execute("GET", "mcp-crew:state:{acme}:x")
    assert unseal(data).is_tombstone


async def test_the_last_of_many_deferred_writes_is_the_one_that_arrives(
    crew: CrewRedis, acme: Tenant, own_server: RealServer
) -> None:
    """One entry per key, however often it is written."""
    own_server.kill()
    for number in range(100):
        await acme.set(STATE, "x", number)

    told = crew.journal.statistics()
    assert (told.depth, told.accepted) == (1, 100)

    own_server.start()
    await crew.journal.drained(10)
    assert stands(own_server, "x") == b"c"
    assert crew.journal.statistics().applied == 1


async def test_increments_without_redis_are_added_once(
    crew: CrewRedis, acme: Tenant, own_server: RealServer
) -> None:
    """The answer is what is believed: the last value seen and what waits."""
    counter = DataType.COUNTER
    assert await acme.increment(counter, "calls", 5) == 5
    own_server.kill()

    assert [await acme.increment(counter, "calls") for _ in range(3)] == [6, 7, 8]
    entry = await acme.get_entry(counter, "calls")
    assert entry is not None
    assert (entry.value, entry.is_stale) == (8, True)

    own_server.start()
    await crew.journal.drained(10)
    # The server had kept nothing; what it had acknowledged was put back too.
    assert own_server.execute("HGET", "mcp-crew:counter:{acme}:calls", "v") == b"8"


async def test_many_at_once_are_deferred_together(
    crew: CrewRedis, acme: Tenant, own_server: RealServer
) -> None:
    """Writes, deletes and reads by the dozen."""
    own_server.kill()
    items = {f"n{number}": number for number in range(20)}

    assert await acme.set_many(STATE, items) is WriteOutcome.DEFERRED
    assert await acme.delete_many(STATE, ["n0", "n1"]) == 2
    left = {name: value for name, value in items.items() if value > 1}
    assert await acme.get_many(STATE, items) == left

    own_server.start()
    await crew.journal.drained(10)
    assert {name: stands(own_server, name) for name in ("n1", "n2")} == {
        "n1": b"",
        "n2": b"\x02",
    }


async def test_health_tells_what_waits_and_stays_ready(
    crew: CrewRedis, acme: Tenant, own_server: RealServer
) -> None:
    """Degraded is no reason to send work elsewhere: nobody else has a Redis either."""
    own_server.kill()
    await acme.set(STATE, "x", 1)

    report = await crew.health()

    journal = next(each for each in report.components if each.name == "journal")
    assert (report.is_live, report.is_ready, report.is_degraded) == (True, True, True)
    assert (journal.state, journal.detail["depth"]) == ("waiting", 1)
    assert any(reason.startswith("redis: ") for reason in report.reasons)

    own_server.start()
    await crew.journal.drained(10)
    journal = next(
        each for each in (await crew.health()).components if each.name == "journal"
    )
    assert (journal.state, journal.reason) == ("empty", None)
