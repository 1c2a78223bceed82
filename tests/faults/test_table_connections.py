"""The failure table, connections that fail: refused, reset, hung.

    refused                       test_refused_...
    reset after the command left  test_reset_...
    hung server                   test_hung_...

Servers that are slow or full and paths that died in silence stand in
`test_table_connections_slow.py`, what becomes of the callers themselves in
`test_table_connections_callers.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from mcp_crew_redis._core.courier import REPEATABLE
from mcp_crew_redis._core.wire_settings import PATIENCE
from mcp_crew_redis.errors import (
    ConnectionLostError,
    OperationTimeoutError,
    OutcomeUnknownError,
)
from mcp_crew_redis.testing.path import Path
from tests.faults.table_parts import (
    KINDS,
    LARGE,
    NOISE,
    all_timed,
    assert_answers_at_once,
    is_closed,
    is_open,
    proxied,
    timed,
)
from tests.integration.core.bench import CT, eventually, outcome, wire
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


# --- refused ------------------------------------------------------------------------


async def test_refused_connection_opens_the_circuit_at_once(there, way):
    """With no connection alive one refused dial is enough; then calls cost nothing."""
    async with wire(way) as client:
        await client.ping()
        there.kill()
        await wait_until(lambda: not client.node.interactive.is_alive, "it is lost")

        seconds, error = await timed(client.set("k", "v"))

        assert isinstance(error, ConnectionLostError)
        assert seconds < CT * NOISE
        await is_open(client)
        await assert_answers_at_once(client)
        assert client.statistics().circuit.openings == 1

        there.start()
        await is_closed(client)
        assert await eventually(lambda: client.set("k", "v"), "it works again")


async def test_refused_dials_beside_a_living_lane_open_the_circuit_at_the_fifth(
    there, way
):
    """Each counts as a hard failure; the lane serves until the threshold is reached."""
    async with proxied(there, way) as proxy, wire(proxy.client_kwargs) as client:
        await client.ping()
        await wait_until(
            lambda: client.statistics().circuit.calls > 0, "the ping is counted"
        )
        proxy.refuse()

        async def has_opened() -> bool:
            await outcome(client.set("large", LARGE))
            figures = client.statistics()
            assert figures.circuit.openings or figures.dial_failures < 5
            return figures.circuit.openings == 1

        await wait_until(has_opened, "the fifth dial has failed", 20.0)
        assert client.statistics().dial_failures >= 5


# --- reset --------------------------------------------------------------------------


async def test_reset_after_the_command_left_is_an_unknown_outcome(there, way):
    """A write is executed once and its caller told so; what is harmless is repeated."""
    async with proxied(there, way) as proxy, wire(proxy.client_kwargs) as client:
        await client.mset({"n": 0, "m": 0, "k": "v"})
        lost, proxy.replies = proxy.replies, Path()
        lost.stall()
        async with asyncio.TaskGroup() as group:
            write = group.create_task(outcome(client.incr("n")))
            read = group.create_task(outcome(client.get("k")))
            guarded = group.create_task(
                outcome(client.execute_command("INCRBY", "m", 1, **{REPEATABLE: True}))
            )
            await wait_until(lambda: there.execute("GET", "m") == b"1", "they are done")
            proxy.cut(with_reset="port" in way)

        assert isinstance(write.result(), OutcomeUnknownError)
        assert read.result() == b"v"
        assert guarded.result() == 2  # sent again, as its owner said it may be
        assert there.execute("GET", "n") == b"1"
        assert client.statistics().circuit.hard == 1


# --- hung ---------------------------------------------------------------------------


async def test_hung_server_costs_each_caller_one_timeout_and_then_nothing(there, way):
    """Silence opens the circuit, the watchdog ends the lane, nobody waits for long."""
    async with wire(way) as client:
        await client.set("k", "old")
        first = client.node.interactive
        with there.paused():
            calls = await all_timed(client.set("k", f"late {i}") for i in range(50))

            assert max(seconds for seconds, _ in calls) < PATIENCE * CT * NOISE
            for _, error in calls:
                assert isinstance(error, OperationTimeoutError)
                assert error.sent
            await assert_answers_at_once(client)
            await wait_until(lambda: not first.is_alive, "the watchdog has ended it")
            assert client.statistics().circuit.openings == 1
        await is_closed(client)  # without a call of ours

        assert await eventually(lambda: client.set("k", "new"), "it works again")
        await client.ping()
        assert there.execute("GET", "k") == b"new"  # no late write came over it


async def test_hung_server_at_the_first_connection_opens_the_circuit(there, way):
    """The dial may take longer; its callers and those after them need not."""
    async with wire(way, connect_timeout=30.0) as client:
        with there.paused():
            calls = await all_timed(client.get("k") for _ in range(50))

            assert max(seconds for seconds, _ in calls) < PATIENCE * CT * NOISE
            assert not any(error.sent for _, error in calls)
            await assert_answers_at_once(client)
        await is_closed(client)


async def test_hung_server_is_noticed_by_a_dial_beside_an_idle_lane(there, way):
    """While a second lane is dialled in vain, the first is asked whether it lives."""
    async with wire(way, connect_timeout=30.0, idle_ping=3600.0) as client:
        await client.ping()
        with there.paused():
            seconds, error = await timed(client.set("k", LARGE))

            assert isinstance(error, OperationTimeoutError)
            assert seconds < PATIENCE * CT * NOISE
            await is_open(client)
            assert client.statistics().circuit.cause == "silence"


@pytest.mark.parametrize("kind", ["blocking", "transaction"])
async def test_hung_server_holds_a_dial_of_another_kind_no_longer(there, way, kind):
    """A connection of its own is dialled as a lane is, and opens the circuit too."""
    async with wire(way, connect_timeout=30.0, dedicated_timeout=60.0) as client:
        with there.paused():
            seconds, error = await timed(KINDS[kind](client))

            assert isinstance(error, OperationTimeoutError)
            assert not error.sent
            assert seconds < PATIENCE * CT * NOISE
            await assert_answers_at_once(client)


async def test_refused_dial_of_a_dedicated_connection_opens_the_circuit(there, way):
    """With no lane alive, one is enough, whoever dialled."""
    there.kill()
    async with wire(way) as client:
        assert isinstance(await outcome(client.blpop(["l"], 0.1)), ConnectionLostError)
        await assert_answers_at_once(client)


async def test_hung_server_meets_a_caller_who_had_waited_for_room(there, way):
    """Waiting for a place and then for the answer: one and a half timeouts in all."""
    timeout = 0.6
    async with (
        proxied(there, way) as proxy,
        wire(proxy.client_kwargs, max_pending=1, command_timeout=timeout) as client,
    ):
        await client.ping()
        proxy.replies.delay = 0.8 * timeout
        async with asyncio.TaskGroup() as group:
            group.create_task(outcome(client.get("k")))
            second = group.create_task(outcome(client.incr("n")))
            await proxy.wait_for_request(b"INCRBY")
            proxy.replies.stall()

        assert isinstance(second.result(), OperationTimeoutError)
        assert second.result().timeout == PATIENCE * timeout
        assert second.result().sent
