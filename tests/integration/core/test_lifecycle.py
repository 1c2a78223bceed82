"""A client's life: construction, use from one loop, the end, and what is left."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress

import pytest
import redis.asyncio
from redis import exceptions as redis_errors

from mcp_crew_redis._core.client import PipelinedRedis
from mcp_crew_redis._core.wire_settings import WireSettings
from mcp_crew_redis.errors import CrewRedisError, LifecycleError, UnavailableError
from mcp_crew_redis.testing import FaultProxy
from tests.integration.core.bench import outcome, wire
from tests.rig.servers import RealServer
from tests.rig.waiting import wait_until


def client_of(server: RealServer, **limits: float) -> PipelinedRedis:
    return PipelinedRedis(wire=WireSettings(**limits), **server.client_kwargs)


def test_construction_is_inert() -> None:
    """No loop, no socket, no task: it can be made at import time."""
    client = PipelinedRedis(unix_socket_path="/nowhere")
    assert "nowhere" in repr(client)
    assert client.statistics().dials == 0


async def test_closing_twice_is_closing_once(server):
    """aclose() is idempotent, also at the same time."""
    client = client_of(server)
    await client.ping()
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(client.aclose())
    await client.aclose()
    await wait_until(lambda: server.info("clients")["connected_clients"] == 1, "gone")


async def test_closing_an_unused_client_is_nothing():
    """Neither does it dial."""
    await PipelinedRedis(unix_socket_path="/nowhere").aclose()


@pytest.mark.parametrize("way", ["lane", "dedicated", "pipeline", "transaction"])
async def test_use_after_close_is_a_lifecycle_error(server, way):
    """On every way; nothing is dialled again."""
    client = client_of(server)
    await client.ping()
    await client.aclose()
    calls = {
        "lane": lambda: client.get("k"),
        "dedicated": lambda: client.blpop("l", 0.1),
        "pipeline": lambda: client.pipeline(transaction=False).get("k").execute(),
        "transaction": lambda: client.pipeline().get("k").execute(),
    }

    assert isinstance(await outcome(calls[way]()), LifecycleError)


async def test_use_of_never_used_client_after_close_is_a_lifecycle_error(server):
    """The same without a connection before."""
    client = client_of(server)
    await client.aclose()
    assert isinstance(await outcome(client.get("k")), LifecycleError)


async def test_close_during_the_dial_frees_the_callers(server):
    """Whoever waits for the connection gets an error at once, and nothing is left."""
    async with FaultProxy(server.unix_socket) as proxy:
        proxy.replies.stall()
        client = PipelinedRedis(**proxy.client_kwargs)
        async with asyncio.timeout(0.5), asyncio.TaskGroup() as group:
            task = group.create_task(outcome(client.ping()))
            await proxy.wait_for_request(b"HELLO")
            await client.aclose()
        assert isinstance(task.result(), LifecycleError)


async def test_close_with_commands_pending_frees_the_callers(server):
    """Sent writes are unknown, everything else is refused; nobody hangs."""
    async with FaultProxy(server.unix_socket) as proxy:
        client = PipelinedRedis(**proxy.client_kwargs)
        await client.ping()
        proxy.replies.stall()
        async with asyncio.timeout(0.5), asyncio.TaskGroup() as group:
            tasks = [group.create_task(outcome(client.incr("n"))) for _ in range(5)]
            tasks += [group.create_task(outcome(client.get("n"))) for _ in range(5)]
            await proxy.wait_for_request(b"GET")
            await client.aclose()
        assert all(isinstance(task.result(), CrewRedisError) for task in tasks)


async def test_close_while_a_blocking_call_waits_frees_it(server):
    """BLPOP for ever ends with its client."""
    client = client_of(server)
    await client.ping()
    async with asyncio.timeout(1.0), asyncio.TaskGroup() as group:
        task = group.create_task(outcome(client.blpop("l", 0)))
        await wait_until(
            lambda: server.info("clients")["blocked_clients"] == 1, "it blocks"
        )
        await client.aclose()
    assert isinstance(task.result(), (CrewRedisError, redis_errors.ConnectionError))


async def test_close_while_callers_wait_for_room_frees_them(server):
    """Waiters of the turnstile as well."""
    async with FaultProxy(server.unix_socket) as proxy:
        client = PipelinedRedis(wire=WireSettings(max_pending=1), **proxy.client_kwargs)
        await client.ping()
        proxy.replies.stall()
        async with asyncio.timeout(0.5), asyncio.TaskGroup() as group:
            tasks = [group.create_task(outcome(client.get("n"))) for _ in range(5)]
            await wait_until(
                lambda: client.statistics().interactive.waiting == 4, "four wait"
            )
            await client.aclose()
        assert all(isinstance(task.result(), CrewRedisError) for task in tasks)


async def test_close_while_the_circuit_is_open_ends_the_probes(own_server):
    """No task is left (the guard of every test looks)."""
    async with wire(own_server.client_kwargs) as client:
        await client.ping()
        own_server.kill()
        await outcome(client.ping())
        await outcome(client.ping())


async def test_closed_client_leaves_no_warning_at_collection(server):
    """Neither sockets nor coroutines are forgotten."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        client = client_of(server)
        await client.set("k", b"x" * 100_000)
        await client.get("k")
        await client.pipeline().get("k").execute()
        async with client.client() as own:
            await own.ping()
        await client.aclose()
        del client, own
        await asyncio.sleep(0)
        gc.collect()
    assert [str(one.message) for one in caught] == []


async def test_pool_given_by_the_user_leaves_nothing_open(server):
    """`connection_pool=`: the connections that we made are ours to close."""
    pool = redis.asyncio.ConnectionPool.from_url(
        f"unix://{server.unix_socket}", protocol=3
    )
    client = PipelinedRedis(connection_pool=pool)
    await client.set("k", "v")
    await client.pipeline().get("k").execute()
    await client.aclose()
    await pool.aclose()
    await wait_until(lambda: server.info("clients")["connected_clients"] == 1, "gone")


async def test_context_manager_closes(server):
    """`async with PipelinedRedis(...)`."""
    async with client_of(server) as client:
        await client.ping()
    assert isinstance(await outcome(client.ping()), LifecycleError)


async def test_no_thread_is_started_for_localhost(make_server):
    """The name is dialled as 127.0.0.1, without the loop's resolver."""
    server: RealServer = make_server("valkey", tcp=True)
    before = threading.active_count()
    for host in ("localhost", "127.0.0.1"):
        async with wire({"host": host, "port": server.tcp_port}) as client:
            assert await client.ping()
            assert await client.pipeline().get("k").execute() == [None]
    assert threading.active_count() == before


def second_loop(server: RealServer, use: Callable) -> object:
    """Use a client in one loop, then run `use` in another; return its outcome."""
    client = client_of(server, command_timeout=0.5)
    first = asyncio.Runner()
    second = asyncio.Runner()
    try:
        first.run(client.set("k", "v"))
        first.run(client.pipeline().get("k").execute())

        async def bounded() -> object:
            async with asyncio.timeout(3.0):
                return await outcome(use(client))

        return second.run(bounded())
    finally:
        # Where the rule is broken the remains belong to two loops: not more noise.
        with warnings.catch_warnings(), suppress(RuntimeError):
            warnings.simplefilter("ignore")
            first.run(client.aclose())
            second.close()
            first.close()
            gc.collect()


@pytest.mark.parametrize(
    "use",
    [
        lambda client: client.get("k"),
        lambda client: client.set("k", "misused"),
        lambda client: client.set("k", b"x" * 100_000),
        lambda client: client.blpop("l", 0.1),
        lambda client: client.pipeline().get("k").execute(),
        lambda client: client.pipeline(transaction=False).get("k").execute(),
    ],
    ids=["read", "write", "large", "blocking", "transaction", "pipeline"],
)
def test_use_from_a_second_loop_is_a_lifecycle_error(session_servers, use):
    """Not a hang, and not a command that is sent when the first loop goes on."""
    server = session_servers("valkey")

    assert isinstance(second_loop(server, use), LifecycleError)
    assert server.execute("STRLEN", "k") == 1


async def test_refused_by_another_loop_leaves_the_first_one_working(server):
    """The client's own loop is not harmed by the misuse."""
    client = client_of(server)
    await client.set("k", "v")

    def misuse() -> None:
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(outcome(client.get("k")))
        finally:
            loop.close()

    thread = threading.Thread(target=misuse)  # a loop cannot run inside a loop
    thread.start()
    while thread.is_alive():  # noqa: ASYNC110 - a thread sets no event
        await asyncio.sleep(0.005)

    assert await client.get("k") == b"v"
    assert client.statistics().interactive.pending == 0
    await client.aclose()


async def test_eager_failure_of_a_dial_is_an_ordinary_error(tmp_path):
    """A dial that fails before it has waited for anything is like any other."""
    kwargs = {"unix_socket_path": str(tmp_path / "nothing")}
    async with wire(kwargs) as client:
        errors = [await outcome(client.ping()) for _ in range(3)]
    assert all(isinstance(error, UnavailableError) for error in errors)
