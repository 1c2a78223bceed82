"""What becomes of a command when the connection or the server fails under it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from redis import exceptions as redis_errors
from redis.credentials import CredentialProvider

from mcp_crew_redis._core.breaker import BreakerSettings, CircuitState
from mcp_crew_redis.errors import (
    ConfigurationError,
    ConnectionLostError,
    CrewRedisError,
    OperationTimeoutError,
    OutcomeUnknownError,
    UnavailableError,
)
from mcp_crew_redis.testing import FaultProxy
from tests.integration.core.bench import (
    CT,
    eventually,
    failed_logins,
    outcome,
    wire,
)
from tests.integration.core.fake_server import FakeServer, bulk
from tests.rig.servers import RealServer
from tests.rig.waiting import wait_until

CALM = BreakerSettings(threshold=10_000, minimum_calls=10_000)


@pytest.fixture
async def proxy(server: RealServer) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(server.unix_socket) as proxy:
        yield proxy


async def all_of(calls) -> list[object]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(outcome(call)) for call in calls]
    return [task.result() for task in tasks]


# --- lost replies -----------------------------------------------------------------


async def test_write_whose_reply_is_lost_is_executed_once(server, proxy):
    """OutcomeUnknownError, and exactly one INCR in the server."""
    async with wire(proxy.client_kwargs) as client:
        await client.ping()
        proxy.drop_reply_to(b"INCR")

        error = await outcome(client.incr("n"))

        assert isinstance(error, OutcomeUnknownError)
        assert isinstance(error, redis_errors.ConnectionError)
        assert server.execute("GET", "n") == b"1"


async def test_read_whose_reply_is_lost_is_read_again(server, proxy):
    """A GET is harmless twice: its caller hears nothing of the cut."""
    async with wire(proxy.client_kwargs) as client:
        await client.set("k", "v")
        proxy.drop_reply_to(b"GET")

        assert await client.get("k") == b"v"


async def test_transaction_whose_reply_is_lost_is_executed_once(server, proxy):
    """Unavailable and unknown, never a raw error of redis-py alone; executed once."""
    async with wire(proxy.client_kwargs) as client:
        await client.ping()
        proxy.drop_reply_to(b"EXEC")

        error = await outcome(client.pipeline().incr("n").execute())

        assert server.execute("GET", "n") == b"1"
        assert isinstance(error, OutcomeUnknownError)


async def test_stalled_transaction_is_an_operation_timeout(server, proxy):
    """Ours and redis-py's at once, as on a lane."""
    async with wire(proxy.client_kwargs) as client:
        await client.pipeline().set("k", "v").execute()
        proxy.replies.stall()

        error = await outcome(client.pipeline().incr("n").execute())

        assert isinstance(error, OperationTimeoutError)
        assert isinstance(error, redis_errors.TimeoutError)
        proxy.replies.heal()


async def test_stalled_own_connection_is_an_operation_timeout(server, proxy):
    """The same for `client()`."""
    async with wire(proxy.client_kwargs) as client, client.client() as own:
        await own.set("k", "v")
        proxy.replies.stall()

        error = await outcome(own.incr("n"))

        assert isinstance(error, OperationTimeoutError)
        proxy.replies.heal()


async def test_pipeline_whose_reply_is_lost_is_executed_once(server, proxy):
    """A pipeline on a lane is not sent again either."""
    async with wire(proxy.client_kwargs) as client:
        await client.ping()
        proxy.drop_reply_to(b"INCR")

        error = await outcome(client.pipeline(transaction=False).incr("n").execute())

        assert isinstance(error, OutcomeUnknownError)
        assert server.execute("GET", "n") == b"1"


async def test_blocking_pop_whose_reply_is_lost_is_unknown(server, proxy):
    """The element is gone and the error says that this may be so."""
    async with wire(proxy.client_kwargs) as client:
        await client.rpush("l", "x")
        proxy.drop_reply_to(b"BLPOP")

        assert isinstance(await outcome(client.blpop("l", 1)), OutcomeUnknownError)
        assert server.execute("LLEN", "l") == 0


async def test_retry_budget_bounds_the_retries(server, proxy):
    """A path that cuts every GET gets a few retries a second, not one per caller."""
    async with wire(proxy.client_kwargs, breaker=CALM) as client:
        await client.ping()
        proxy.requests.forget()

        async def cut_after_each() -> None:
            for _ in range(6):
                proxy.replies.is_swallowing = True
                await proxy.wait_for_request(b"GET")
                proxy.cut()
                proxy.requests.forget()
                proxy.replies.is_swallowing = False
                await asyncio.sleep(0.01)

        async with asyncio.TaskGroup() as group:
            cutter = group.create_task(cut_after_each())
            results = await all_of(client.get("k") for _ in range(100))
            cutter.cancel()

        failed = sum(isinstance(result, UnavailableError) for result in results)
        assert failed >= 100 - 15


# --- refusals ---------------------------------------------------------------------


async def test_readonly_is_retried_and_leads_to_a_new_connection(own_server):
    """A replica that becomes a master within the deadline: the write succeeds."""
    async with wire(own_server.client_kwargs, command_timeout=1.0) as client:
        await client.set("k", "v0")
        own_server.execute("REPLICAOF", "127.0.0.1", "1")
        async with asyncio.TaskGroup() as group:
            task = group.create_task(outcome(client.set("k", "v1")))
            await wait_until(lambda: client.statistics().dials >= 2, "it dials again")
            own_server.execute("REPLICAOF", "NO", "ONE")

        assert task.result() is True
        assert own_server.execute("GET", "k") == b"v1"


async def test_lasting_readonly_is_told_and_opens_the_circuit(own_server):
    """The answer for one call; repeated, it is a node that does not serve."""
    async with wire(own_server.client_kwargs) as client:
        await client.set("k", "v0")
        own_server.execute("REPLICAOF", "127.0.0.1", "1")

        first = await outcome(client.set("k", "v1"))
        assert isinstance(first, redis_errors.ReadOnlyError)

        async def is_open() -> bool:
            await outcome(client.set("k", "v1"))
            return client.statistics().circuit.openings > 0

        await wait_until(is_open, "the circuit opens")
        own_server.execute("REPLICAOF", "NO", "ONE")


async def test_busy_server_is_retried(own_server):
    """A script that ends within the deadline costs its neighbours time only."""
    own_server.execute("CONFIG", "SET", "busy-reply-threshold", 5)
    async with wire(own_server.client_kwargs, command_timeout=2.0) as client:
        await client.ping()
        with busy(own_server):
            async with asyncio.TaskGroup() as group:
                task = group.create_task(outcome(client.incr("n")))
                await asyncio.sleep(0.05)
                own_server.execute("SCRIPT", "KILL")
        assert task.result() == 1


async def test_dial_while_a_script_runs_is_unavailable_not_misconfigured(own_server):
    """-BUSY passes: nothing is wrong with the settings, and no long pause follows."""
    own_server.execute("CONFIG", "SET", "busy-reply-threshold", 5)
    async with wire(own_server.client_kwargs) as client:
        with busy(own_server):
            error = await outcome(client.ping())
            own_server.execute("SCRIPT", "KILL")

        assert isinstance(error, UnavailableError)
        assert await eventually(client.ping, "it works again", 1.0)


@contextmanager
def busy(server: RealServer) -> Iterator[None]:
    """Have the server run an endless script; the block ends it, or this does."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(server.unix_socket)
        client.sendall(b"EVAL 'while true do end' 0\r\n")
        with suppress(redis_errors.RedisError):
            while True:
                server.execute("PING")
        try:
            yield
        finally:
            with suppress(redis_errors.RedisError):
                server.execute("SCRIPT", "KILL")


async def test_misconf_is_retried(own_server):
    """Refused because a snapshot failed: sent again, and executed once."""
    async with wire(own_server.client_kwargs, command_timeout=2.0) as client:
        await client.ping()
        own_server.execute("CONFIG", "SET", "appendonly", "no")
        own_server.execute("CONFIG", "SET", "save", "3600 1")
        own_server.execute("SET", "dirty", "1")
        (own_server.folder / "dump.rdb").mkdir()  # a snapshot cannot replace a folder
        with suppress(redis_errors.RedisError):
            own_server.execute("BGSAVE")
        await wait_until(
            lambda: own_server.info("persistence")["rdb_last_bgsave_status"] == "err",
            "the snapshot has failed",
        )
        async with asyncio.TaskGroup() as group:
            task = group.create_task(outcome(client.incr("n")))
            await asyncio.sleep(0.05)
            own_server.execute("CONFIG", "SET", "stop-writes-on-bgsave-error", "no")

        assert task.result() == 1


@pytest.mark.parametrize("code", ["LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN"])
async def test_refusal_before_execution_is_retried(code):
    """What the server has not executed may be sent again, a write as well."""
    answers = [f"-{code} not now\r\n".encode(), b":1\r\n"]
    async with (
        FakeServer(INCRBY=lambda _: answers.pop(0)) as fake,
        wire(fake.client_kwargs) as client,
    ):
        assert await client.incr("n") == 1
        assert fake.count(b"INCRBY") == 2


@pytest.mark.parametrize("code", ["LOADING", "MASTERDOWN"])
async def test_dial_to_a_server_that_does_not_serve_yet_is_unavailable(code):
    """It lives and will serve: not a mistake in the settings."""
    async with (
        FakeServer(PING=f"-{code} not yet\r\n".encode()) as fake,
        wire(fake.client_kwargs) as client,
    ):
        assert isinstance(await outcome(client.get("k")), UnavailableError)
        fake.replies["PING"] = b"+PONG\r\n"
        await eventually(lambda: client.get("k"), "it serves", 2.0)


@pytest.mark.parametrize("code", ["OOM", "NOPERM", "WRONGTYPE", "ERR", "NOREPLICAS"])
async def test_other_error_replies_are_answers(code):
    """Not retried, not a failure of the node."""
    async with (
        FakeServer(INCRBY=f"-{code} no\r\n".encode()) as fake,
        wire(fake.client_kwargs) as client,
    ):
        error = await outcome(client.incr("n"))

        assert isinstance(error, redis_errors.ResponseError)
        assert not isinstance(error, CrewRedisError)
        assert fake.count(b"INCRBY") == 1
        assert client.statistics().circuit.hard == 0


async def test_script_flushed_away_is_loaded_again(server):
    """NOSCRIPT: redis-py's Script loads it and goes on."""
    async with wire(server.client_kwargs) as client:
        script = client.register_script("return redis.call('INCR', KEYS[1])")
        assert await script(keys=["n"]) == 1
        server.execute("SCRIPT", "FLUSH")
        assert await script(keys=["n"]) == 2


# --- connections ------------------------------------------------------------------


async def test_idle_connection_closed_by_the_server_costs_nothing(server):
    """The next command dials and works; the circuit has heard of no failure."""
    async with wire(server.client_kwargs) as client:
        number = await client.client_id()
        server.execute("CLIENT", "KILL", "ID", number)
        await wait_until(lambda: not client.node.interactive.is_alive, "it is closed")

        assert await client.incr("n") == 1
        assert client.statistics().circuit.hard == 0
        assert client.statistics().strays == 0


async def test_pooled_connection_closed_by_the_server_costs_nothing(server):
    """The same for a dedicated one."""
    async with wire(server.client_kwargs) as client:
        await client.pipeline().set("k", "v").execute()
        server.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await wait_until(lambda: not client.node.interactive.is_alive, "it is closed")

        assert await client.pipeline().set("k", "v").execute() == [True]


async def test_full_server_is_told_and_the_living_lane_goes_on(own_server):
    """maxclients: a new connection is refused, the present ones work."""
    async with wire(own_server.client_kwargs, breaker=CALM) as client:
        await client.set("k", "v")
        own_server.execute("CONFIG", "SET", "maxclients", 1)

        error = await outcome(client.blpop("l", 0.1))

        assert isinstance(error, UnavailableError)
        assert isinstance(error, redis_errors.ConnectionError)
        assert await client.get("k") == b"v"


@pytest.mark.parametrize("garbage", [b"!!!\r\n", b"+unasked\r\n", b"$3\r\nabcdef\r\n"])
async def test_garbage_ends_the_lane_and_nobody_gets_it(garbage):
    """A typed error, a new connection, and no reply of somebody else."""
    async with (
        FakeServer(INCRBY=b"", ECHO=lambda command: bulk(command[1].decode())) as fake,
        wire(fake.client_kwargs, breaker=CALM) as client,
    ):
        await client.ping()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(outcome(client.incr("n")))
            await wait_until(lambda: fake.count(b"INCRBY") == 1, "it is sent")
            fake.send(garbage if garbage != b"+unasked\r\n" else garbage * 2)

        if garbage == b"!!!\r\n":
            assert isinstance(task.result(), OutcomeUnknownError)
        fake.replies["CLIENT"] = b":1\r\n"
        assert await eventually(lambda: client.echo("own"), "it works again") == b"own"
        assert client.statistics().dials == 2


async def test_undecodable_reply_is_its_callers_error_alone(server):
    """With decode_responses: UnicodeDecodeError for one, replies for the others."""
    server.execute("SET", "binary", b"\xff\xfe")
    async with wire(server.client_kwargs, options={"decode_responses": True}) as client:
        await client.set("text", "é")

        results = await all_of(
            [client.get("text"), client.get("binary"), client.get("text")]
        )

        assert isinstance(results[1], UnicodeDecodeError)
        assert (results[0], results[2]) == ("é", "é")
        assert client.statistics().dials == 1


async def test_undecodable_part_of_a_large_reply_is_its_callers_error_alone(server):
    """The same on the way of large replies, and inside a list."""
    server.execute("RPUSH", "binary", b"x" * 100_000, b"\xff\xfe", b"y")
    async with wire(server.client_kwargs, options={"decode_responses": True}) as client:
        await client.set("text", "é")

        results = await all_of(
            [client.lrange("binary", 0, -1), client.get("text"), client.get("text")]
        )

        assert isinstance(results[0], UnicodeDecodeError)
        assert results[1:] == ["é", "é"]


async def test_thousands_of_undecodable_replies_are_their_callers_errors(server):
    """In one chunk of input: no limit of the stack is met."""
    server.execute("SET", "binary", b"\xff\xfe")
    async with wire(
        server.client_kwargs, command_timeout=3.0, options={"decode_responses": True}
    ) as client:
        await client.set("text", "é")
        results = await all_of(client.get("binary") for _ in range(4000))

        assert {type(result) for result in results} == {UnicodeDecodeError}
        assert await client.get("text") == "é"
        assert client.statistics().dials == 1


async def test_undecodable_part_ahead_of_its_reply_shifts_nothing(server):
    """The bad element arrives first, the rest of its reply in later pieces."""
    server.execute("RPUSH", "binary", b"\xff\xfe", *[b"x" * 100_000] * 20)
    async with wire(
        server.client_kwargs, command_timeout=3.0, options={"decode_responses": True}
    ) as client:
        await client.set("text", "é")
        calls = [client.lrange("binary", 0, -1)]
        calls += [client.echo(f"{i}") for i in range(50)]
        results = await all_of(calls)

        assert isinstance(results[0], UnicodeDecodeError)
        assert results[1:] == [f"{i}" for i in range(50)]


async def test_push_listener_that_raises_does_not_end_the_lane():
    """A push is nobody's reply; neither is the listener's mistake."""

    def listen(_: object) -> None:
        raise ValueError("a mistake of the listener")

    async with (
        FakeServer(GET=b">2\r\n+invalidate\r\n*0\r\n+value\r\n") as fake,
        wire(fake.client_kwargs, options={"on_push": listen}) as client,
    ):
        assert await client.get("k") == b"value"
        assert client.statistics().dials == 1
        assert client.statistics().interactive.pushes == 1


# --- who is not there, or somebody else -------------------------------------------


async def test_missing_socket_is_connection_lost(tmp_path):
    """At once, with the path, and no retries by redis-py."""
    kwargs = {"unix_socket_path": str(tmp_path / "nothing")}
    async with wire(kwargs) as client:
        loop = asyncio.get_running_loop()
        start = loop.time()
        error = await outcome(client.ping())

        assert isinstance(error, ConnectionLostError)
        assert isinstance(error, redis_errors.ConnectionError)
        assert "nothing" in str(error)
        assert loop.time() - start < CT


@pytest.fixture
def locked(make_server: Callable[..., RealServer]) -> RealServer:
    return make_server("valkey", "--requirepass", "open-sesame", password="open-sesame")


@pytest.mark.parametrize("way", ["lane", "dedicated", "transaction", "subscription"])
async def test_wrong_password_is_tried_at_most_twice_and_says_so(locked, way):
    """On every way to the server; the message holds no password."""
    kwargs = {**locked.client_kwargs, "password": "guessed-wrong"}
    async with wire(kwargs) as client:

        async def subscribe() -> None:
            async with client.pubsub() as pubsub:
                await pubsub.subscribe("c")

        calls = {
            "lane": client.ping,
            "dedicated": lambda: client.blpop("l", 0.01),
            "transaction": lambda: client.pipeline().get("k").execute(),
            "subscription": subscribe,
        }
        errors = [await outcome(calls[way]()) for _ in range(10)]

        for error in errors:
            assert isinstance(error, ConfigurationError)
            assert isinstance(error, redis_errors.AuthenticationError)
            assert "PASSWORD" in str(error)
            assert "guessed-wrong" not in str(error)
        assert failed_logins(locked) <= 2


async def test_wrong_password_is_tried_at_most_twice_by_many_callers(locked):
    """Thirty at once are no reason to try thirty times."""
    kwargs = {**locked.client_kwargs, "password": "guessed-wrong"}
    async with wire(kwargs) as client:
        errors = await all_of(client.get(f"k{i}") for i in range(30))

        assert all(isinstance(error, ConfigurationError) for error in errors)
        assert failed_logins(locked) <= 2


async def test_missing_password_says_so(locked):
    """NOAUTH names the variable to set."""
    kwargs = {"unix_socket_path": locked.unix_socket}
    async with wire(kwargs) as client:
        error = await outcome(client.ping())

        assert isinstance(error, ConfigurationError)
        assert "REDIS_CREW_PASSWORD" in str(error)


async def test_wrong_password_leaves_the_circuit_closed(locked):
    """The server answers: that is not an outage."""
    kwargs = {**locked.client_kwargs, "password": "guessed-wrong"}
    async with wire(kwargs) as client:
        for _ in range(10):
            await outcome(client.ping())
        assert client.circuit_state is CircuitState.CLOSED


@pytest.mark.parametrize("protocol", [2, 3])
async def test_web_server_is_named_as_not_redis(protocol):
    """An HTTP server behind the address: a clear error, not a timeout."""
    async with FakeServer() as fake:
        fake.is_deaf, fake.banner = True, b"HTTP/1.1 400 Bad Request\r\n\r\n"
        async with wire({**fake.client_kwargs, "protocol": protocol}) as client:
            error = await outcome(client.ping())

            assert isinstance(error, ConfigurationError)
            assert "does not speak" in str(error)


@pytest.mark.parametrize(
    ("version", "word"),
    [("redis_version:6.2.0", "6.2.0"),
     ("redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:7.1.0", "7.1.0")],
)  # fmt: skip
async def test_server_too_old_is_named(version, word):
    """With its version and what is needed."""
    async with (
        FakeServer(INFO=bulk(f"{version}\r\nrun_id:abc\r\n")) as fake,
        wire(fake.client_kwargs) as client,
    ):
        error = await outcome(client.ping())

        assert isinstance(error, ConfigurationError)
        assert word in str(error)
        assert "7.0" in str(error)


async def test_missing_database_is_a_configuration_error(server):
    """`db` out of range."""
    async with wire({**server.client_kwargs, "db": 9_999}) as client:
        error = await outcome(client.ping())

        assert isinstance(error, ConfigurationError)
        assert "DB" in str(error)


async def test_credential_provider_that_fails_is_told_and_paced(server):
    """Its own error becomes ours, with the cause, and it is not asked in a loop."""
    calls = 0

    class Broken(CredentialProvider):
        def get_credentials(self) -> tuple[str, str]:
            nonlocal calls
            calls += 1
            raise RuntimeError("the vault is sealed")

    options = {"credential_provider": Broken()}
    async with wire(server.client_kwargs, options=options) as client:
        error = await outcome(client.ping())

        assert isinstance(error, CrewRedisError)
        assert not isinstance(error, OperationTimeoutError)
        assert calls < 5


async def test_silent_listener_is_a_timeout_of_the_dial():
    """Somebody accepts and says nothing: bounded, and unavailable."""
    async with FakeServer() as fake:
        fake.is_deaf = True
        async with wire(fake.client_kwargs, connect_timeout=0.15) as client:
            error = await outcome(client.ping())

            assert isinstance(error, OperationTimeoutError)
            assert not error.sent


async def test_failing_dials_are_paced(tmp_path):
    """However many callers come, dials keep their distance."""
    kwargs = {"unix_socket_path": str(tmp_path / "nothing")}
    async with wire(kwargs, breaker=CALM) as client:
        client.node.breaker.force_closed()
        for _ in range(200):
            await outcome(client.ping())
            client.node.breaker.force_closed()

        assert client.statistics().dial_failures <= 4
