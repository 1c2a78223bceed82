"""Many commands in one go: each has an outcome of its own."""

from __future__ import annotations

import asyncio

import pytest

from mcp_crew_redis._core.bursts import (
    run_each,
    run_replicated,
    send_each,
    send_replicated,
)
from mcp_crew_redis._core.port import Port
from mcp_crew_redis._core.scripts import ScriptLoader
from mcp_crew_redis.errors import (
    ConnectionLostError,
    DataError,
    OutcomeUnknownError,
    UnavailableError,
)
from mcp_crew_redis.testing import FaultProxy
from tests.integration.core.bench import wire

KEYS = b"p:counter:{acme}:n", b"p:meta:{acme}:floor"


def call(number):
    """Return a script that may be run twice."""
    return "counter_add", KEYS, ("w", number, 1, 60_000, 0)


@pytest.fixture
async def proxy(own_server):
    async with FaultProxy(own_server.unix_socket) as proxy:
        yield proxy


@pytest.fixture
async def port(proxy):
    async with wire(proxy.client_kwargs) as client:
        yield Port(client, ScriptLoader())


async def test_replies_and_errors_stand_in_their_places(port):
    """An error of one is no error of the others."""
    await port.send("SET", "p:text", "x", "PX", 60_000)
    commands = [("ECHO", "a"), ("XLEN", "p:text"), ("ECHO", b"\xff")]

    first, error, last = await send_each(port, commands)

    assert (first, last) == (b"a", b"\xff")
    assert isinstance(error, DataError)


async def test_nothing_to_send_is_no_round_trip(port, proxy):
    """Not even a connection."""
    assert await send_each(port, []) == []
    assert proxy.connection_count == 0


async def test_a_burst_of_any_size_keeps_its_order(port):
    """More than one lane may usually have in flight."""
    replies = await send_each(port, [("ECHO", str(n)) for n in range(6_000)])

    assert replies == [str(n).encode() for n in range(6_000)]


async def test_without_a_server_nothing_is_sent(port, proxy):
    """One error for all: they may be kept elsewhere."""
    proxy.refuse()
    proxy.cut()

    with pytest.raises(UnavailableError) as caught:
        await send_each(port, [("ECHO", "a")])

    assert not isinstance(caught.value, OutcomeUnknownError)


async def test_what_was_sent_and_not_answered_is_in_doubt(port, proxy):
    """Each for itself; the connection is another one afterwards."""
    await port.send("PING")
    proxy.drop_reply_to(b"ECHO")

    replies = await send_each(port, [("ECHO", "a"), ("ECHO", "b")])

    assert all(isinstance(one, OutcomeUnknownError) for one in replies)
    assert await send_each(port, [("ECHO", "c")]) == [b"c"]


async def test_a_cancelled_burst_takes_nobody_elses_reply(port, proxy):
    """Its own are dropped when they come."""
    await port.send("PING")
    proxy.replies.stall()
    async with asyncio.TaskGroup() as group:
        commands = [("ECHO", "mine")] * 50 + [("XLEN", "p:text", "wrong")]
        task = group.create_task(send_each(port, commands))
        await proxy.wait_for_request(b"mine")
        task.cancel()
    proxy.heal()

    assert await send_each(port, [("ECHO", "theirs")]) == [b"theirs"]


@pytest.mark.parametrize("run", [run_each, run_replicated])
async def test_a_script_that_the_server_does_not_know_is_brought_along(
    port, own_server, run
):
    """In order, and each once."""
    own_server.execute("SCRIPT", "FLUSH")

    told = await run(port, [call(1), call(2), call(3)])

    replies = told if run is run_each else told[0]
    assert [reply[1] for reply in replies] == [b"1", b"2", b"3"]
    assert own_server.execute("HGET", KEYS[0], "v") == b"3"


async def test_replicas_are_counted(port):
    """This server has none."""
    replies, count = await send_replicated(port, [("ECHO", "a")])

    assert (replies, count) == ([b"a"], 0)


async def test_a_lost_answer_of_replicas_leaves_all_in_doubt(port, proxy):
    """The command may have been executed; the connection goes."""
    await port.send("PING")
    proxy.drop_reply_to(b"WAIT")

    with pytest.raises(OutcomeUnknownError):
        await send_replicated(port, [("INCR", "n")])

    replies, _ = await send_replicated(port, [("DEL", "n")])
    assert replies == [1]


async def test_replicas_without_a_server(port, proxy):
    """Nothing was sent."""
    proxy.refuse()
    proxy.cut()

    with pytest.raises(UnavailableError) as caught:
        await send_replicated(port, [("INCR", "n")])

    assert isinstance(caught.value, ConnectionLostError)
