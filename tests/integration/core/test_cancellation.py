"""Cancelling any await leaves everything consistent: no wrong reply, no leak."""

from __future__ import annotations

import asyncio
import gc
import sys
from random import Random

import pytest

from mcp_crew_redis.testing import FaultProxy
from tests.integration.core.bench import wire
from tests.rig.waiting import wait_until

ROUNDS = 20
CALLS = 1_000


async def cancel_a_third(client, random: Random, offset: int) -> int:
    """Make CALLS unique calls, cancel a third at random moments; count good replies."""
    good = 0

    async def call(number: int) -> None:
        nonlocal good
        text = f"{offset + number}".encode()
        assert await client.echo(text) == text
        good += 1

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(call(number)) for number in range(CALLS)]
        for task in random.sample(tasks, CALLS // 3):
            if random.random() < 0.02:
                await asyncio.sleep(0)
            task.cancel()
    return good


@pytest.mark.slow
async def test_20_000_calls_with_a_third_cancelled_get_no_wrong_reply(server):
    """Unique values come back to their own callers on the same one connection."""
    random = Random(5)
    async with wire(server.client_kwargs, command_timeout=5.0) as client:
        await cancel_a_third(client, random, 0)
        before = await client.client_list()
        for i in range(ROUNDS):
            good = await cancel_a_third(client, random, i * CALLS)
            assert good >= CALLS - CALLS // 3

        assert await client.echo("last") == b"last"
        after = await client.client_list()
        statistics = client.statistics()
        assert [one["id"] for one in before] == [one["id"] for one in after]
        assert (statistics.interactive.pending, statistics.dials) == (0, 1)


async def test_cancelled_calls_leave_no_memory(server):
    """Allocated blocks stay flat."""
    random = Random(6)
    async with wire(server.client_kwargs, command_timeout=5.0) as client:

        async def measure() -> int:
            await cancel_a_third(client, random, 0)
            await client.ping()
            gc.collect()
            return sys.getallocatedblocks()

        for _ in range(3):
            before = await measure()
        for _ in range(5):
            after = await measure()
        assert after - before < 300


async def test_call_cancelled_before_it_is_sent_leaves_the_others_alone(server):
    """Cancelled in the tick of its submission: its reply is dropped when it comes."""
    async with wire(server.client_kwargs) as client:
        await client.ping()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(client.echo(f"{i}")) for i in range(3)]
            await asyncio.sleep(0)  # submitted, and flushed at the end of this tick
            tasks[1].cancel()

        assert tasks[1].cancelled()
        assert (tasks[0].result(), tasks[2].result()) == (b"0", b"2")
        assert await client.echo("3") == b"3"


async def test_call_cancelled_while_pending_leaves_the_others_alone(server):
    """The reply of a cancelled call does not go to the next one."""
    async with FaultProxy(server.unix_socket) as proxy:  # noqa: SIM117 - the order
        async with wire(proxy.client_kwargs, command_timeout=2.0) as client:
            await client.ping()
            proxy.replies.stall()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(client.echo(f"{i}")) for i in range(3)]
                await proxy.wait_for_request(b"2\r\n")
                tasks[1].cancel()
                await asyncio.sleep(0)
                proxy.replies.release()

            assert (tasks[0].result(), tasks[2].result()) == (b"0", b"2")
            assert client.statistics().interactive.pending == 0


async def test_call_cancelled_after_its_reply_leaves_the_others_alone(server):
    """Cancelled between the reply's arrival and the caller's resumption."""
    async with wire(server.client_kwargs) as client:
        await client.ping()
        tasks: list[asyncio.Task[object]] = []

        async def first() -> object:
            reply = await client.echo("0")  # resumes first, in the tick of the replies
            tasks[1].cancel()
            return reply

        async with asyncio.TaskGroup() as group:
            tasks.append(group.create_task(first()))
            tasks += [group.create_task(client.echo(f"{i}")) for i in (1, 2)]

        assert tasks[1].cancelled()
        assert (tasks[0].result(), tasks[2].result()) == (b"0", b"2")


async def test_error_reply_of_a_caller_cancelled_in_its_tick_makes_no_noise(server):
    """Nothing is reported as never retrieved."""
    noise: list[object] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: noise.append(context)
    )
    async with wire(server.client_kwargs) as client:
        await client.set("text", "x")
        tasks: list[asyncio.Task[object]] = []

        async def first() -> None:
            await client.echo("0")
            tasks[0].cancel()

        async with asyncio.TaskGroup() as group:
            group.create_task(first())
            tasks.append(group.create_task(client.lpush("text", "x")))
        assert tasks.pop().cancelled()
        gc.collect()
        await asyncio.sleep(0)
    assert noise == []


async def test_large_reply_of_a_cancelled_caller_is_not_kept(server):
    """A caller cancelled as the large reply arrives leaves nothing behind."""
    async with wire(server.client_kwargs, command_timeout=2.0) as client:
        await client.set("large", b"x" * 1_000_000)
        for lane in (client.node.interactive, client.node.bulk):
            async with asyncio.TaskGroup() as group:
                task = group.create_task(client.get("large"))
                while not lane.large and not task.done():  # noqa: ASYNC110 - each turn
                    await asyncio.sleep(0)
                task.cancel()
            await client.ping()
            assert not lane.large


@pytest.mark.parametrize("transaction", [False, True])
async def test_cancelled_pipeline_leaves_the_others_alone(server, transaction):
    """Its replies are dropped, its connection is not reused half-read."""
    async with wire(server.client_kwargs) as client:
        await client.ping()
        for turns in range(12):
            pipe = client.pipeline(transaction=transaction)
            for i in range(50):
                pipe.echo(f"{i}")
            async with asyncio.TaskGroup() as group:
                task = group.create_task(pipe.execute())
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
            assert await client.echo("own") == b"own"
            fresh = client.pipeline(transaction=transaction)
            assert await fresh.echo("a").echo("b").execute() == [b"a", b"b"]
        assert client.statistics().interactive.pending == 0


async def test_cancelled_blocking_call_gives_its_connection_up(server):
    """The pop does not happen for a caller who has gone, and the pool is whole."""
    async with wire(server.client_kwargs, pool_size=3) as client:
        await client.ping()
        for _ in range(5):
            async with asyncio.TaskGroup() as group:
                task = group.create_task(client.blpop("l", 0))
                await wait_until(
                    lambda: server.info("clients")["blocked_clients"] == 1, "it blocks"
                )
                task.cancel()
        assert await client.ping()
        await wait_until(
            lambda: server.info("clients")["blocked_clients"] == 0, "nobody blocks"
        )
        await client.rpush("l", "kept")

        assert await client.lrange("l", 0, -1) == [b"kept"]
        assert await client.blpop("l", 1) == [b"l", b"kept"]


async def test_cancelled_dial_leaves_no_connection(server):
    """Cancelled callers of the first command; the dial itself serves the next one."""
    async with wire(server.client_kwargs) as client:
        for turns in range(10):
            async with asyncio.TaskGroup() as group:
                task = group.create_task(client.ping())
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
        assert await client.ping()
        assert client.statistics().dials == 1
