"""Pipelines and a circuit that ramps up or opens: as a whole, or it is said."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import pytest

from mcp_crew_redis._core.breaker import BreakerSettings, CircuitState
from mcp_crew_redis._core.client import PipelinedRedis
from mcp_crew_redis._core.port import Port
from mcp_crew_redis._core.scripts import ScriptLoader
from mcp_crew_redis.errors import CircuitOpenError, OutcomeUnknownError
from mcp_crew_redis.testing import FaultProxy
from tests.integration.core.bench import outcome, wire
from tests.rig.waiting import wait_until

Commands: TypeAlias = Sequence[tuple[Any, ...]]
Way: TypeAlias = Callable[[PipelinedRedis, Commands], Awaitable[list[Any]]]

#: Probes soon, and then lets only one call in ten through for as long as a test lasts.
RAMPING = BreakerSettings(probe_base=0.05, probe_cap=0.1, ramp=3_600.0)
TRIES = 200
SIZE = 10
LARGE = b"x" * 200_000
CHUNKS = 2_500  # commands: more than are submitted before the first is awaited


async def send_many(client: PipelinedRedis, commands: Commands) -> list[Any]:
    """Send them as the library does."""
    return await Port(client, ScriptLoader()).send_many(commands)


async def pipeline(client: PipelinedRedis, commands: Commands) -> list[Any]:
    """Send them as users of redis-py do."""
    pipe = client.pipeline(transaction=False)
    for command in commands:
        pipe.execute_command(*command)
    return await pipe.execute()


WAYS = pytest.mark.parametrize("send", [send_many, pipeline])


def pushes(key: str, count: int = SIZE) -> Commands:
    """Return commands whose effects can be counted."""
    return [("RPUSH", key, number) for number in range(count)]


@asynccontextmanager
async def ramping(kwargs, **limits):
    """Give a client whose circuit is ramping up after an outage."""
    async with wire(kwargs, breaker=RAMPING, command_timeout=2.0, **limits) as client:
        await client.ping()
        client.node.breaker.force_open("test")
        client.node.breaker.release()
        await wait_until(
            lambda: client.circuit_state is CircuitState.CLOSED, "the circuit closes"
        )
        assert client.statistics().circuit.is_ramping
        yield client


async def admitted(send: Way, client: PipelinedRedis, commands: Commands) -> Any:
    """Try until it is let in, and return what came of that."""
    for _ in range(TRIES):
        result = await outcome(send(client, commands))
        if not isinstance(result, CircuitOpenError):
            return result
    raise AssertionError(f"refused {TRIES} times")


# --- while the circuit ramps up -----------------------------------------------------


@WAYS
async def test_a_ramping_circuit_lets_a_pipeline_in_as_a_whole(server, send):
    """Or not at all: a growing share of calls passes, not of commands."""
    async with ramping(server.client_kwargs) as client:
        results = [
            await outcome(send(client, pushes(f"k{number}"))) for number in range(TRIES)
        ]

    sizes = [server.execute("LLEN", f"k{number}") for number in range(TRIES)]
    assert set(sizes) == {0, SIZE}
    assert 0.02 < sizes.count(SIZE) / TRIES < 0.4
    for size, result in zip(sizes, results, strict=True):
        if size:
            assert result == list(range(1, SIZE + 1))
        else:
            assert isinstance(result, CircuitOpenError)


@WAYS
async def test_pipelines_side_by_side_are_let_in_as_wholes_too(server, send):
    """Their commands do not take turns at the gate."""
    async with ramping(server.client_kwargs) as client, asyncio.TaskGroup() as group:
        for number in range(TRIES):
            group.create_task(outcome(send(client, pushes(f"k{number}"))))

    sizes = {server.execute("LLEN", f"k{number}") for number in range(TRIES)}
    assert sizes == {0, SIZE}


@WAYS
async def test_all_chunks_of_a_pipeline_are_let_in_with_its_first(server, send):
    """However long it is."""
    async with ramping(server.client_kwargs) as client:
        replies = await admitted(send, client, pushes("k", CHUNKS))

    assert replies == list(range(1, CHUNKS + 1))
    assert server.execute("LLEN", "k") == CHUNKS


@WAYS
async def test_a_large_command_of_a_pipeline_is_let_in_with_the_rest(server, send):
    """It takes another lane, and so does what follows it."""
    commands = [*pushes("k", 3), ("RPUSH", "k", LARGE), *pushes("k", 3)]
    async with ramping(server.client_kwargs) as client:
        replies = await admitted(send, client, commands)

    assert replies == list(range(1, 8))


@WAYS
async def test_a_pipeline_that_waits_for_room_is_let_in_as_a_whole(server, send):
    """More commands than may be pending: each of them passes the gate by itself."""
    async with ramping(server.client_kwargs, max_pending=16) as client:
        replies = await admitted(send, client, pushes("k", 100))

    assert replies == list(range(1, 101))


# --- when the circuit opens ---------------------------------------------------------


@WAYS
async def test_an_open_circuit_refuses_a_pipeline_before_anything_is_sent(server, send):
    """So the caller may do without, or try it again."""
    async with wire(server.client_kwargs) as client:
        await client.ping()
        client.node.breaker.force_open("test")
        with pytest.raises(CircuitOpenError):
            await send(client, pushes("k"))

    assert server.execute("EXISTS", "k") == 0


@WAYS
@pytest.mark.parametrize(
    ("limits", "count"),
    [({"max_pending": 16}, 100), ({}, CHUNKS)],
    ids=["within a chunk", "between chunks"],
)
async def test_a_circuit_that_opens_halfway_leaves_the_outcome_unknown(
    server, send, limits, count
):
    """Some was sent, the rest was not: the error says so."""
    async with (
        FaultProxy(server.unix_socket) as proxy,
        wire(proxy.client_kwargs, command_timeout=5.0, **limits) as client,
        asyncio.TaskGroup() as group,
    ):
        await client.ping()
        proxy.replies.stall()
        task = group.create_task(outcome(send(client, pushes("k", count))))
        await wait_until(lambda: bool(server.execute("LLEN", "k")), "some is sent")
        client.node.breaker.force_open("test")
        proxy.replies.heal()
        error = await task
        client.node.breaker.force_closed()
        assert await client.ping()

    assert isinstance(error, OutcomeUnknownError)
    assert "some commands of the pipeline were sent" in str(error)
    assert 0 < server.execute("LLEN", "k") < count


@WAYS
async def test_a_ramp_that_ends_in_another_outage_says_what_was_sent(server, send):
    """Let in while it ramped up, and cut off by the next failure."""
    async with (
        FaultProxy(server.unix_socket) as proxy,
        ramping(proxy.client_kwargs, max_pending=16) as client,
        asyncio.TaskGroup() as group,
    ):
        proxy.replies.stall()
        task = group.create_task(admitted(send, client, pushes("k", 100)))
        await wait_until(lambda: bool(server.execute("LLEN", "k")), "some is sent")
        client.node.breaker.force_open("test")
        proxy.replies.heal()
        error = await task

    assert isinstance(error, OutcomeUnknownError)
    assert 0 < server.execute("LLEN", "k") < 100
