"""What becomes of the bell when its connection, its server or its path fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from random import Random

import pytest

from mcp_crew_redis._core.bell import Bell, BellMode
from mcp_crew_redis._core.breaker import BreakerSettings, CircuitState
from mcp_crew_redis.testing import FaultProxy
from tests.integration.core.belfry import PREFIX, Ear, put, ringing, running
from tests.integration.core.bench import CT, QUICK, eventually, outcome, wire
from tests.integration.core.fake_server import FakeServer
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
    put(server, KEY)
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
        put(server, KEY)
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


async def test_line_that_works_is_kept_when_a_wider_one_is_refused(server):
    """Who had a bell keeps it; who comes too late looks for itself."""
    server.execute("ACL", "SETUSER", "b", "on", ">pw", "~*", "&*", "+@all")
    login = {"username": "b", "password": "pw"}
    try:
        async with ringing(server.client_kwargs | login) as (bell, ear, _client):
            server.execute("ACL", "SETUSER", "b", "-client|tracking")
            late = Ear()
            bell.listen(b"mcp-crew:tools:", late)
            await wait_until(lambda: late.ticks >= 2, "the late one is ticked")
            await rings(server, ear)
            assert (ear.told, ear.ticks, late.told) == (["healthy"], 0, [])
    finally:
        server.execute("ACL", "DELUSER", "b")


async def test_bell_behind_tls_rings(server, tls_proxy, certificates):
    """The hand-over of a TLS transport works as that of a lane."""
    kwargs = {**tls_proxy.client_kwargs, "ssl_ca_certs": certificates.ca_file}
    async with ringing(kwargs) as (_, ear, _client):
        await rings(server, ear)
        tls_proxy.cut()
        await ear.until("healthy", "lost", "healthy")
        await rings(server, ear)


async def test_garbage_ends_the_line_and_it_heals():
    """Not RESP, or a reply that nobody asked for: the order is lost, so is the bell."""
    async with (
        FakeServer() as fake,
        ringing(fake.client_kwargs) as (_, ear, _client),
    ):
        for count, garbage in enumerate([b"!!!\r\n", b"+unasked\r\n"], 1):
            fake.wires[-1].transport.write(garbage)
            await ear.until("healthy", *(["lost", "healthy"] * count))


def pushed(*keys: bytes) -> bytes:
    """Return an invalidation as a server sends it."""
    names = b"".join(b"$%d\r\n%s\r\n" % (len(key), key) for key in keys)
    return b">2\r\n$10\r\ninvalidate\r\n*%d\r\n%s" % (len(keys), names)


FLUSHED = b">2\r\n$10\r\ninvalidate\r\n_\r\n"
NOBODYS = b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n"


async def test_pieces_of_input_are_told_in_their_order():
    """Torn anywhere: keys, a flush, keys; pushes of another kind concern nobody."""

    class Order(Ear):
        def on_keys(self, keys):
            self.told += [key.decode() for key in keys]

    a, b, c = (PREFIX + name for name in (b"a", b"b", b"c"))
    stream = pushed(a, b) + NOBODYS + FLUSHED + pushed(c)
    async with (
        FakeServer() as fake,
        wire(fake.client_kwargs) as client,
        running(client) as bell,
    ):
        order = Order()
        bell.listen(PREFIX, order)
        await order.until("healthy")
        for cut in range(0, len(stream), 7):
            order.told.clear()
            fake.wires[-1].transport.write(stream[:cut])
            for _ in range(3):
                await asyncio.sleep(0)
            fake.wires[-1].transport.write(stream[cut:])
            await order.until(a.decode(), b.decode(), "flushed", c.decode())


async def test_unknown_subcommand_is_polled():
    """A server, or a proxy, that does not know tracking."""

    def client(command):
        if command[1].upper() == b"TRACKING":
            return b"-ERR Unknown subcommand 'TRACKING'\r\n"
        return b"+OK\r\n"

    async with FakeServer(CLIENT=client) as fake, wire(fake.client_kwargs) as redis:
        bell, ear = Bell(redis), Ear()
        bell.listen(PREFIX, ear)
        async with running(redis, bell=bell):
            assert bell.statistics().mode is BellMode.POLLING
            await wait_until(lambda: ear.ticks >= 2, "it ticks")
            assert len(fake.wires) == 1


@pytest.mark.parametrize("code", [b"LOADING", b"MASTERDOWN"])
async def test_server_that_does_not_serve_yet_is_no_bell_yet(code):
    """Tracking is confirmed, but a sweep would find nothing: wait until it serves."""
    async with FakeServer() as fake, wire(fake.client_kwargs) as client:
        fake.replies["PING"] = b"-%s not yet\r\n" % code
        bell, ear = Bell(client), Ear()
        bell.listen(PREFIX, ear)
        async with running(client, bell=bell):
            assert (ear.told, bell.statistics().mode) == ([], BellMode.TRACKING)
            fake.replies["PING"] = b"+PONG\r\n"
            await ear.until("healthy")


async def test_replaced_line_tells_what_it_still_had_to_tell():
    """Its last PONG is waited for. A new listener is told nothing before healthy."""
    tool = b"mcp-crew:tools:{acme}:t"
    late = [b"", pushed(tool), pushed(KEY)]  # the new line's two PINGs, the old one's
    async with (
        FakeServer() as fake,
        ringing(fake.client_kwargs) as (bell, ear, _client),
    ):
        fake.replies["PING"] = lambda _: late.pop(0) + b"+PONG\r\n"
        tools = Ear()
        bell.listen(b"mcp-crew:tools:", tools)
        await tools.until("healthy")
        assert (late, ear.keys, tools.keys) == ([], [KEY], [])
        assert ear.told == ["healthy"]


async def test_replacement_that_reaches_another_server_is_a_loss(make_server):
    """What happened there before was told to nobody."""
    first, second = make_server("valkey"), make_server("valkey")
    async with (
        FaultProxy(first.unix_socket) as proxy,
        ringing(proxy.client_kwargs) as (bell, ear, _client),
    ):
        proxy._upstream = second.unix_socket
        bell.listen(b"mcp-crew:tools:", Ear())
        await ear.until("healthy", "lost", "healthy")
        await rings(second, ear)


async def test_pong_behind_many_pushes_has_twice_as_long():
    """Bytes that arrive show a queue, not a dead path; but not for ever."""
    async with (
        FakeServer() as fake,
        ringing(fake.client_kwargs, idle_ping=PING_EVERY) as (_, ear, _client),
    ):
        loop = asyncio.get_running_loop()
        fake.replies["PING"] = b""
        count = fake.count(b"PING")
        await wait_until(lambda: fake.count(b"PING") > count, "it asks for proof")
        began = loop.time()
        while ear.told == ["healthy"]:
            fake.wires[-1].transport.write(pushed(KEY))
            await asyncio.sleep(0.01)
        assert 1.5 * CT < loop.time() - began < 2 * CT + 0.2
        assert ear.told == ["healthy", "lost"]


async def test_change_of_pace_does_not_put_a_ping_off():
    """However often somebody begins and ceases to watch closely."""
    async with (
        FakeServer() as fake,
        ringing(fake.client_kwargs, idle_ping=0.05) as (bell, _, _client),
    ):
        registration = bell.listen(PREFIX, Ear())
        count = fake.count(b"PING")
        for number in range(60):
            registration.watch_closely(is_on=number % 2 == 0)
            await asyncio.sleep(0.005)
        assert fake.count(b"PING") >= count + 3


async def test_last_listener_that_leaves_in_a_pause_ends_the_dials(server, proxy):
    """Without a prefix the server would ring for every key."""
    proxy.refuse()
    async with wire(proxy.client_kwargs) as client:
        bell = Bell(client)
        registration = bell.listen(PREFIX, Ear())
        async with running(client, bell=bell):
            registration.close()
            await proxy.accept()
            await asyncio.sleep(0.3)  # longer than the pause
            assert proxy.connection_count == 0


async def test_bell_that_starts_under_an_open_circuit_does_not_dial(server):
    """It starts all the same, and dials when the circuit has closed."""
    async with wire(server.client_kwargs) as client:
        bell, ear = Bell(client), Ear()
        bell.listen(PREFIX, ear)
        client.node.breaker.force_open("by hand")
        async with running(client, bell=bell):
            await asyncio.sleep(0.2)
            figures = bell.statistics()
            assert (figures.dials, figures.dial_failures) == (0, 0)
            client.node.breaker.force_closed()
            await ear.until("healthy")


async def test_ping_refused_by_the_acl_proves_as_well():
    """Any reply to it stands behind what was rung before."""
    async with (
        FakeServer(PING=b"-NOPERM no\r\n") as fake,
        ringing(fake.client_kwargs, idle_ping=0.02) as (_, ear, _client),
    ):
        count = fake.count(b"PING")
        await wait_until(lambda: fake.count(b"PING") > count + 3, "PINGs go on")
        assert ear.told == ["healthy"]


async def test_line_that_is_cut_again_and_again_is_dialled_ever_slower():
    """A proxy that confirms and hangs up is not hammered."""
    async with FakeServer() as fake, wire(fake.client_kwargs) as client:
        bell, ear = Bell(client, random=Random(7)), Ear()
        bell.listen(PREFIX, ear)
        async with running(client, bell=bell):
            loop = asyncio.get_running_loop()
            until = loop.time() + 1.0
            while loop.time() < until:
                for one in fake.wires:
                    one.transport.abort()
                await asyncio.sleep(0.01)
            assert bell.statistics().dials + bell.statistics().dial_failures < 12
