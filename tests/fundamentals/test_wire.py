"""The wire: many callers share one connection, and never notice each other.

The tutorial's tier: one concept per test, the public API only, a real server.
"""

from __future__ import annotations

import asyncio

import pytest
import redis
from redis.exceptions import ResponseError

from mcp_crew_redis import LifecycleError, PipelinedRedis, WireSettings


async def test_it_is_a_redis_py_client(crew_redis):
    """Whatever takes a `redis.asyncio.Redis` takes ours, with the same replies."""
    client = crew_redis.redis

    assert isinstance(client, redis.asyncio.Redis)
    assert await client.set("wire:name", "crew", ex=60) is True
    assert await client.get("wire:name") == b"crew"
    assert await client.hset("wire:agent", mapping={"role": "planner"}) == 1
    assert await client.hgetall("wire:agent") == {b"role": b"planner"}


async def test_a_thousand_callers_share_one_connection(crew_redis):
    """No pool to size: concurrent calls leave together and return in order."""
    client = crew_redis.redis
    await client.mset({f"wire:{number}": number for number in range(1000)})

    async with asyncio.TaskGroup() as callers:
        reads = [
            callers.create_task(client.get(f"wire:{number}")) for number in range(1000)
        ]

    assert [read.result() for read in reads] == [b"%d" % n for n in range(1000)]
    assert client.statistics().dials == 1


async def test_a_cancelled_caller_disturbs_nobody(crew_redis):
    """Its reply is dropped; the connection and every other caller stay as they are."""
    client = crew_redis.redis
    await client.mset({f"wire:{number}": number for number in range(90)})

    async with asyncio.TaskGroup() as callers:
        reads = [
            callers.create_task(client.get(f"wire:{number}")) for number in range(90)
        ]
        await asyncio.sleep(0)  # all of them are on their way
        for read in reads[::3]:
            read.cancel()

    kept = [(number, read) for number, read in enumerate(reads) if number % 3]
    assert all(read.result() == b"%d" % number for number, read in kept)
    assert all(read.cancelled() for read in reads[::3])
    assert client.statistics().dials == 1


async def test_a_pipeline_is_one_round_trip(crew_redis):
    """Without a transaction it shares the connection; replies come as a list."""
    async with crew_redis.redis.pipeline(transaction=False) as pipe:
        replies = await pipe.set("wire:step", 1).incr("wire:step").execute()

    assert replies == [True, 2]


async def test_a_transaction_has_a_connection_of_its_own(crew_redis):
    """WATCH, MULTI and EXEC work as in redis-py, beside everybody else."""
    client = crew_redis.redis
    await client.set("wire:stock", 5)

    async with client.pipeline(transaction=True) as pipe:
        await pipe.watch("wire:stock")
        left = int(await pipe.get("wire:stock")) - 1
        pipe.multi()
        pipe.set("wire:stock", left)
        replies = await pipe.execute()

    assert replies == [True]
    assert await client.get("wire:stock") == b"4"


async def test_a_command_that_waits_delays_nobody(crew_redis):
    """BLPOP blocks its own connection; others go on, and even end its waiting."""
    client = crew_redis.redis

    async with asyncio.TaskGroup() as callers:
        waiting = callers.create_task(client.blpop(["wire:inbox"], timeout=5))
        assert await client.ping()
        await client.rpush("wire:inbox", "hello")

    assert waiting.result() == [b"wire:inbox", b"hello"]


async def test_what_would_change_everybodys_connection_is_refused(crew_redis):
    """SELECT needs a connection of one's own; the error says how to get it."""
    with pytest.raises(LifecycleError, match=r"client\.client\(\)"):
        await crew_redis.redis.execute_command("SELECT", 1)

    async with crew_redis.redis.client() as own:
        assert await own.execute_command("SELECT", 1)
    assert await crew_redis.redis.ping()


async def test_an_error_reply_is_redis_pys_error(crew_redis):
    """Redis has answered: that is no outage, and nobody else is affected."""
    await crew_redis.redis.set("wire:text", "x")

    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await crew_redis.redis.lpush("wire:text", 1)
    assert crew_redis.redis.circuit_state == "closed"


async def test_a_client_can_be_used_without_a_crew(crew_redis_server):
    """`PipelinedRedis` takes redis-py's own options, and limits of its own."""
    client = PipelinedRedis(
        unix_socket_path=crew_redis_server.unix_socket,
        decode_responses=True,
        wire=WireSettings(command_timeout=2.0),
    )
    async with client:
        await client.set("wire:alone", "ção")
        assert await client.get("wire:alone") == "ção"
