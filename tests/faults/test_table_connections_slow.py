"""The failure table, connections that serve badly: slow, full, dead in silence.

paused or slow server   test_paused_..., test_slow_..., test_callers_...
server full of clients  test_full_server_...
path dead in silence    test_idle_path_..., test_first_caller_..., test_kernel_...
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from mcp_crew_redis._core.breaker import BreakerSettings, CircuitBreaker
from mcp_crew_redis._core.client import PipelinedRedis
from mcp_crew_redis._core.wire_settings import PATIENCE
from mcp_crew_redis.errors import (
    OperationTimeoutError,
    OverloadedError,
    UnavailableError,
)
from tests.faults.table_parts import (
    LARGE,
    NOISE,
    all_timed,
    assert_answers_at_once,
    is_closed,
    is_open,
    proxied,
    timed,
)
from tests.integration.core.bench import CT, QUICK, eventually, outcome, wire
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


# --- paused, slow -------------------------------------------------------------------


async def test_paused_server_keeps_its_connection(there, way):
    """CLIENT PAUSE for less than two timeouts: late answers, and the same socket."""
    async with wire(way, command_timeout=1.0) as client:
        await client.ping()
        there.execute("CLIENT", "PAUSE", 1_500)

        _, error = await timed(client.incr("n"))

        assert isinstance(error, OperationTimeoutError)
        assert error.sent
        await is_closed(client)
        assert await eventually(lambda: client.get("n"), "it answers") == b"1"
        assert client.statistics().dials == 1


async def test_slow_server_opens_the_circuit_by_its_share_of_slow_calls(there, way):
    """Answers in time but over 100 ms: after twenty, and on the same socket."""
    async with (
        proxied(there, way) as proxy,
        wire(proxy.client_kwargs, command_timeout=1.0) as client,
    ):
        await client.ping()
        proxy.replies.delay = 0.15
        results = await all_timed(client.get("k") for _ in range(30))

        assert {result for _, result in results} == {None}
        await is_open(client)
        assert client.statistics().circuit.cause == "slow_rate"
        assert client.statistics().dials == 1


async def test_callers_over_the_cap_of_a_paused_server_are_shed(there, way):
    """Nothing more is queued for it than the lane may hold; the rest is told so."""
    async with wire(way, max_pending=4, command_timeout=1.0) as client:
        await client.ping()
        there.execute("CLIENT", "PAUSE", 1_500)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(outcome(client.incr("n"))) for _ in range(10)]
            await wait_until(
                lambda: client.statistics().interactive.waiting == 6, "six wait"
            )
            assert client.statistics().interactive.pending == 4

        shed = [t.result() for t in tasks if isinstance(t.result(), OverloadedError)]
        assert len(shed) == 6
        assert all(error.retry_after > 0 for error in shed)
        await is_closed(client)
        assert there.execute("GET", "n") == b"4"


# --- full ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["large", "blocking"])
async def test_full_server_refuses_newcomers_and_serves_who_is_there(there, way, kind):
    """No failure of the node, few attempts; a place that is free again is taken."""
    calls: dict[str, Callable[[PipelinedRedis], Any]] = {
        "large": lambda client: client.set("large", LARGE),
        "blocking": lambda client: client.blpop(["l"], 0.01),
    }
    async with wire(way) as client:
        await client.set("k", "v")
        await client.config_set("maxclients", 1)

        for _ in range(100):
            error = await outcome(calls[kind](client))
            assert isinstance(error, UnavailableError)
            assert await client.get("k") == b"v"

        figures = client.statistics()
        assert (figures.circuit.openings, figures.circuit.hard) == (0, 0)
        rejected = (await client.info("stats"))["rejected_connections"]
        assert 1 <= rejected <= 10  # the dials keep their distance
        await client.config_set("maxclients", 100)
        await eventually(lambda: calls[kind](client), "it is let in")


# --- dead in silence ----------------------------------------------------------------


async def test_idle_path_that_died_in_silence_is_found_without_traffic(there, way):
    """A PING, `idle_ping` after the last answer, is not answered: the circuit opens."""
    async with (
        proxied(there, way) as proxy,
        wire(proxy.client_kwargs, idle_ping=0.2) as client,
    ):
        await client.ping()
        proxy.requests.is_swallowing = True

        await is_open(client)
        assert client.statistics().circuit.cause == "silence"
        await wait_until(lambda: not client.node.interactive.is_alive, "it is ended")

        proxy.heal()
        await is_closed(client)
        assert await eventually(client.ping, "it works again")


def test_idle_path_that_wakes_is_noticed_although_probes_wait_for_their_timeout():
    """The delay counts from a probe's beginning: one that waited has waited already."""
    now = 0.0
    breaker = CircuitBreaker(BreakerSettings(), monotonic=lambda: now, random=Random(1))
    breaker.trip(breaker.generation, "silence")
    for _ in range(20):
        now += breaker.probe_delay()
        token = breaker.begin_probe()
        now += 2.0  # a dial that nobody answers
        breaker.probe_failed(token, "dial timeout")
        assert 0 < breaker.probe_delay() < 0.11


async def test_first_caller_on_a_dead_path_waits_one_timeout(there, way):
    """Before the idle PING has found it; the circuit opens by that caller."""
    async with (
        proxied(there, way) as proxy,
        wire(proxy.client_kwargs, idle_ping=3600.0) as client,
    ):
        await client.ping()
        proxy.requests.is_swallowing = True

        seconds, error = await timed(client.get("k"))

        assert isinstance(error, OperationTimeoutError)
        assert error.timeout == CT
        assert seconds < PATIENCE * CT * NOISE
        await assert_answers_at_once(client)


async def test_kernel_watches_the_path_unless_the_user_chose_otherwise(there):
    """For connections that wait long: keepalive after 5 s, given up after 8 s."""

    def option(client: PipelinedRedis, level: int, name: int) -> int:
        number = client.node.interactive.fileno
        assert number is not None
        with socket.socket(fileno=number) as borrowed:
            value = borrowed.getsockopt(level, name)
            borrowed.detach()
        return value

    async with wire(there.tcp_kwargs) as client:
        await client.ping()
        assert option(client, socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert option(client, socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 5
        assert option(client, socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 8_000

    own = {"socket_keepalive_options": {socket.TCP_KEEPIDLE: 77}}
    async with wire(there.tcp_kwargs, breaker=QUICK, options=own) as client:
        await client.ping()
        assert option(client, socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 77
        assert option(client, socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0
