"""The failure table, where connections lead: names that move, loops, forked children.

address of the name changed    test_name_...
another loop, a forked child   test_other_loop_..., test_forked_child_...
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mcp_crew_redis._core.addresses import Addresses
from mcp_crew_redis._core.client import PipelinedRedis
from mcp_crew_redis.errors import (
    LifecycleError,
    OperationTimeoutError,
    UnavailableError,
)
from mcp_crew_redis.testing import ManualClock
from tests.faults.table_parts import KINDS, is_closed, is_open
from tests.integration.core.bench import eventually, outcome, wire
from tests.rig.servers import RealServer
from tests.rig.waiting import wait_until

pytestmark = pytest.mark.key_leaks(reason="below the store: keys by hand")

NAME = "redis.test"


@pytest.fixture
def there(make_server: Callable[..., RealServer]) -> RealServer:
    return make_server("valkey", tcp=True)


@pytest.fixture(params=["unix", "tcp"])
def way(request: pytest.FixtureRequest, there: RealServer) -> dict[str, Any]:
    """The same server over either kind of socket."""
    return there.client_kwargs if request.param == "unix" else there.tcp_kwargs


# --- names --------------------------------------------------------------------------


class NamingLoop(asyncio.SelectorEventLoop):
    """A loop that resolves one name by itself: to `addresses`, on loopback."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.asked = 0

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        if host != NAME:
            return await super().getaddrinfo(host, port, **options)
        self.asked += 1
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(*kind, (address, port)) for address in self.addresses]


def run_by_name(
    server: RealServer,
    test: Callable[[NamingLoop, PipelinedRedis], Awaitable[None]],
    clock: ManualClock | None = None,
    **limits: float,
) -> None:
    """Run `test` with a client of `NAME` at the server's port, on its own loop."""

    async def run() -> None:
        where = {**server.tcp_kwargs, "host": NAME, "clock": clock}
        async with wire(where, **limits) as client:
            await test(loop, client)

    loop = NamingLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(run())


async def lose_the_lane(server: RealServer, client: PipelinedRedis) -> None:
    server.execute("CLIENT", "KILL", "TYPE", "normal")
    await wait_until(lambda: not client.node.interactive.is_alive, "it is lost")


def test_name_is_resolved_at_every_dial(there):
    """A server that moved is found where the name leads now, without help."""

    async def test(loop: NamingLoop, client: PipelinedRedis) -> None:
        loop.addresses = ["127.0.0.1"]
        await client.ping()
        await lose_the_lane(there, client)
        loop.addresses = ["127.0.0.2"]  # nobody listens there
        assert isinstance(await outcome(client.ping()), UnavailableError)
        await is_open(client)
        loop.addresses = []  # not even a name
        asked = loop.asked
        await wait_until(lambda: loop.asked > asked, "the probe asks again")
        loop.addresses = ["127.0.0.1"]
        await is_closed(client)
        assert await eventually(client.ping, "it works again")

    run_by_name(there, test)


def test_name_with_several_addresses_is_tried_at_each(there):
    """One that refuses costs nothing but its turn, and is tried last from then on."""

    async def test(loop: NamingLoop, client: PipelinedRedis) -> None:
        loop.addresses = ["127.0.0.2", "127.0.0.3", "127.0.0.1"]
        assert await client.ping()
        assert client.statistics().dial_failures == 0
        await lose_the_lane(there, client)
        assert await client.ping()
        assert client.node.interactive.peer == "127.0.0.1"

    run_by_name(there, test)


def test_name_whose_first_address_is_deaf_is_served_by_the_next(there):
    """An old server that accepts and says nothing: the next dial goes elsewhere."""
    with socket.create_server(("127.0.0.2", there.tcp_port)) as deaf:
        deaf.setblocking(False)

        async def test(loop: NamingLoop, client: PipelinedRedis) -> None:
            loop.addresses = ["127.0.0.2", "127.0.0.1"]
            assert isinstance(await outcome(client.ping()), OperationTimeoutError)
            await is_closed(client)
            assert await eventually(client.ping, "it is served")
            assert client.node.interactive.peer == "127.0.0.1"

        run_by_name(there, test, connect_timeout=0.2)


def test_name_leads_away_from_a_server_that_became_a_replica(there):
    """READONLY: the next dial goes to the other address, where the master may be."""
    with socket.create_server(("127.0.0.2", there.tcp_port)) as other:
        other.setblocking(False)

        def is_called() -> bool:
            try:
                other.accept()[0].close()
            except BlockingIOError:
                return False
            return True

        async def test(loop: NamingLoop, client: PipelinedRedis) -> None:
            loop.addresses = ["127.0.0.1"]
            await client.ping()
            loop.addresses = ["127.0.0.1", "127.0.0.2"]
            there.execute("REPLICAOF", "127.0.0.1", "1")
            await outcome(client.set("k", "v"))
            await wait_until(is_called, "the other address is dialled")

        run_by_name(there, test)


def test_name_that_leads_elsewhere_is_noticed_by_an_idle_lane(there):
    """Every half minute without traffic; the old server may live on for ever."""
    clock = ManualClock()

    async def test(loop: NamingLoop, client: PipelinedRedis) -> None:
        loop.addresses = ["127.0.0.1"]
        await client.ping()
        asked, lane = loop.asked, client.node.interactive
        loop.addresses = ["127.0.0.2"]
        await wait_until(
            lambda: client.statistics().interactive.answered > 3, "it has idled"
        )
        assert loop.asked == asked  # not yet
        await clock.advance(30.0)
        await wait_until(lambda: not lane.is_alive, "the lane is left")
        assert loop.asked == asked + 1
        assert client.statistics().circuit.hard == 0
        assert client.statistics().strays == 0

    run_by_name(there, test, clock=clock, idle_ping=0.02)


def test_name_with_endless_addresses_is_remembered_within_bounds():
    """A name that moves all day leaves a handful of failures behind."""
    addresses = Addresses()
    for number in range(1_000):
        addresses.failed(f"10.0.0.{number}")

    assert len(repr(addresses)) < 500
    assert addresses.ordered(["10.0.0.999", "10.0.0.1"]) == ["10.0.0.1", "10.0.0.999"]


# --- another loop, another process --------------------------------------------------


def test_other_loop_is_told_so_and_sends_nothing(there, way):
    """One client per loop: use in a second one raises, the first goes on."""

    async def use() -> tuple[PipelinedRedis, Any]:
        context = wire(way)
        client = await context.__aenter__()
        await client.set("k", "mine")
        return client, context

    async def misuse(client: PipelinedRedis) -> list[object]:
        async with asyncio.timeout(5.0):
            return [await outcome(call(client)) for call in KINDS.values()]

    with asyncio.Runner() as first:
        client, context = first.run(use())
        with asyncio.Runner() as second:
            errors = second.run(misuse(client))

        assert all(isinstance(error, LifecycleError) for error in errors), errors
        assert there.execute("EXISTS", "n") == 0
        assert first.run(client.get("k")) == b"mine"
        assert client.statistics().dials == 1
        first.run(context.__aexit__(None, None, None))


FORKING = """
    import asyncio, os, sys, traceback
    from mcp_crew_redis._core.client import PipelinedRedis
    from mcp_crew_redis.errors import LifecycleError

    async def refused(client):
        for call in (
            lambda: client.set("k", "the child's"),
            lambda: client.pipeline().set("k", "the child's").execute(),
        ):
            try:
                await call()
            except LifecycleError:
                continue
            return False
        return True

    async def child(client):
        is_refused = await refused(client)
        await client.aclose()
        return is_refused

    async def main():
        client = PipelinedRedis(**ARGUMENTS)
        await client.set("k", "the parent's")
        await client.pipeline().get("k").execute()
        pid = os.fork()
        if pid == 0:
            try:
                in_the_loop = False
                if HOW == "in its loop":
                    coroutine = refused(client)
                    try:
                        while True:
                            coroutine.send(None)
                    except StopIteration as end:
                        in_the_loop = end.value
                else:
                    in_the_loop = True
                asyncio.events._set_running_loop(None)
                os._exit(0 if in_the_loop and asyncio.run(child(client)) else 1)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(2)
        for _ in range(20):
            assert await client.echo("own") == b"own"
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        assert status == 0, status
        for _ in range(20):
            assert await client.echo("own") == b"own"
        assert await client.pipeline().get("k").execute() == [b"the parent's"]
        assert client.statistics().dials == 1, client.statistics()
        print(len(await client.client_list()))
        await client.aclose()

    asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["in its loop", "in a new loop"])
def test_forked_child_is_refused_and_shares_no_socket(there, way, how):
    """It sends nothing, its close ends nothing, and its parent notices nothing."""
    program = f"ARGUMENTS = {way!r}\nHOW = {how!r}\n{textwrap.dedent(FORKING)}"
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", program],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == "2\n"  # the lane, and the connection of the transactions
    assert there.execute("GET", "k") == b"the parent's"
