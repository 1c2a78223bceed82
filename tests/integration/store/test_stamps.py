"""The clock behind the stamps: measured by the first write, again when old."""

import asyncio

import pytest
import structlog

from mcp_crew_redis import DataType
from mcp_crew_redis._wire.header import seal
from mcp_crew_redis.store.stamps import MAX_AGE
from tests.rig.waiting import wait_until

STATE = DataType.STATE


@pytest.fixture
def stamps(crew):
    return crew._state.store.context.stamps


def measurements(server):
    stats = server.info("commandstats").get("cmdstat_time")
    return int(stats["calls"]) if stats else 0


@pytest.fixture
def measured(server):
    before = measurements(server)
    return lambda: measurements(server) - before


def make_old(stamps):
    stamps._due = stamps._monotonic()


async def test_reads_measure_nothing(acme, measured):
    """Only who writes needs the time."""
    await acme.get(STATE, "k")
    await acme.exists(STATE, "k")

    assert measured() == 0


async def test_a_hundred_first_writers_share_one_measurement(acme, measured):
    """They wait for it together."""
    async with asyncio.TaskGroup() as group:
        for n in range(100):
            group.create_task(acme.set(STATE, f"k{n}", n))

    assert measured() == 1


async def test_a_cancelled_first_writer_leaves_the_measurement_to_the_next(
    acme, measured
):
    """Nobody waits for somebody who has gone."""
    async with asyncio.TaskGroup() as group:
        first = group.create_task(acme.set(STATE, "a", 1))
        second = group.create_task(acme.set(STATE, "b", 2))
        await asyncio.sleep(0)
        first.cancel()

    assert second.done()
    assert await acme.get(STATE, "b") == 2
    assert measured() <= 2


async def test_an_old_measurement_is_renewed_beside_the_write(acme, stamps, measured):
    """Once, although many writers find it old."""
    await acme.set(STATE, "k", 0)
    make_old(stamps)

    async with asyncio.TaskGroup() as group:
        for n in range(50):
            group.create_task(acme.set(STATE, f"k{n}", n))
    await wait_until(lambda: measured() == 2, "the clock is measured again")
    await acme.set(STATE, "k", 1)

    assert measured() == 2
    assert stamps._due > stamps._monotonic() + MAX_AGE - 5


async def test_a_new_connection_is_measured_anew(crew, acme, stamps, measured):
    """It may lead to another server with another clock."""
    await acme.set(STATE, "k", 0)
    crew.redis.node.interactive.end("test")
    await acme.get(STATE, "k")

    await acme.set(STATE, "k", 1)

    await wait_until(lambda: measured() == 2, "the clock is measured again")


async def test_a_clock_follows_the_server_and_not_the_machine(acme, server, stamps):
    """The wall clock here may be hours off."""
    stamps.hybrid._offset_us -= 3_600_000_000

    await acme.set(STATE, "k", 1)

    entry = await acme.get_entry(STATE, "k")
    seconds = int(server.execute("TIME")[0])
    assert abs(entry.stamp / 1e6 - seconds) < 5


async def test_a_stamp_too_far_ahead_is_logged_without_a_flood(acme, server):
    """The first, the second, the fourth: a thousand reads are ten lines."""
    await acme.set(STATE, "k", 1)
    seconds = int(server.execute("TIME")[0])
    future = seal((seconds + 3_600) * 1_000_000, b"\x01")
    server.execute("SET", "mcp-crew:state:{acme}:k", future, "PX", 60_000)

    with structlog.testing.capture_logs() as logs:
        for _ in range(1_000):
            await acme.get(STATE, "k")

    lines = [line for line in logs if line["event"] == "stamps.lead_ignored"]
    assert 5 <= len(lines) <= 10
    assert lines[0]["lead_us"] > 3_000_000_000


async def test_the_tenant_is_noted_before_its_first_write(acme, globex, server):
    """Whoever lists tenants finds it."""
    await acme.get(STATE, "k")
    assert server.execute("ZCARD", "mcp-crew:tenants") == 0

    await acme.set(STATE, "k", 1)
    await globex.delete(STATE, "k")

    noted = server.execute("ZRANGE", "mcp-crew:tenants", 0, -1)
    assert sorted(noted) == [b"acme", b"globex"]


async def test_a_purged_tenant_is_noted_again(acme, server):
    """Its next write brings it back into the registry."""
    await acme.set(STATE, "k", 1)
    await acme.purge()
    assert server.execute("ZCARD", "mcp-crew:tenants") == 0

    await acme.set(STATE, "k", 1)

    assert server.execute("ZCARD", "mcp-crew:tenants") == 1
