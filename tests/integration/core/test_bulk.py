"""Large values: their own lane, learned, in order, and no burden for small ones."""

from __future__ import annotations

import asyncio

import pytest

from mcp_crew_redis._core.client import PipelinedRedis
from mcp_crew_redis._core.wire_settings import WireSettings
from mcp_crew_redis.testing import FaultProxy, ManualClock
from tests.integration.core.bench import split, wire

LARGE = b"x" * 200_000


def sent(client) -> tuple[int, int]:
    """Return what the two lanes have sent."""
    statistics = client.statistics()
    return statistics.interactive.sent, statistics.bulk.sent


async def test_large_argument_takes_the_bulk_lane(server):
    """Over 64 KiB; at 60 kB it does not."""
    async with wire(server.client_kwargs, command_timeout=2.0) as client:
        await client.set("k", b"x" * 60_000)
        assert sent(client) == (1, 0)
        await client.set("k", LARGE)
        assert sent(client) == (1, 1)
        assert await client.get("k") == LARGE


@pytest.mark.parametrize(
    ("write", "read"),
    [
        (lambda c: c.set("k", LARGE), lambda c: c.get("k")),
        (
            lambda c: c.hset("k", mapping={str(i): "v" * 100 for i in range(2000)}),
            lambda c: c.hgetall("k"),
        ),
        (lambda c: c.rpush("k", *["v" * 100] * 2000), lambda c: c.lrange("k", 0, -1)),
        (lambda c: c.sadd("k", *map(str, range(20_000))), lambda c: c.smembers("k")),
    ],
    ids=["string", "hash", "list", "set"],
)
@pytest.mark.parametrize("decodes", [False, True])
async def test_large_reply_is_learned_after_the_first(server, write, read, decodes):
    """From the second on the small ones do not wait behind it."""
    async with wire(
        server.client_kwargs,
        command_timeout=2.0,
        options={"decode_responses": decodes},
    ) as client:
        await write(client)
        first = await read(client)
        _, before = sent(client)
        assert await read(client) == first
        _, after = sent(client)
        assert after == before + 1


async def test_large_reply_in_a_pipeline_is_learned(server):
    """Pipelines teach as well."""
    async with wire(server.client_kwargs, command_timeout=2.0) as client:
        await client.set("k", LARGE)
        assert await client.pipeline(transaction=False).get("k").execute() == [LARGE]
        _, before = sent(client)
        await client.get("k")
        assert sent(client)[1] == before + 1


async def test_learned_kind_expires(server):
    """After `large_for` seconds without a large reply the direct way is taken."""
    clock = ManualClock()
    client = PipelinedRedis(
        wire=WireSettings(command_timeout=2.0, large_for=30.0),
        clock=clock,
        **server.client_kwargs,
    )
    async with client:
        await client.set("k", LARGE)
        await client.get("k")
        await client.set("k", b"small")
        await clock.advance(31.0)
        _, before = sent(client)
        assert await client.get("k") == b"small"
        assert sent(client)[1] == before


async def test_reads_and_writes_of_one_key_keep_their_order(server):
    """Large and small writes of one key in turn: the last one stands."""
    async with wire(server.client_kwargs, command_timeout=5.0) as client:
        for turn in range(30):
            values = [LARGE if (turn + i) % 2 else b"%d" % i for i in range(6)]
            async with asyncio.TaskGroup() as group:
                for value in values:
                    group.create_task(client.set("k", value))
                    await asyncio.sleep(0)
            assert await client.get("k") in (LARGE, b"4", b"5")
            await client.set("k", LARGE)
            await client.set("k", b"last")
            assert await client.get("k") == b"last"


async def test_order_of_one_key_holds_across_the_lanes(server):
    """Commands submitted in order are executed in order, whichever lane they take."""
    async with wire(server.client_kwargs, command_timeout=5.0) as client:
        await client.append("warm", LARGE)
        for _ in range(20):
            await client.delete("k")
            async with asyncio.TaskGroup() as group:
                first = group.create_task(client.append("k", LARGE))
                await asyncio.sleep(0)  # submitted: the bulk lane stands
                second = group.create_task(client.append("k", b"!"))
            assert first.result() == len(LARGE)
            assert second.result() == len(LARGE) + 1


async def test_small_commands_pass_a_large_one_on_its_way(server):
    """The interactive lane does not wait for the bulk lane."""
    async with FaultProxy(server.unix_socket) as proxy:  # noqa: SIM117 - the order
        async with wire(proxy.client_kwargs, command_timeout=2.0) as client:
            await client.ping()
            split(proxy)
            await client.set("warm", LARGE)
            proxy.requests.stall()
            async with asyncio.TaskGroup() as group:
                large = group.create_task(client.set("large", LARGE))
                async with asyncio.timeout(0.5):
                    for i in range(20):
                        assert await client.echo(f"{i}") == b"%d" % i
                proxy.requests.release()
            assert large.result() is True


async def test_reply_in_many_small_pieces_is_put_together(server):
    """Every boundary between two pieces is somewhere in a reply."""
    async with FaultProxy(server.unix_socket) as proxy:  # noqa: SIM117 - the order
        async with wire(proxy.client_kwargs, command_timeout=5.0) as client:
            await client.hset("h", mapping={str(i): "v" * i for i in range(40)})
            expected = await client.hgetall("h")
            proxy.replies.trickle = 7
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(client.hgetall("h"))]
                tasks += [group.create_task(client.echo(f"{i}")) for i in range(5)]
            assert tasks[0].result() == expected
            assert [task.result() for task in tasks[1:]] == [
                b"%d" % i for i in range(5)
            ]


async def test_many_large_values_at_once_come_back_whole(server):
    """More than the bulk lane queues at a time."""
    limits = {"max_queued_bytes": 512 * 1024, "command_timeout": 5.0}
    async with wire(server.client_kwargs, **limits) as client:
        values = {f"k{i}": bytes([i]) * 150_000 for i in range(60)}
        async with asyncio.TaskGroup() as group:
            for key, value in values.items():
                group.create_task(client.set(key, value))
        async with asyncio.TaskGroup() as group:
            reads = {key: group.create_task(client.get(key)) for key in values}
        assert {key: task.result() for key, task in reads.items()} == values
