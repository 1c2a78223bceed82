"""What becomes of the bell when its connection, its server or its path fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from mcp_crew_redis._core.bell import Bell, BellMode
from mcp_crew_redis._core.breaker import BreakerSettings, CircuitState
from mcp_crew_redis.testing import FaultProxy
from tests.integration.core.belfry import PREFIX, Ear, ringing, running
from tests.integration.core.bench import CT, QUICK, eventually, outcome, wire
from tests.rig.waiting import wait_until

KEY = PREFIX + b"{acme}:k"
PING_EVERY = 0.1  # seconds, instead of 5


@pytest.fixture
async def proxy(server) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(server.unix_socket) as proxy:
        yield proxy


def bell_id(server) -> int:
    """Return the server's number of the bell's connection."""
    listing = server.execute("CLIENT", "LIST")
    text = listing.decode() if isinstance(listing, bytes) else str(listing)
    lines = listing if isinstance(listing, list) else text.splitlines()
    for line in lines:
        if isinstance(line, dict):
            if line.get("name") == "crew-bell":
                return int(line["id"])
        elif "name=crew-bell" in line:
            return int(line.split()[0].removeprefix("id="))
    raise AssertionError("there is no bell")


async def rings(server, ear: Ear) -> None:
    """Wait until a change made now is told."""
    ear.keys.clear()
    server.execute("SET", KEY, "1")
    await ear.until_rung(KEY)


# --- lost -------------------------------------------------------------------------


@pytest.mark.every_server
async def test_killed_connection_is_told_once_and_heals(server):
    """CLIENT KILL: lost at once, healthy again behind a new PONG."""
    async with ringing(server.client_kwargs) as (bell, ear, _client):
        for count in range(1, 4):
            server.execute("CLIENT", "KILL", "ID", bell_id(server))
            await ear.until("healthy", *(["lost", "healthy"] * count))
            await rings(server, ear)
        assert bell.statistics().losses == 3


async def test_cut_path_is_told_once_and_heals(server, proxy):
    """The same for a path that ends."""
    async with ringing(proxy.client_kwargs) as (_, ear, _client):
        proxy.cut()
        await ear.until("healthy", "lost", "healthy")
        await rings(server, ear)


async def test_stalled_path_is_noticed_within_a_ping(server, proxy):
    """Nothing ends, nothing comes: the PONG does not either."""
    async with ringing(proxy.client_kwargs, idle_ping=PING_EVERY) as (_, ear, _client):
        loop = asyncio.get_running_loop()
        proxy.replies.stall()
        began = loop.time()
        await ear.until("healthy", "lost")
        assert loop.time() - began < PING_EVERY + CT + 0.2

        proxy.heal()
        await wait_until(lambda: ear.told[-1] == "healthy", "it heals")
        assert ear.told == ["healthy", "lost", "healthy"]
        await rings(server, ear)


async def test_push_that_comes_with_a_loss_is_not_told_after_it(server, proxy):
    """What a stalled path delivers late belongs to a line that is over."""
    async with ringing(proxy.client_kwargs, idle_ping=PING_EVERY) as (_, ear, _client):
        proxy.replies.stall()
        server.execute("SET", KEY, "1")
        await ear.until("healthy", "lost")
        proxy.heal()
        await wait_until(lambda: ear.told[-1] == "healthy", "it heals")
        assert ear.keys == []


@pytest.mark.every_server
async def test_stopped_server_is_noticed_and_swept_once(server):
    """SIGSTOP: lost within a PING; healthy once, when it goes on."""
    limits = {"idle_ping": PING_EVERY, "connect_timeout": 0.3}
    async with ringing(server.client_kwargs, **limits) as (_, ear, _client):
        with server.paused():
            await ear.until("healthy", "lost")
            await asyncio.sleep(0.5)  # several dials fail meanwhile
            assert ear.told == ["healthy", "lost"]
        await ear.until("healthy", "lost", "healthy")
        await rings(server, ear)


async def test_restarted_server_is_noticed_and_tracked_again(own_server):
    """Tracking is a state of the connection: it is asked for anew."""
    async with ringing(own_server.client_kwargs) as (bell, ear, _client):
        tools = Ear()
        bell.listen(b"mcp-crew:tools:", tools)
        await tools.until("healthy")
        own_server.restart()
        await ear.until("healthy", "lost", "healthy")
        await tools.until("healthy", "lost", "healthy")
        await rings(own_server, ear)
        assert len(bell.statistics().prefixes) == 2


async def test_close_watch_proves_more_often(server, proxy):
    """A second instead of five, and five again when nobody needs it."""
    async with ringing(proxy.client_kwargs) as (bell, _, _client):
        registration = bell.listen(PREFIX, Ear())
        assert bell._line._interval == 5.0
        registration.watch_closely()
        proxy.requests.forget()
        await proxy.wait_for_request(b"PING", 2)
        registration.watch_closely(is_on=False)
        assert bell._line._interval == 5.0
        registration.watch_closely()
        registration.close()
        assert bell._line._interval == 5.0


async def test_line_to_another_server_than_the_data_is_given_up(make_server):
    """The address leads elsewhere: where the data are is where to listen."""
    first, second = make_server("valkey"), make_server("valkey")
    async with (
        FaultProxy(first.unix_socket) as proxy,
        ringing(proxy.client_kwargs, idle_ping=PING_EVERY) as (bell, ear, client),
    ):
        await client.ping()
        proxy._upstream = second.unix_socket
        client.node.interactive.end("test")
        await eventually(client.ping, "the lane leads to the second server")

        await ear.until("healthy", "lost", "healthy")
        await rings(second, ear)
        assert bell.statistics().losses == 1


# --- the circuit ------------------------------------------------------------------


async def test_failures_of_the_bell_do_not_open_the_circuit(server, proxy):
    """Only what carries data speaks for the node."""
    async with ringing(proxy.client_kwargs) as (bell, ear, client):
        proxy.refuse()
        proxy.cut()
        await wait_until(lambda: bell.statistics().dial_failures >= 2, "dials fail")
        assert client.circuit_state is CircuitState.CLOSED
        assert client.statistics().circuit.hard == 0
        assert ear.told == ["healthy", "lost"]
        await proxy.accept()
        await ear.until("healthy", "lost", "healthy")


async def test_open_circuit_holds_the_bell_back(server, proxy):
    """It dials no more, and as soon as the circuit has closed."""
    breaker = BreakerSettings(probe_base=0.05, probe_cap=0.3, ramp=0.0)
    async with (
        wire(proxy.client_kwargs, breaker=breaker) as client,
        running(client) as bell,
    ):
        ear = Ear()
        bell.listen(PREFIX, ear)
        await ear.until("healthy")
        proxy.refuse()
        proxy.cut()
        await outcome(client.ping())
        await wait_until(lambda: client.circuit_state is CircuitState.OPEN, "it opens")
        await asyncio.sleep(0.2)  # a dial that was under way has ended
        failures = bell.statistics().dial_failures
        await asyncio.sleep(0.5)
        assert bell.statistics().dial_failures == failures

        await proxy.accept()
        await ear.until("healthy", "lost", "healthy")
        assert client.circuit_state is CircuitState.CLOSED


async def test_bell_that_starts_without_redis_starts_and_waits(server, proxy):
    """Ready after its first attempt; healthy when there is a server."""
    proxy.refuse()
    async with wire(proxy.client_kwargs, breaker=QUICK) as client:
        bell, ear = Bell(client), Ear()
        bell.listen(PREFIX, ear)
        async with running(client, bell=bell):
            assert ear.told == []
            await proxy.accept()
            await ear.until("healthy")


async def test_drain_does_not_wait_for_a_silent_server(server, proxy):
    """Neither a dial nor a pause holds it."""
    async with ringing(proxy.client_kwargs, idle_ping=PING_EVERY) as (bell, ear, _):
        proxy.replies.stall()
        await ear.until("healthy", "lost")
        async with asyncio.timeout(0.2):
            bell.drain()
            await wait_until(lambda: bell._scope is None, "it has ended")


# --- no bell to be had ------------------------------------------------------------


async def test_full_server_is_polled_until_it_has_room(own_server):
    """Redis serves and takes no connection more: listeners look for themselves."""
    async with wire(own_server.client_kwargs) as client:
        await client.ping()
        own_server.execute("CONFIG", "SET", "maxclients", 1)
        bell, ear = Bell(client), Ear()
        bell.listen(PREFIX, ear)
        async with running(client, bell=bell):
            await wait_until(
                lambda: bell.statistics().mode is BellMode.POLLING and ear.ticks > 2,
                "listeners are ticked",
            )
            await client.config_set("maxclients", 100)
            await ear.until("healthy")
            assert bell.statistics().mode is BellMode.TRACKING
            await rings(own_server, ear)


async def test_tracking_taken_away_is_a_loss_and_then_polled(server):
    """The ACL changes under a running bell."""
    server.execute("ACL", "SETUSER", "b", "on", ">pw", "~*", "&*", "+@all")
    login = {"username": "b", "password": "pw"}
    try:
        async with ringing(server.client_kwargs | login) as (bell, ear, _client):
            server.execute("ACL", "SETUSER", "b", "-client|tracking")
            server.execute("CLIENT", "KILL", "ID", bell_id(server))
            await ear.until("healthy", "lost")
            await wait_until(lambda: ear.ticks >= 2, "it ticks")
            assert bell.statistics().mode is BellMode.POLLING
    finally:
        server.execute("ACL", "DELUSER", "b")


async def test_refused_tracking_is_asked_for_again(server, monkeypatch):
    """A permission that is granted later is used."""
    monkeypatch.setattr("mcp_crew_redis._core.bell_pace.REFUSED_PAUSE", 0.1)
    server.execute(
        *("ACL", "SETUSER", "b", "on", ">pw", "~*", "&*", "+@all"), "-client|tracking"
    )
    login = {"username": "b", "password": "pw"}
    try:
        async with wire(server.client_kwargs | login) as client:
            bell, ear = Bell(client), Ear()
            bell.listen(PREFIX, ear)
            async with running(client, bell=bell):
                assert bell.statistics().mode is BellMode.POLLING
                server.execute("ACL", "SETUSER", "b", "+client|tracking")
                await ear.until("healthy")
                await rings(server, ear)
    finally:
        server.execute("ACL", "DELUSER", "b")
