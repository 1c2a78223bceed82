"""Processes are killed in the middle of an outage: others bring in what they left."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mcp_crew_redis import CrewRedis, CrewSettings, DataType, WriteOutcome
from mcp_crew_redis.testing import FaultProxy
from tests.faults.outage_crews import Fleet, problems_on
from tests.faults.outage_power import PowerSupply
from tests.integration.core.bench import eventually
from tests.rig.waiting import wait_until

STATE, COUNTER = DataType.STATE, DataType.COUNTER
ONE_LOG = ("--auto-aof-rewrite-percentage", "0")


async def generation(fleet, socket, name, count=2):
    """Start processes, and return when they are at work."""
    for number in range(count):
        await fleet.start(f"{name}-{number}", socket)
    await fleet.ready()
    await fleet.called(5_000)


@pytest.mark.slow
@pytest.mark.parametrize("fsync", ["never", "interval", "always"])
async def test_what_killed_processes_had_accepted_is_brought_in_once(
    make_server, tmp_path, fsync, record_testsuite_property
):
    """Killed while they write, and so is one of their heirs; nobody else knows it."""
    server = make_server("valkey", "--appendfsync", "always")
    socket, journals = server.unix_socket, tmp_path / "journals"
    settings = {"journal_dir": str(journals), "journal_fsync": fsync}
    async with Fleet(tmp_path, **settings) as fleet:
        await generation(fleet, socket, "first")
        server.kill()
        await fleet.called()
        await fleet.kill("first-0")
        await fleet.kill("first-1")
        await generation(fleet, socket, "heir")  # without Redis from the beginning
        await fleet.kill("heir-0")
        server.start()
        await generation(fleet, socket, "last", count=1)
        await fleet.finish()

        history = fleet.history()
        problems = problems_on(server, history)
    statistics = [report.statistics for report in history.reports if report.statistics]
    told = f"{fsync}: {history.count('deferred')} deferred, {statistics[-1]['applied']}"
    record_testsuite_property("told", told)

    assert problems[:10] == []
    assert [(each["drained"], each["depth"]) for each in statistics] == [(True, 0)] * 2
    assert history.count("deferred") > 100
    assert list(journals.iterdir()) == [], "all was synchronised"


# --- purged tenants -------------------------------------------------------------------


@asynccontextmanager
async def crew_at(socket, **settings):
    """Give a crew at a socket, with a circuit that comes back soon."""
    settings |= {"unix_socket": Path(socket), "circuit_breaker_timeout": 0.1}
    async with CrewRedis(CrewSettings(**settings)) as crew:
        yield crew


async def back(crew):
    """Return once it reads from Redis again."""
    await eventually(lambda: crew.tenant("other").get(STATE, "x"), "it is back", 10)


async def write_all(acme):
    """Write something of each kind."""
    await acme.set(STATE, "x", "of old")
    await acme.set_many(STATE, {"y": 1, "z": 2})
    await acme.delete(STATE, "z")
    await acme.increment(COUNTER, "n", 5)


async def values_of(acme):
    """Return what can be read, when it can."""
    names = ["x", "y", "z"]
    return await eventually(lambda: acme.get_many(STATE, names), "it is back", 10)


def left_of(server, tenant):
    """Return what the server holds of a tenant besides its floor, and its note."""
    keys = {key.decode() for key in server.execute("KEYS", f"*{{{tenant}}}*")}
    is_noted = server.execute("ZSCORE", "mcp-crew:tenants", tenant) is not None
    return keys - {f"mcp-crew:meta:{{{tenant}}}:floor"}, is_noted


async def test_a_purged_tenant_comes_back_from_no_journal_and_no_window(make_server):
    """Not from a process that was cut off, nor on a server that is another one."""
    server = make_server("valkey", *ONE_LOG)
    async with (
        FaultProxy(server.unix_socket) as proxy,
        crew_at(proxy.unix_socket) as writer,
        crew_at(server.unix_socket) as purger,
    ):
        acme = writer.tenant("acme")
        await write_all(acme)
        proxy.refuse()
        proxy.cut()
        await write_all(acme)
        assert writer.journal.statistics().depth == 4
        assert await purger.tenant("acme").purge() > 0

        server.restart()
        await proxy.accept()
        await writer.journal.drained(10)
        await back(purger)

        assert writer.journal.statistics().purged == 4
        assert left_of(server, "acme") == (set(), False)
        assert await values_of(acme) == {}


async def test_what_is_written_after_a_purge_stands(make_server):
    """Through the same journal and the same restart."""
    server = make_server("valkey", *ONE_LOG)
    async with crew_at(server.unix_socket) as crew:
        acme = crew.tenant("acme")
        await write_all(acme)
        await acme.purge()
        await acme.set(STATE, "y", "new")
        server.kill()
        assert await acme.set(STATE, "x", "new") is WriteOutcome.DEFERRED
        assert await acme.increment(COUNTER, "n", 3) == 3

        server.start()
        await crew.journal.drained(10)

        assert await values_of(acme) == {"x": "new", "y": "new"}
        assert server.execute("HGET", "mcp-crew:counter:{acme}:n", "v") == b"3"
        assert left_of(server, "acme")[1]


async def test_a_power_cut_does_not_undo_a_purge(make_server):
    """The purge was acknowledged too; who purged puts it back, with its effect."""
    server = make_server("valkey", *ONE_LOG)
    async with (
        crew_at(server.unix_socket) as writer,
        crew_at(server.unix_socket) as purger,
        PowerSupply(server) as power,
    ):
        await write_all(writer.tenant("acme"))
        await power.saved()
        await purger.tenant("acme").purge()
        assert power.cut() > 0
        server.start()
        await back(writer)
        await back(purger)

        await wait_until(
            lambda: left_of(server, "acme") == (set(), False), "it is gone again", 3
        )


@pytest.mark.slow
async def test_an_heir_does_not_bring_back_a_purged_tenant(make_server, tmp_path):
    """Purged while the journal of a dead process held entries of it."""
    server = make_server("valkey", "--appendfsync", "always")
    settings = {"journal_dir": str(tmp_path / "journals")}
    async with (
        FaultProxy(server.unix_socket) as proxy,
        Fleet(tmp_path, **settings) as fleet,
    ):
        await fleet.start("dead", proxy.unix_socket)
        await fleet.ready()
        await fleet.called(5_000)
        proxy.refuse()
        proxy.cut()
        await fleet.called()
        await fleet.kill("dead")
        async with crew_at(server.unix_socket) as purger:
            await purger.tenant("t0").purge()
        server.restart()
        await proxy.accept()
        await fleet.start("heir", proxy.unix_socket, callers=0)
        await fleet.ready()
        await fleet.finish()

        history = fleet.history()
        problems = problems_on(server, history)
    heir = history.reports[-1].statistics
    assert heir["purged"] > 0
    assert left_of(server, "t0") == (set(), False)
    assert [each for each in problems if "('t0'" not in each] == []
