"""The failure table, what becomes of callers: cancelled, and given garbage.

cancelled in mid-reply   test_caller_cancelled_in_the_middle_..., test_thousands_...
cancelled in cleanup     test_callers_cancelled_again_...
garbage for a reply      test_garbage_...
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from mcp_crew_redis.errors import OutcomeUnknownError
from tests.faults.table_parts import KINDS, proxied
from tests.integration.core.bench import eventually, outcome, wire
from tests.integration.core.fake_server import FakeServer, bulk
from tests.rig.servers import RealServer
from tests.rig.waiting import wait_until

pytestmark = pytest.mark.key_leaks(reason="below the store: keys by hand")


@pytest.fixture
def there(make_server: Callable[..., RealServer]) -> RealServer:
    return make_server("valkey", tcp=True)


@pytest.fixture(params=["unix", "tcp"])
def way(request: pytest.FixtureRequest, there: RealServer) -> dict[str, Any]:
    """The same server over either kind of socket."""
    return there.client_kwargs if request.param == "unix" else there.tcp_kwargs


# --- cancelled ----------------------------------------------------------------------


async def test_caller_cancelled_in_the_middle_of_its_reply_shifts_nothing(there, way):
    """Its slot stays, the rest of the reply is dropped, the connection is kept."""
    async with (
        proxied(there, way) as proxy,
        wire(proxy.client_kwargs, command_timeout=5.0) as client,
    ):
        await client.set("k", b"x" * 60_000)
        proxy.replies.trickle = 4_000
        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                task = group.create_task(client.get("k"))
                echo = group.create_task(client.echo("own"))
                await proxy.wait_for_reply(b"$60000")
                proxy.replies.forget()
                task.cancel()
                assert await echo == b"own"

        assert proxy.connection_count == 1
        assert client.statistics().interactive.pending == 0
        assert await client.echo("after") == b"after"


async def test_thousands_of_cancelled_callers_are_bounded_by_the_cap(there, way):
    """Abandoned slots count as pending until their replies have come."""
    async with (
        proxied(there, way) as proxy,
        wire(proxy.client_kwargs, max_pending=1_000, command_timeout=5.0) as client,
    ):
        await client.ping()
        proxy.replies.stall()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(client.incr("n")) for _ in range(3_000)]
            await wait_until(
                lambda: there.execute("GET", "n") == b"1000", "as many are executed"
            )
            for task in tasks:
                task.cancel()
        assert client.statistics().interactive.pending == 1_000

        proxy.replies.release()
        await wait_until(
            lambda: client.statistics().interactive.pending == 0, "all are dropped"
        )
        assert await client.get("n") == b"1000"
        assert proxy.connection_count == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_callers_cancelled_again_in_their_cleanup_leak_nothing(there, way, kind):
    """Three times in a row, at every moment: nothing is held, no reply is shifted."""
    async with (
        proxied(there, way) as proxy,
        wire(proxy.client_kwargs, command_timeout=5.0, pool_size=4) as client,
    ):
        await client.ping()

        async def call() -> object:
            return await outcome(KINDS[kind](client))

        for moment in range(60):
            async with asyncio.TaskGroup() as group:
                task = group.create_task(call())
                for _ in range(moment):
                    await asyncio.sleep(0)
                for _ in range(3):
                    task.cancel()
                    await asyncio.sleep(0)
            assert await client.echo(f"{moment}") == f"{moment}".encode()

        async with asyncio.TaskGroup() as group:
            all_at_once = [group.create_task(client.blpop(["l"], 0.2)) for _ in "ab"]
        assert [task.result() for task in all_at_once] == [None, None]
        await wait_until(lambda: proxy.open_count <= 4, "no more than the pool's size")
        assert client.statistics().interactive.pending == 0


# --- garbage ------------------------------------------------------------------------


async def test_garbage_ends_the_connection_for_everybody_on_it():
    """All its callers get an unknown outcome, and it counts as a hard failure."""
    async with (
        FakeServer(INCRBY=b"", ECHO=lambda command: bulk(command[1].decode())) as fake,
        wire(fake.client_kwargs) as client,
    ):
        await client.ping()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(outcome(client.incr("n"))) for _ in range(5)]
            await wait_until(lambda: fake.count(b"INCRBY") == 5, "they are sent")
            fake.send(b"!!!\r\n")

        assert {type(task.result()).__mro__[2] for task in tasks} == {
            OutcomeUnknownError
        }
        assert fake.count(b"INCRBY") == 5  # none was sent again
        assert client.statistics().circuit.hard == 1
        fake.replies["CLIENT"] = b":1\r\n"
        assert await eventually(lambda: client.echo("own"), "it works again") == b"own"
        assert client.statistics().dials == 2


async def test_garbage_on_an_idle_connection_is_a_hard_failure():
    """A reply that nobody asked for: the next one would be somebody else's."""
    async with FakeServer() as fake, wire(fake.client_kwargs) as client:
        await client.ping()
        fake.send(b"+unasked\r\n")
        await wait_until(lambda: not client.node.interactive.is_alive, "it is ended")

        assert client.statistics().circuit.hard == 1
        assert client.statistics().strays == 0
        assert await client.ping()
