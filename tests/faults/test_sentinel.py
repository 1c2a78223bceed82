"""Real sentinels and real failovers: the client is at the master, or nowhere."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from redis.exceptions import RedisError

from mcp_crew_redis import CrewRedis, CrewSettings
from mcp_crew_redis._core.dialling import DialFailedError
from mcp_crew_redis._core.topology import SentinelSettings
from mcp_crew_redis.errors import (
    ConfigurationError,
    ConnectionLostError,
    UnavailableError,
)
from mcp_crew_redis.testing import FaultProxy
from tests.integration.core.belfry import PREFIX, put, ringing
from tests.integration.core.bench import eventually, outcome, wire
from tests.rig.binaries import find_binary
from tests.rig.sentinels import MASTER, Sentinel, SentinelSet, free_ports
from tests.rig.waiting import wait_until

KINDS = ("valkey", "redis8", "debian")
NAME = "under-test"  # of every connection of the client, in CLIENT LIST
FAILOVER = 30.0  # seconds that the sentinels may take among themselves
LEAVING = (
    1.5  # seconds from the sentinels' word to the last connection's end: 0.5 + air
)


@pytest.fixture(scope="module")
def quorum():
    """A set that no test harms for good."""
    with SentinelSet("valkey") as found:
        yield found


@pytest.fixture
def make_set():
    """Give private sets, one after the other at most."""
    sets = []

    def make(kind="valkey", **keywords):
        if find_binary(kind) is None:
            pytest.skip(f"no {kind} server on this machine")
        sets.append(SentinelSet(kind, **keywords))
        return sets[-1].__enter__()

    yield make
    for each in sets:
        each.__exit__(None, None, None)


@pytest.fixture
def lone_sentinel():
    """Give sentinels that know of no other."""
    started = []

    def make(monitored, **keywords):
        with free_ports(1) as (port,):
            pass
        started.append(Sentinel("valkey", port, monitored, **keywords))
        started[-1].start()
        return started[-1]

    yield make
    for each in started:
        each.close()


def settings(places, master=MASTER):
    return {"sentinels": SentinelSettings(places=tuple(places), master=master)}


def client_of(found, options=None):
    return wire(
        settings(found.places), options={"client_name": NAME, **(options or {})}
    )


def crew_settings(found):
    return CrewSettings(
        sentinels=found.setting, sentinel_master=MASTER, command_timeout=0.5
    )


def led_here(server):
    """Return how many connections of the client lead to this server."""
    lines = server.execute("CLIENT", "LIST").decode().splitlines()
    return sum(f" name={NAME} " in line for line in lines)


@asynccontextmanager
async def paused(sentinel):
    sentinel.pause()
    try:
        yield
    finally:
        sentinel.resume()


# --- finding the master ------------------------------------------------------------
async def test_the_master_is_found(quorum):
    """Writes land on the server that the sentinels name."""
    async with client_of(quorum) as client:
        greeting = await client.connect()
        await client.set("found", "yes")

        assert greeting.role == "master"
        assert quorum.named().execute("GET", "found") == b"yes"
        assert client.statistics().address == f"sentinel:{MASTER}"


async def test_dedicated_connections_go_to_the_master(quorum):
    """Transactions and blocking commands are dialled like the lanes."""
    async with client_of(quorum) as client:
        await client.pipeline().rpush("list", "a").execute()

        assert await client.blpop(["list"], timeout=1) == [b"list", b"a"]


async def test_a_crew_finds_its_master(quorum):
    """From the settings to a value, and health names the master."""
    async with CrewRedis(crew_settings(quorum)) as crew:
        await crew.tenant("acme").set("state", "a", "value", ttl=60)
        report = await crew.health()

        assert await crew.tenant("acme").get("state", "a") == "value"
        redis = next(each for each in report.components if each.name == "redis")
        assert redis.detail["address"] == f"sentinel:{MASTER}"


async def test_a_dead_sentinel_is_done_without(quorum):
    """The first address refuses connections; the next ones answer."""
    with free_ports(1) as (dead,):
        pass

    async with wire(settings([("127.0.0.1", dead), *quorum.places])) as client:
        assert await client.ping()


async def test_a_hung_sentinel_delays_nobody_for_long(quorum):
    """It accepts and stays silent: the others' answers are waited for, not its."""
    loop = asyncio.get_running_loop()
    async with paused(quorum.sentinels[0]), client_of(quorum) as client:
        began = loop.time()
        await client.ping()

        assert loop.time() - began < 0.4


async def test_without_any_sentinel_redis_is_unavailable():
    """An outage like any other, that names the setting."""
    with free_ports(3) as ports:
        places = [("127.0.0.1", port) for port in ports]

    async with wire(settings(places)) as client:
        with pytest.raises(ConnectionLostError, match="REDIS_CREW_SENTINELS"):
            await client.ping()


async def test_sentinels_that_come_later_are_found(make_set):
    """A client that was started first needs no restart."""
    found = make_set()
    for sentinel in found.sentinels:
        sentinel.kill()
    async with client_of(found) as client:
        assert isinstance(await outcome(client.ping()), UnavailableError)
        for sentinel in found.sentinels:
            sentinel.start()

        assert await eventually(client.ping, "the sentinels are back", 10.0)


async def test_an_unknown_master_is_a_configuration_error(quorum):
    """A typing error is told as one, at the first call."""
    async with wire(settings(quorum.places, "mimaster")) as client:
        with pytest.raises(ConfigurationError, match="REDIS_CREW_SENTINEL_MASTER"):
            await client.ping()


async def test_servers_in_place_of_sentinels_are_a_configuration_error(quorum):
    """The data's port instead of the sentinels'."""
    places = [("127.0.0.1", server.tcp_port) for server in quorum.servers]

    async with wire(settings(places)) as client:
        with pytest.raises(ConfigurationError, match="REDIS_CREW_SENTINELS"):
            await client.ping()


async def test_a_sentinel_with_a_password_is_a_configuration_error(lone_sentinel):
    """It is not asked for: the answer says so, instead of an endless outage."""
    with free_ports(1) as (nobody,):
        pass
    sentinel = lone_sentinel(nobody, lines=["requirepass secret"])

    async with wire(settings([("127.0.0.1", sentinel.port)])) as client:
        with pytest.raises(ConfigurationError, match="password") as caught:
            await client.ping()
        assert "secret" not in str(caught.value)


async def test_the_password_is_the_servers(make_set):
    """They get it at each dial; the sentinels, who have none, are not shown it."""
    found = make_set(password="secret")
    old = found.named()
    async with client_of(found, options={"password": "secret"}) as client:
        await client.set("k", "v")
        found.fail_over()
        new = await replaced(found, old)
        await wait_until(lambda: led_here(old) == 0, "the old is left", LEAVING)

        await eventually(lambda: client.set("k", "w"), "a failover with a password")
        assert new.execute("GET", "k") == b"w"


async def test_tls_covers_the_sentinels_and_the_servers(
    tls_proxy, certificates, lone_sentinel
):
    """One authority for both; the certificate names what the sentinel says."""
    sentinel = lone_sentinel(tls_proxy.port, down_after=3_600_000)
    context = certificates.server_context()
    async with FaultProxy(sentinel.unix_socket, tcp=True, tls=context) as door:
        tls = {"ssl": True, "ssl_ca_certs": certificates.ca_file}
        places = [("127.0.0.1", door.port)]
        async with wire(settings(places), options=tls) as client:
            assert await client.ping()
            assert await client.pipeline().set("k", "v", ex=60).execute() == [True]


async def test_a_replica_called_master_is_not_used(make_server, lone_sentinel):
    """Behind or wrongly configured: nothing is written where it would be refused."""
    master, replica = make_server(tcp=True), make_server(tcp=True)
    replica.execute("REPLICAOF", "127.0.0.1", master.tcp_port)
    liar = lone_sentinel(replica.tcp_port)
    async with wire(settings([("127.0.0.1", liar.port)])) as client:
        error = await outcome(client.set("k", "v"))

        assert isinstance(error, ConnectionLostError)
        assert "replica" in str(error)


async def test_a_sentinel_that_is_behind_leads_nobody_back(make_server, lone_sentinel):
    """Two masters, as after a partition; the newer sentinel dies, the older is left."""
    old, new = make_server(tcp=True), make_server(tcp=True)
    late, early = (
        lone_sentinel(old.tcp_port, epoch=1),
        lone_sentinel(new.tcp_port, epoch=2),
    )
    places = [("127.0.0.1", late.port), ("127.0.0.1", early.port)]
    async with wire(settings(places), options={"client_name": NAME}) as client:
        await eventually(lambda: at(new, client), "the newer one is believed")
        early.kill()
        new.kill()

        await wait_until(lambda: is_refused_as_behind(client), "nobody is left")
        assert led_here(old) == 0


async def at(server, client):
    """Write; pass if it landed on this server."""
    await client.set("k", "v")
    if server.execute("GET", "k") is None:
        raise UnavailableError("elsewhere")


async def is_refused_as_behind(client):
    error = await outcome(client.node.connector.probe())
    return "behind" in str(outcome_of(error))


def outcome_of(failure):
    return failure.make() if isinstance(failure, DialFailedError) else failure


async def test_connections_outlive_the_sentinels(make_server, lone_sentinel):
    """They are asked where to go, and are not in the way."""
    server = make_server(tcp=True)
    sentinel = lone_sentinel(server.tcp_port)
    async with wire(settings([("127.0.0.1", sentinel.port)])) as client:
        await client.ping()
        watched = client.connection_pool.sentinels._watches[0]
        sentinel.kill()

        await wait_until(lambda: watched.report.fault is not None, "it is missed")
        assert await client.ping()


@pytest.mark.parametrize(
    "values",
    [
        {"unix_socket": "/tmp/s"},
        {"host": "a"},
        {"port": 6379},
        {"url": "redis://a"},
        {"embedded": True},
        {"cluster": True},
    ],
    ids=lambda values: next(iter(values)),
)
def test_other_addresses_and_sentinels_exclude_each_other(values):
    """One setting says where the server is; the error names the other as well."""
    name = next(iter(values)).upper()

    with pytest.raises(ConfigurationError, match=f"REDIS_CREW_{name}") as caught:
        CrewSettings(sentinels="a:1", sentinel_master="m", **values)
    assert "REDIS_CREW_SENTINELS" in str(caught.value)


# --- failovers -----------------------------------------------------------------------
async def replaced(found, old):
    """Wait until every sentinel names another master than `old`; return it."""

    def is_replaced():
        alive = [each for each in found.sentinels if each.is_running]
        return all(each.master_port() != old.tcp_port for each in alive)

    await wait_until(is_replaced, "the sentinels name another master", FAILOVER)
    return found.named()


async def corrected(old):
    """Wait until the sentinels have made the old master a replica."""

    def is_replica():
        try:
            return old.info("replication")["role"] == "slave"
        except RedisError:
            return False  # they cut every connection to it, this one too

    await wait_until(is_replica, "the old master is a replica", FAILOVER)


class Writer:
    """Writes numbered keys one after the other, and notes what was acknowledged."""

    def __init__(self, client):
        self.client = client
        self.acknowledged = []
        self.count = 0

    async def run(self):
        while True:
            self.count += 1
            try:
                await self.client.set(f"n:{self.count}", "x")
            except UnavailableError:
                await asyncio.sleep(0.005)
            else:
                self.acknowledged.append(self.count)
                # A pace: at full speed it would starve the sentinels, who then hold
                # servers for down that are not.
                await asyncio.sleep(0.002)

    async def goes_on(self, timeout):  # noqa: ASYNC109 - as wait_until
        """Wait for acknowledgements from now on; return the first one's number."""
        before = len(self.acknowledged)
        await wait_until(
            lambda: len(self.acknowledged) > before + 5, "writes go on", timeout
        )
        return self.acknowledged[before]


@asynccontextmanager
async def writing(client):
    writer = Writer(client)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(writer.run())
        await writer.goes_on(5.0)
        try:
            yield writer
        finally:
            task.cancel()


def missing(server, numbers):
    """Return how many of the keys a server does not have."""
    keys = [f"n:{number}" for number in numbers]
    parts = [keys[start : start + 1000] for start in range(0, len(keys), 1000)]
    return len(keys) - sum(server.execute("EXISTS", *part) for part in parts)


@pytest.mark.parametrize("kind", KINDS)
async def test_writes_go_on_after_the_master_was_killed(make_set, kind):
    """Soon after the sentinels have agreed, and all of them on the new master."""
    found = make_set(kind)
    old = found.named()
    async with client_of(found) as client, writing(client) as writer:
        old.kill()
        new = await replaced(found, old)

        first = await writer.goes_on(4.0)
        later = [each for each in writer.acknowledged if each >= first]
        assert new is not old
        assert missing(new, later) == 0


async def test_an_old_master_that_comes_back_is_not_written_to(make_set):
    """It believes that it is the master still, until the sentinels correct it."""
    found = make_set()
    old = found.named()
    async with client_of(found) as client, writing(client) as writer:
        old.kill()
        new = await replaced(found, old)
        first = await writer.goes_on(4.0)
        old.start()
        await corrected(old)

        await writer.goes_on(4.0)
        later = [each for each in writer.acknowledged if each >= first]
        assert led_here(old) == 0
        assert missing(new, later) == 0


async def test_a_living_master_that_was_replaced_is_left(make_set):
    """Nobody tells it for seconds: it takes writes, and would lose them."""
    found = make_set()
    old = found.named()
    async with client_of(found) as client, writing(client) as writer:
        async with asyncio.TaskGroup() as group:
            blocked = group.create_task(outcome(client.blpop(["never"], timeout=0)))
            await wait_until(lambda: led_here(old) > 1, "a connection blocks")
            found.fail_over()
            new = await replaced(found, old)

            await wait_until(lambda: led_here(old) == 0, "the old is left", LEAVING)
            assert isinstance(await blocked, UnavailableError)
        first = await writer.goes_on(4.0)
        later = [each for each in writer.acknowledged if each >= first]
        assert missing(new, later) == 0


async def test_a_subscription_follows_the_master(make_set):
    """Its connection ends with the old master; asked again, it is at the new."""
    found = make_set()
    old = found.named()
    async with client_of(found) as client, client.pubsub() as pubsub:
        await pubsub.subscribe("channel")
        assert await pubsub.get_message(timeout=1.0)
        found.fail_over()
        new = await replaced(found, old)

        async def heard():
            new.execute("PUBLISH", "channel", "hello")
            message = await pubsub.get_message(timeout=0.05)
            return message is not None and message["type"] == "message"

        await eventually(lambda: heard_once(heard), "a message of the new master", 10.0)


async def heard_once(heard):
    if not await heard():
        raise UnavailableError("not yet")
    return True


async def test_the_bell_follows_the_master(make_set):
    """It says that it was lost, and rings for the new master's keys."""
    found = make_set()
    old = found.named()
    async with ringing(settings(found.places)) as (_, ear, _):
        found.fail_over()
        new = await replaced(found, old)

        # The bell paces its dials up to five seconds while there is no master.
        await wait_until(
            lambda: ear.told[-2:] == ["lost", "healthy"], "the bell is back", 10.0
        )
        put(new, PREFIX + b"{acme}:a")
        await ear.until_rung(PREFIX + b"{acme}:a")


async def test_a_hung_master_that_wakes_is_not_gone_back_to(make_set):
    """Stopped, replaced, awake again: it still takes writes, and gets none of ours."""
    found = make_set()
    old = found.named()
    async with client_of(found) as client, writing(client) as writer:
        with old.paused():
            new = await replaced(found, old)
            first = await writer.goes_on(4.0)
        await corrected(old)

        await writer.goes_on(4.0)
        later = [each for each in writer.acknowledged if each >= first]
        assert missing(new, later) == 0


async def test_two_crews_follow_the_same_failover(make_set):
    """What one writes after it the other reads, on the new master."""
    found = make_set()
    old = found.named()
    async with (
        CrewRedis(crew_settings(found)) as one,
        CrewRedis(crew_settings(found)) as two,
    ):
        await one.tenant("acme").set("state", "before", 1, ttl=60)
        old.kill()
        await replaced(found, old)

        await eventually(one.redis.ping, "the first is back", 4.0)
        await eventually(two.redis.ping, "the second is back", 4.0)
        await one.tenant("acme").set("state", "after", 2, ttl=60)
        await one.journal.drained(5)  # a ramp may have sent it there

        async def read():
            assert await two.tenant("acme").get("state", "after") == 2

        await eventually(read, "the second reads it", 4.0)
