"""The bell on real servers: who is told what, and when."""

from __future__ import annotations

import asyncio
import re
import sys
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from mcp_crew_redis._core.bell import Bell, BellMode
from mcp_crew_redis.errors import ConfigurationError, LifecycleError
from mcp_crew_redis.lifecycle import Lifecycle
from tests.integration.core.belfry import PREFIX, Ear, put, ringing, running
from tests.integration.core.bench import wire
from tests.rig.waiting import wait_until

ACME = b"mcp-crew:knowledge:{acme}:"
OTHER = b"mcp-crew:knowledge:{other}:"


def bell_connections(server) -> int:
    """Return how many connections call themselves a bell."""
    listing = server.execute("CLIENT", "LIST")
    text = listing if isinstance(listing, str) else str(listing)
    return text.count("crew-bell")


# --- ringing ----------------------------------------------------------------------


@pytest.mark.every_server
async def test_change_by_another_client_rings(server):
    """SET, DEL and a stream that grows; a read does not ring."""
    async with ringing(server.client_kwargs) as (_, ear, _client):
        put(server, ACME + b"a")
        server.execute("XADD", ACME + b"s", "*", "f", "v")
        await ear.until_rung(ACME + b"a", ACME + b"s")
        ear.keys.clear()

        server.execute("GET", ACME + b"a")
        server.execute("DEL", ACME + b"s")
        await ear.until_rung(ACME + b"s")

        assert set(ear.keys) == {ACME + b"s"}


@pytest.mark.every_server
async def test_own_write_rings_too(server):
    """A process may have several caches of one key: nobody is left out."""
    async with ringing(server.client_kwargs) as (_, ear, client):
        await client.set(ACME + b"own", "1", px=60_000)
        await ear.until_rung(ACME + b"own")


@pytest.mark.every_server
async def test_expiry_rings(server):
    """A key that goes by itself has changed."""
    async with ringing(server.client_kwargs) as (_, ear, _client):
        server.execute("SET", ACME + b"short", "1", "PX", "20")
        await ear.until_rung(ACME + b"short")
        ear.keys.clear()
        await ear.until_rung(ACME + b"short")


@pytest.mark.every_server
async def test_flush_is_told_as_such(server):
    """Nothing is known of any key any more: not a list of keys."""
    async with ringing(server.client_kwargs) as (bell, ear, _client):
        server.execute("FLUSHALL")
        await ear.until("healthy", "flushed")
        server.execute("FLUSHDB")
        await ear.until("healthy", "flushed", "flushed")
        assert bell.statistics().flushes == 2


async def test_key_elsewhere_does_not_ring(server):
    """The server names only keys under the prefixes that were asked for."""
    async with ringing(server.client_kwargs) as (bell, ear, _client):
        put(server, "mcp-crew:state:{acme}:x")
        put(server, ACME + b"x")
        await ear.until_rung(ACME + b"x")
        assert bell.statistics().keys == 1


async def test_tenants_listener_hears_its_own_tenant_only(server):
    """Not a neighbour, and not one whose name begins alike."""
    async with ringing(server.client_kwargs, ACME) as (bell, acme, _client):
        every = Ear()
        bell.listen(PREFIX, every)
        names = [ACME + b"x", OTHER + b"x", b"mcp-crew:knowledge:{acme2}:x"]
        for name in names:
            put(server, name)
        await every.until_rung(*names)
        assert acme.keys == [ACME + b"x"]


async def test_thousand_tenants_share_one_connection_and_one_prefix(server):
    """Each hears its own key once."""
    async with wire(server.client_kwargs) as client, running(client) as bell:
        ears = [Ear() for _ in range(1000)]
        for number, ear in enumerate(ears):
            bell.listen(b"mcp-crew:knowledge:{t%d}:" % number, ear)
        await ears[-1].until("healthy")
        pipeline = client.pipeline(transaction=False)
        for number in range(1000):
            pipeline.set(f"mcp-crew:knowledge:{{t{number}}}:k", "1", px=60_000)
        await pipeline.execute()

        await wait_until(lambda: all(ear.keys for ear in ears), "everybody is rung")

        assert {len(ear.keys) for ear in ears} == {1}
        assert bell.statistics().prefixes == (PREFIX,)
        assert bell_connections(server) == 1


async def test_another_process_rings_within_moments(server):
    """A writer in a process of its own; the bar itself is in benchmarks/bell.py."""
    script = (
        "import redis, sys\n"
        "redis.Redis(unix_socket_path=sys.argv[1]).set(sys.argv[2], 'x', px=60000)\n"
    )
    async with ringing(server.client_kwargs) as (_, ear, _client):
        name = (ACME + b"far").decode()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, server.unix_socket, name
        )
        await ear.until_rung(ACME + b"far")
        await process.wait()


# --- listening at run time --------------------------------------------------------


@pytest.mark.every_server
async def test_prefix_added_while_running_rings(server):
    """The line is replaced, and nobody is told of a loss."""
    async with ringing(server.client_kwargs) as (bell, ear, _client):
        tools = Ear()
        bell.listen(b"mcp-crew:tools:", tools)
        await tools.until("healthy")
        put(server, "mcp-crew:tools:{acme}:t")
        put(server, ACME + b"k")

        await tools.until_rung(b"mcp-crew:tools:{acme}:t")
        await ear.until_rung(ACME + b"k")
        assert ear.told == ["healthy"]
        assert bell_connections(server) == 1


@pytest.mark.every_server
async def test_overlapping_prefixes_collapse_and_are_each_told(server):
    """The server refuses overlaps; a wider one that comes later takes over."""
    async with ringing(server.client_kwargs) as (bell, narrow, _client):
        wide = Ear()
        bell.listen(b"mcp-crew:", wide)
        await wide.until("healthy")
        put(server, ACME + b"k")

        await wide.until_rung(ACME + b"k")
        assert narrow.keys == wide.keys == [ACME + b"k"]
        assert bell.statistics().prefixes == (b"mcp-crew:",)
        assert narrow.told == ["healthy"]


async def test_no_change_is_missed_while_the_line_is_replaced(server):
    """Writes go on all the time; each rings at the one who was there before."""
    async with ringing(server.client_kwargs) as (bell, ear, client):
        written: list[bytes] = []

        async def write() -> None:
            while True:
                key = ACME + b"%d" % len(written)
                await client.set(key, "1", px=60_000)
                written.append(key)

        async with anyio.create_task_group() as group:
            group.start_soon(write)
            for number in range(20):
                other = Ear()
                bell.listen(b"mcp-crew:n%d:" % number, other)
                await other.until("healthy")
            group.cancel_scope.cancel()

        await ear.until_rung(*written)
        assert len(written) > 100
        assert ear.told == ["healthy"]
        assert bell.statistics().losses == 0


async def test_listener_that_comes_during_a_replacement_is_not_forgotten(server):
    """Covered by the line that goes, not by the one that comes: lost, then healthy."""
    async with ringing(server.client_kwargs) as (bell, ear, _client):
        tools = bell.listen(b"mcp-crew:tools:", Ear())
        await wait_until(lambda: tools.is_healthy, "both ring")
        tools.close()
        bell.listen(b"mcp-crew:state:", Ear())
        for _ in range(3):
            await asyncio.sleep(0)  # the dial for knowledge and state is under way
        again = Ear()
        bell.listen(b"mcp-crew:tools:", again)
        assert again.told == ["healthy"]
        await again.until("healthy", "lost", "healthy")
        put(server, "mcp-crew:tools:{acme}:t")
        await again.until_rung(b"mcp-crew:tools:{acme}:t")
        assert ear.told == ["healthy"]


async def test_prefix_nobody_listens_to_is_given_back(server):
    """With the next PING the server is asked for less."""
    async with ringing(server.client_kwargs, idle_ping=0.05) as (bell, ear, _client):
        other = bell.listen(b"mcp-crew:tools:", Ear())
        await wait_until(lambda: len(bell.statistics().prefixes) == 2, "both ring")
        other.close()
        await wait_until(lambda: bell.statistics().prefixes == (PREFIX,), "one rings")
        assert ear.told == ["healthy"]


async def test_closed_registration_is_told_nothing(server):
    """Also not of a loss."""
    async with ringing(server.client_kwargs) as (bell, ear, _client):
        closed = Ear()
        with bell.listen(PREFIX, closed) as registration:
            assert closed.told == ["healthy"]
        registration.close()
        put(server, ACME + b"k")
        await ear.until_rung(ACME + b"k")
        assert closed.keys == []
    assert closed.told == ["healthy"]
    assert ear.told == ["healthy", "lost"]


async def test_no_listener_no_connection(server):
    """The bell dials for its first listener and hangs up after its last."""
    async with (
        wire(server.client_kwargs, idle_ping=0.05) as client,
        running(client) as bell,
    ):
        assert bell_connections(server) == 0
        ear = Ear()
        with bell.listen(PREFIX, ear):
            await ear.until("healthy")
            assert bell_connections(server) == 1
        await wait_until(lambda: bell_connections(server) == 0, "it hangs up")
        again = Ear()
        bell.listen(PREFIX, again)
        await again.until("healthy")


async def test_listener_may_come_before_the_bell_runs(server):
    """Construction is inert; run() is ready when the listener is."""
    async with wire(server.client_kwargs) as client:
        bell, ear = Bell(client), Ear()
        bell.listen(PREFIX, ear)
        async with running(client, bell=bell):
            assert ear.told == ["healthy"]


async def test_listener_that_raises_harms_nobody(server):
    """It is counted; the others and the line go on."""

    class Broken(Ear):
        def on_keys(self, keys):
            raise ValueError(keys)

    async with ringing(server.client_kwargs) as (bell, ear, _client):
        broken = bell.listen(PREFIX, Broken())
        for number in range(3):
            put(server, ACME + b"%d" % number)
        await ear.until_rung(*(ACME + b"%d" % number for number in range(3)))
        assert bell.statistics().listener_failures >= 1
        broken.close()
        assert bell.statistics().listener_failures >= 1
        assert bell.is_healthy


async def test_listener_may_close_and_listen_while_it_is_told(server):
    """The bell does not trip over its own listeners."""

    class Restless(Ear):
        def on_keys(self, keys):
            super().on_keys(keys)
            registrations.pop().close()
            registrations.append(bell.listen(PREFIX, self))

    async with ringing(server.client_kwargs) as (bell, ear, _client):
        restless = Restless()
        registrations = [bell.listen(PREFIX, restless)]
        put(server, ACME + b"1")
        await ear.until_rung(ACME + b"1")
        put(server, ACME + b"2")
        await ear.until_rung(ACME + b"2")
        assert restless.keys == [ACME + b"1", ACME + b"2"]


@pytest.mark.parametrize("prefix", [b"", b"{acme}:", b"mcp-crew:knowledge:{ac"])
async def test_prefix_that_would_tell_too_much_is_refused(server, prefix):
    """Every key of the server, or those of tenants whose names begin alike."""
    async with wire(server.client_kwargs) as client:
        with pytest.raises(ConfigurationError):
            Bell(client).listen(prefix, Ear())


# --- one key ----------------------------------------------------------------------


async def test_one_key_can_be_waited_for(server):
    """Asked before it is looked at, so no change falls between."""
    async with ringing(server.client_kwargs) as (bell, _, _client):
        registration = bell.listen(PREFIX, Ear())
        rung = registration.rung(ACME + b"k")
        other = registration.rung(ACME + b"else")
        put(server, ACME + b"k")
        async with asyncio.timeout(2):
            assert await rung is True
        assert not other.done()
        server.execute("FLUSHALL")
        async with asyncio.timeout(2):
            assert await other is True


async def test_waiting_for_a_key_ends_when_the_bell_does(server):
    """False: look for yourself. A cancelled wait leaves nothing behind."""
    async with ringing(server.client_kwargs) as (bell, _, _client):
        registration = bell.listen(PREFIX, Ear())
        gone = registration.rung(ACME + b"gone")
        gone.cancel()
        rung = registration.rung(ACME + b"k")
        await asyncio.sleep(0)
        assert set(registration._awaited) == {ACME + b"k"}
    assert await rung is False
    assert await registration.rung(ACME + b"k") is False
    with pytest.raises(ConfigurationError):
        registration.rung(b"mcp-crew:tools:{acme}:k")
    registration.close()
    with pytest.raises(LifecycleError):
        registration.rung(ACME + b"k")


# --- the service ------------------------------------------------------------------


@pytest.mark.every_server
async def test_drained_bell_leaves_no_connection(server):
    """Its listeners are told of the loss: nothing is told from now on."""
    async with ringing(server.client_kwargs) as (bell, ear, client):
        assert bell_connections(server) == 1
        bell.drain()
        await ear.until("healthy", "lost")
        await wait_until(lambda: bell_connections(server) == 0, "it is gone")
        assert await client.ping() is True


async def test_bell_runs_in_a_lifecycle(server):
    """It is a service: started, shown, drained."""
    async with wire(server.client_kwargs) as client:
        bell, ear = Bell(client), Ear()
        bell.listen(PREFIX, ear)
        lifecycle = Lifecycle([bell], start_timeout=5.0, drain_timeout=5.0)
        async with lifecycle.running():
            assert ear.told == ["healthy"]
            assert [each.name for each in lifecycle.statuses()] == ["bell"]
        assert ear.told == ["healthy", "lost"]


async def test_bell_runs_again_after_a_drain(server):
    """And not twice at once."""
    async with wire(server.client_kwargs) as client:
        bell, ear = Bell(client), Ear()
        bell.listen(PREFIX, ear)
        async with running(client, bell=bell):
            with pytest.raises(LifecycleError):
                await bell.run(task_status=anyio.TASK_STATUS_IGNORED)
        async with running(client, bell=bell):
            assert ear.told == ["healthy", "lost", "healthy"]


async def test_cancelled_anywhere_leaves_nothing(server):
    """Cut off after any number of turns: no task, no socket (the guard looks)."""
    async with wire(server.client_kwargs) as client:
        for turns in range(60):
            bell, ear = Bell(client), Ear()
            bell.listen(PREFIX, ear)
            async with anyio.create_task_group() as group:
                group.start_soon(
                    lambda bell=bell: bell.run(task_status=anyio.TASK_STATUS_IGNORED)
                )
                for _ in range(turns):
                    await asyncio.sleep(0)
                group.cancel_scope.cancel()
            assert ear.told in ([], ["healthy", "lost"])
        await wait_until(lambda: bell_connections(server) == 0, "all are gone")


async def test_statistics_tell_mode_and_figures(server):
    """A frozen value."""
    async with ringing(server.client_kwargs) as (bell, ear, _client):
        put(server, ACME + b"k")
        await ear.until_rung(ACME + b"k")
        figures = bell.statistics()
        assert (figures.mode, figures.is_healthy) == (BellMode.TRACKING, True)
        assert (figures.pushes, figures.keys, figures.dials) == (1, 1, 1)
        assert figures.healthy_since is not None
        with suppress(AttributeError):
            figures.keys = 2
        assert figures.keys == 1


# --- polling ----------------------------------------------------------------------


@pytest.mark.every_server
async def test_user_without_tracking_is_ticked(server):
    """The ACL says no: listeners are told when to look, ever slower."""
    server.execute(
        *("ACL", "SETUSER", "poller", "on", ">pw", "~*", "&*", "+@all"),
        "-client|tracking",
    )
    try:
        login = {"username": "poller", "password": "pw"}
        async with wire(server.client_kwargs | login) as client:
            bell, ear = Bell(client), Ear()
            registration = bell.listen(PREFIX, ear)
            async with running(client, bell=bell):
                assert bell.statistics().mode is BellMode.POLLING
                await wait_until(lambda: ear.ticks >= 5, "it ticks")
                late = Ear()
                bell.listen(b"mcp-crew:tools:", late)
                await wait_until(lambda: late.ticks >= 1, "a late one ticks too")
                registration.hasten()
            assert ear.told == []
            assert client.statistics().circuit.hard == 0
    finally:
        server.execute("ACL", "DELUSER", "poller")


async def test_client_of_resp2_gets_a_bell_all_the_same(server):
    """On RESP2 the server would confirm tracking and never push: HELLO goes first."""
    kwargs = server.client_kwargs | {"protocol": 2}
    async with ringing(kwargs) as (_, ear, _client):
        put(server, ACME + b"k")
        await ear.until_rung(ACME + b"k")


async def test_the_page_about_the_bell_runs():
    """docs/bell.md is one program, and its assertion holds."""
    page = Path(__file__).parents[3] / "docs" / "bell.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "\n".join(blocks)),
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode == 0, said.decode()
