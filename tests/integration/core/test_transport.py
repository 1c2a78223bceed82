"""The same wire over TLS and on uvloop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import uvloop

from mcp_crew_redis._core.client import PipelinedRedis
from mcp_crew_redis._core.wire_settings import WireSettings
from mcp_crew_redis.errors import ConnectionLostError, OperationTimeoutError
from tests.integration.core.bench import CT, QUICK, eventually, outcome, wire
from tests.rig.certificates import make_certificates
from tests.rig.servers import RealServer


async def test_everything_travels_over_tls(tls_proxy, certificates):
    """Lanes, large values, transactions and blocking commands."""
    kwargs = {**tls_proxy.client_kwargs, "ssl_ca_certs": certificates.ca_file}
    async with wire(kwargs, command_timeout=2.0) as client:
        large = b"x" * 500_000
        await client.set("k", large)
        assert await client.get("k") == large
        assert await client.get("k") == large
        assert await client.pipeline().get("k").execute() == [large]
        assert await client.blpop("l", 0.01) is None
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(client.echo(f"{i}")) for i in range(200)]
        assert [task.result() for task in tasks] == [b"%d" % i for i in range(200)]


async def test_stalled_tls_lane_is_given_up_and_replaced(tls_proxy, certificates):
    """Timeout, circuit, kill and recovery as without TLS."""
    kwargs = {**tls_proxy.client_kwargs, "ssl_ca_certs": certificates.ca_file}
    async with wire(kwargs) as client:
        await client.set("k", "v")
        tls_proxy.replies.stall()
        assert isinstance(await outcome(client.get("k")), OperationTimeoutError)
        tls_proxy.heal()
        assert await eventually(lambda: client.get("k"), "it works again") == b"v"


async def test_certificate_of_another_authority_is_a_clear_error(tls_proxy, tmp_path):
    """The server is not who it should be: no command reaches it."""
    other = make_certificates(tmp_path)
    kwargs = {**tls_proxy.client_kwargs, "ssl_ca_certs": other.ca_file}
    async with wire(kwargs) as client:
        error = await outcome(client.ping())

        assert isinstance(error, ConnectionLostError)
        assert "certificate" in str(error).lower()


async def test_hostname_is_checked_as_localhost(tls_proxy, certificates):
    """The certificate is for localhost; the address that is dialled is not asked."""
    kwargs = {**tls_proxy.client_kwargs, "ssl_ca_certs": certificates.ca_file}
    kwargs |= {"host": "localhost", "ssl_check_hostname": True}
    async with wire(kwargs) as client:
        assert await client.ping()


async def test_missing_authority_file_is_a_clear_error(tls_proxy):
    """It names the file, not a timeout."""
    kwargs = {**tls_proxy.client_kwargs, "ssl_ca_certs": "/nowhere/ca.pem"}
    async with wire(kwargs) as client:
        error = await outcome(client.ping())
        assert not isinstance(error, OperationTimeoutError)
        assert isinstance(error, Exception)


async def test_plain_server_behind_tls_settings_is_an_error(make_server):
    """Speaking TLS to a server that does not: bounded and typed."""
    server = make_server("valkey", tcp=True)
    kwargs = {**server.tcp_kwargs, "ssl": True, "ssl_cert_reqs": "none"}
    async with wire(kwargs) as client:
        error = await outcome(client.ping())
        assert isinstance(error, (ConnectionLostError, OperationTimeoutError))


# --- uvloop -----------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def _uvloop_has_run() -> None:
    """Let uvloop open what it keeps for the process, before leaks are counted."""

    async def nothing() -> None:
        pass

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(nothing())


def on_uvloop(
    server: RealServer, use: Callable, *, patience: float = CT, **kwargs: object
) -> object:
    """Run `use(client)` on uvloop, as an application would."""

    async def main() -> object:
        async with asyncio.timeout(10.0):
            client = PipelinedRedis(
                wire=WireSettings(command_timeout=patience),
                breaker=QUICK,
                **{**server.client_kwargs, **kwargs},
            )
            async with client:
                return await use(client)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def test_uvloop_carries_many_callers(session_servers):
    """Unique values to their own callers."""

    async def use(client: PipelinedRedis) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(client.echo(f"{i}")) for i in range(3000)]
            for task in tasks[::3]:
                task.cancel()
        for i, task in enumerate(tasks):
            assert task.cancelled() or task.result() == b"%d" % i
        assert client.statistics().dials == 1

    on_uvloop(session_servers("valkey"), use, patience=5.0)  # no test of speed


def test_uvloop_carries_large_values_and_transactions(session_servers):
    """Both lanes and the pool."""

    async def use(client: PipelinedRedis) -> None:
        large = b"x" * 2_000_000
        await client.set("k", large)
        for _ in range(3):
            assert await client.get("k") == large
        assert await client.pipeline().incr("n").execute() == [1]
        assert await client.blpop("l", 0.01) is None
        async with client.pubsub() as pubsub:
            await pubsub.subscribe("c")
            assert (await pubsub.get_message(timeout=1))["type"] == "subscribe"

    on_uvloop(session_servers("valkey"), use, patience=5.0)


def test_uvloop_notices_a_stalled_server_and_its_recovery(make_server):
    """Timeout, circuit, kill, probe."""
    server: RealServer = make_server("valkey")

    async def use(client: PipelinedRedis) -> None:
        await client.set("k", "v")
        with server.paused():
            assert isinstance(await outcome(client.get("k")), OperationTimeoutError)
        assert await eventually(lambda: client.get("k"), "it works again") == b"v"

    on_uvloop(server, use)


def test_uvloop_survives_a_restart(make_server):
    """The same client goes on."""
    server: RealServer = make_server("valkey")

    async def use(client: PipelinedRedis) -> None:
        await client.set("k", "v")
        server.restart()
        assert await eventually(lambda: client.get("k"), "it works again") == b"v"

    on_uvloop(server, use)


@pytest.mark.parametrize("name", ["clustered"])
def test_uvloop_on_a_cluster_node(session_servers, name):
    """One node that owns every slot."""

    async def use(client: PipelinedRedis) -> None:
        assert await client.set("k", "v")
        assert await client.pipeline(transaction=False).get("k").execute() == [b"v"]

    on_uvloop(session_servers(name), use)
