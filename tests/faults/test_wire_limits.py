"""Caps and timeouts of the lanes, on paths and servers that stall."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from collections.abc import AsyncIterator

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from mcp_crew_redis._core.breaker import BreakerSettings, CircuitState
from mcp_crew_redis.errors import (
    CircuitOpenError,
    OperationTimeoutError,
    OverloadedError,
    UnavailableError,
)
from mcp_crew_redis.testing import FaultProxy
from tests.integration.core.bench import CT, QUICK, eventually, outcome, split, wire
from tests.rig.servers import RealServer
from tests.rig.waiting import wait_until

KIB = 1024


@pytest.fixture
async def proxy(server: RealServer) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(server.unix_socket) as proxy:
        yield proxy


async def all_of(calls) -> list[object]:
    """Run the calls at once, in this order; return results and exceptions."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(outcome(call)) for call in calls]
    return [task.result() for task in tasks]


# --- room -------------------------------------------------------------------------


async def test_callers_over_the_cap_wait_in_turn_and_succeed(server):
    """The cap bounds what is pending, not how many may call."""
    patient = {"command_timeout": 5.0}  # no test of speed
    async with wire(server.client_kwargs, max_pending=8, **patient) as client:
        assert await all_of(client.echo(f"{i}") for i in range(500)) == [
            str(i).encode() for i in range(500)
        ]
        lane = client.statistics().interactive
        assert (lane.pending, lane.waiting) == (0, 0)


async def test_callers_over_the_cap_are_served_in_the_order_they_came(server):
    """First come, first sent."""
    patient = {"command_timeout": 5.0}
    async with wire(server.client_kwargs, max_pending=3, **patient) as client:
        await all_of(client.rpush("order", i) for i in range(200))

        order = await client.lrange("order", 0, -1)
        assert [int(item) for item in order] == list(range(200))


async def test_nothing_over_the_cap_is_pending_while_the_server_stalls(server, proxy):
    """A stalled server gets `max_pending` commands; the others are told to wait."""
    slow = {"command_timeout": 1.0}
    async with wire(proxy.client_kwargs, max_pending=4, **slow) as client:
        await client.ping()
        proxy.requests.stall()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(outcome(client.ping())) for _ in range(10)]
            await wait_until(
                lambda: client.statistics().interactive.waiting == 6, "six wait"
            )

            assert client.statistics().interactive.pending == 4
            proxy.requests.release()
        assert [task.result() for task in tasks] == [True] * 10


async def test_caller_without_room_in_time_is_overloaded(server, proxy):
    """Replies go on arriving, only too slowly: OverloadedError says when to return."""
    async with wire(proxy.client_kwargs, max_pending=1, breaker=NEVER) as client:
        await client.set("large", b"x" * 60_000)
        proxy.replies.trickle = 200  # 1.5 s for the reply: never silent

        first, second = await all_of([client.get("large"), client.ping()])

        assert isinstance(first, OperationTimeoutError)
        assert isinstance(second, OverloadedError)
        assert second.retry_after > 0
        assert isinstance(second, RedisConnectionError)


NEVER = BreakerSettings(threshold=10_000, minimum_calls=10_000)


async def test_cancelled_waiters_leave_no_hole(server, proxy):
    """Whoever stands behind a cancelled waiter moves up, wherever that one stood."""
    async with wire(proxy.client_kwargs, max_pending=2, command_timeout=2.0) as client:
        await client.ping()
        proxy.requests.stall()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(client.echo(f"{i}")) for i in range(60)]
            await wait_until(
                lambda: client.statistics().interactive.waiting == 58, "all wait"
            )
            for task in tasks[2::3]:
                task.cancel()
            proxy.requests.release()
            done = [task for i, task in enumerate(tasks) if i < 2 or i % 3 != 2]
            async with asyncio.timeout(1.0):
                results = [await task for task in done]

        assert len(set(results)) == len(done)
        assert client.statistics().interactive.pending == 0


async def test_waiter_cancelled_as_it_is_woken_hands_its_place_on(server, proxy):
    """Cancelled between wake-up and resumption, with nothing pending behind it."""
    async with wire(proxy.client_kwargs, max_pending=1, command_timeout=1.0) as client:
        await client.ping()
        proxy.requests.stall()
        async with asyncio.TaskGroup() as group:
            first = group.create_task(client.ping())
            second = group.create_task(client.echo("second"))
            third = group.create_task(client.echo("third"))
            await wait_until(
                lambda: client.statistics().interactive.waiting == 2, "two wait"
            )
            first.add_done_callback(lambda _: second.cancel())
            proxy.requests.release()
            async with asyncio.timeout(0.5):
                assert await third == b"third"


async def test_turn_taken_without_sending_is_handed_on(server, proxy):
    """`connect()` waits for room and sends nothing: the next caller moves up."""
    async with wire(proxy.client_kwargs, max_pending=1, command_timeout=1.0) as client:
        await client.ping()
        proxy.requests.stall()
        async with asyncio.TaskGroup() as group:
            first = group.create_task(outcome(client.ping()))
            group.create_task(outcome(client.connect()))
            await asyncio.sleep(0)
            third = group.create_task(outcome(client.echo("third")))
            await asyncio.sleep(0.02)
            proxy.requests.release()
        assert first.result() is True
        assert third.result() == b"third"


async def test_queued_bytes_stay_near_their_cap(server, proxy):
    """A reader that is slow gets no more than the cap and one command more."""
    limits = {"max_queued_bytes": 256 * KIB, "bulk_bytes": 32 * KIB}
    size, slack = 100 * KIB, 700 * KIB  # socket buffers do not count as queued
    async with wire(
        proxy.client_kwargs, command_timeout=3.0, breaker=NEVER, **limits
    ) as client:
        await client.set("warm", b"x" * size)
        bulk = client.node.bulk
        proxy.requests.stall()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(outcome(client.set(f"k{i}", b"x" * size)))
                for i in range(60)
            ]
            await wait_until(lambda: bulk.statistics().waiting > 30, "many wait")
            peak = 0
            proxy.requests.release()
            while not all(task.done() for task in tasks):
                peak = max(peak, queued(bulk))
                await asyncio.sleep(0)

        assert [task.result() for task in tasks] == [True] * 60
        assert peak <= limits["max_queued_bytes"] + slack


def queued(lane) -> int:
    """Return the bytes that a lane has handed over and the kernel has not taken."""
    return lane._transport.get_write_buffer_size() if lane._transport else 0


async def test_long_pipeline_stays_under_the_cap(server):
    """5,000 commands through a lane of 100 slots, in order."""
    async with wire(server.client_kwargs, max_pending=100) as client:
        pipe = client.pipeline(transaction=False)
        for i in range(5000):
            pipe.rpush("l", i)
        assert await pipe.execute() == list(range(1, 5001))
        assert await client.lrange("l", -1, -1) == [b"4999"]


# --- time -------------------------------------------------------------------------


async def test_caller_of_a_stalled_server_waits_one_timeout(own_server):
    """No longer than the command timeout, and the circuit is open by silence."""
    async with wire(own_server.client_kwargs, breaker=SLOW_PROBE) as client:
        await client.ping()
        with own_server.paused():
            loop = asyncio.get_running_loop()
            start = loop.time()

            error = await outcome(client.incr("n"))

            assert isinstance(error, OperationTimeoutError)
            assert error.sent
            assert CT * 0.9 <= loop.time() - start <= CT * 1.6
            assert client.circuit_state is CircuitState.OPEN
            assert client.statistics().circuit.cause == "silence"


SLOW_PROBE = BreakerSettings(probe_base=30.0, probe_cap=30.0)


async def test_silent_lane_is_given_up_at_twice_the_timeout(own_server):
    """And everything on it has failed; nothing stays pending."""
    async with wire(own_server.client_kwargs, breaker=SLOW_PROBE) as client:
        await client.ping()
        with own_server.paused():
            results = await all_of(client.incr(f"n{i}") for i in range(50))
            await wait_until(lambda: not client.node.interactive.is_alive, "it ended")

        assert all(isinstance(result, UnavailableError) for result in results)
        assert client.statistics().interactive.pending == 0


async def test_recovery_is_noticed_without_traffic(own_server):
    """Probes close the circuit; users need not pay for it."""
    async with wire(own_server.client_kwargs) as client:
        await client.set("k", "v")
        with own_server.paused():
            assert isinstance(await outcome(client.get("k")), OperationTimeoutError)
            assert client.circuit_state is not CircuitState.CLOSED

        await wait_until(
            lambda: client.circuit_state is CircuitState.CLOSED, "the circuit closes"
        )
        assert await client.get("k") == b"v"


async def test_direct_way_is_open_again_after_an_outage(own_server):
    """After the ramp no call takes the slow way, whoever looked at the state first."""
    breaker = BreakerSettings(probe_base=0.05, probe_cap=0.1, ramp=0.1)
    async with wire(own_server.client_kwargs, breaker=breaker) as client:
        await client.ping()
        with own_server.paused():
            await outcome(client.ping())
        await wait_until(
            lambda: client.circuit_state is CircuitState.CLOSED, "the circuit closes"
        )
        await wait_until(
            lambda: not client.statistics().circuit.is_ramping, "the ramp is over"
        )

        await eventually(client.ping, "it answers")

        assert client.node.interactive.limit > 0


async def test_direct_way_is_open_again_after_a_ramp_under_traffic(own_server):
    """The same when replies end the ramp."""
    breaker = BreakerSettings(probe_base=0.05, probe_cap=0.1, ramp=0.3)
    async with wire(own_server.client_kwargs, breaker=breaker) as client:
        await client.ping()
        with own_server.paused():
            await outcome(client.ping())
        await wait_until(
            lambda: client.circuit_state is CircuitState.CLOSED, "the circuit closes"
        )

        async def is_direct() -> bool:
            await outcome(client.ping())
            return client.node.interactive.limit > 0

        await wait_until(is_direct, "the direct way is open", 2.0)


async def test_callers_shorter_deadline_is_no_failure_of_the_node(server, proxy):
    """`asyncio.timeout` works as everywhere and the circuit hears nothing."""
    async with wire(proxy.client_kwargs, command_timeout=1.0) as client:
        await client.ping()
        proxy.replies.delay = 0.1
        for _ in range(8):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await client.ping()
        proxy.replies.heal()
        assert await client.ping()

        circuit = client.statistics().circuit
        assert (circuit.state, circuit.hard) == (CircuitState.CLOSED, 0)
        assert client.statistics().interactive.pending == 0


async def test_idle_lane_notices_silence_by_itself(own_server):
    """An idle connection is proven by a PING, so that the next caller need not."""
    async with wire(
        own_server.client_kwargs, idle_ping=0.05, breaker=SLOW_PROBE
    ) as client:
        await client.ping()
        with own_server.paused():
            await wait_until(
                lambda: client.circuit_state is CircuitState.OPEN, "the circuit opens"
            )


async def test_idle_pings_keep_a_healthy_lane(server):
    """Many of them change nothing."""
    async with wire(server.client_kwargs, idle_ping=0.02) as client:
        await client.ping()
        await wait_until(
            lambda: client.statistics().interactive.sent >= 6, "five pings"
        )

        statistics = client.statistics()
        assert statistics.circuit.hard == 0
        assert statistics.dials == 1


async def test_late_lane_that_answers_on_is_not_silent(server, proxy):
    """One slow reply among others costs its caller a timeout, not all the circuit."""
    async with wire(proxy.client_kwargs, breaker=NEVER) as client:
        await client.set("large", b"x" * 60_000)
        proxy.replies.trickle = 500  # 0.6 s: over one timeout, under two

        assert isinstance(await outcome(client.get("large")), OperationTimeoutError)

        assert client.circuit_state is CircuitState.CLOSED
        proxy.replies.heal()
        assert await client.ping()


# --- the open circuit -------------------------------------------------------------


async def test_open_circuit_answers_at_once_with_a_redis_error(own_server):
    """CircuitOpenError, also caught by what catches redis-py's ConnectionError."""
    async with wire(own_server.client_kwargs, breaker=SLOW_PROBE) as client:
        await client.ping()
        with own_server.paused():
            await outcome(client.ping())
            loop = asyncio.get_running_loop()
            start = loop.time()
            errors = [await outcome(client.get("k")) for _ in range(1000)]
            duration = loop.time() - start

        assert all(isinstance(error, CircuitOpenError) for error in errors)
        assert all(isinstance(error, RedisConnectionError) for error in errors)
        assert len({id(error) for error in errors}) == 1000
        assert duration / 1000 < 200e-6


@pytest.mark.parametrize("way", ["lane", "dedicated", "pipeline", "transaction"])
async def test_open_circuit_refuses_every_way(own_server, way):
    """Blocking commands, pipelines and transactions as well; nothing is queued."""
    async with wire(own_server.client_kwargs, breaker=SLOW_PROBE) as client:
        await client.ping()
        client.node.breaker.force_open("test")
        calls = {
            "lane": lambda: client.get("k"),
            "dedicated": lambda: client.blpop("l", 0.1),
            "pipeline": lambda: client.pipeline(transaction=False).get("k").execute(),
            "transaction": lambda: client.pipeline().get("k").execute(),
        }

        assert isinstance(await outcome(calls[way]()), CircuitOpenError)


async def test_rejected_calls_leave_no_garbage(own_server):
    """Memory stays flat without the collector: no error is part of a cycle."""
    async with wire(own_server.client_kwargs) as client:
        await client.ping()
        client.node.breaker.force_open("test")
        gc.collect()
        gc.disable()
        try:
            for _ in range(1000):
                with contextlib.suppress(CircuitOpenError):
                    await client.get("k")
            assert gc.collect() < 1000
        finally:
            gc.enable()


@pytest.mark.slow
async def test_memory_is_flat_over_100_000_rejects(own_server):
    """A long outage costs no memory."""
    async with wire(own_server.client_kwargs) as client:
        await client.ping()
        client.node.breaker.force_open("test")

        async def reject(count: int) -> int:
            for _ in range(count):
                with contextlib.suppress(CircuitOpenError):
                    await client.get("k")
            gc.collect()
            return sys.getallocatedblocks()

        before = await reject(1_000)
        assert await reject(100_000) - before < 500


async def test_dead_server_fails_dials_fast_and_keeps_no_queue(own_server):
    """Refused: the first dial opens the circuit, and commands are not kept."""
    async with wire(own_server.client_kwargs, breaker=SLOW_PROBE) as client:
        await client.ping()
        own_server.kill()
        await wait_until(lambda: not client.node.interactive.is_alive, "it ended")

        first = await outcome(client.incr("n"))
        second = await outcome(client.incr("n"))

        assert isinstance(first, UnavailableError)
        assert isinstance(second, CircuitOpenError)
        own_server.start()
        assert own_server.execute("GET", "n") is None


async def test_restarted_server_is_used_again_without_help(own_server):
    """Kill and start: the same client works on."""
    async with wire(own_server.client_kwargs, breaker=QUICK) as client:
        await client.set("k", "v")
        own_server.restart()

        assert await eventually(lambda: client.get("k"), "it works again") == b"v"


async def test_slow_path_of_one_lane_does_not_stop_the_other(server, proxy):
    """A large value on its way does not hold a small one up."""
    async with wire(proxy.client_kwargs, command_timeout=1.0) as client:
        await client.ping()
        interactive = split(proxy)
        await client.set("warm", b"x" * 100_000)
        assert interactive is not proxy.requests
        proxy.requests.stall()
        async with asyncio.TaskGroup() as group:
            large = group.create_task(outcome(client.set("large", b"x" * 100_000)))
            async with asyncio.timeout(0.5):
                assert await client.ping()
            proxy.requests.release()
        assert large.result() is True
