"""When the bell dials again, on a clock that stands still."""

from __future__ import annotations

from random import Random

import anyio

from mcp_crew_redis._core.bell_dialler import REFUSED
from mcp_crew_redis._core.bell_pace import REFUSED_PAUSE, BellPace
from mcp_crew_redis._core.client import PipelinedRedis
from mcp_crew_redis._core.dialling import DialFailedError
from mcp_crew_redis.testing import ManualClock


def failure(cause="dial", *, is_final=False):
    return DialFailedError(cause, RuntimeError, is_final=is_final)


def make_pace():
    clock = ManualClock()
    node = PipelinedRedis(clock=clock).node  # inert: nothing is dialled
    return BellPace(node, clock, Random(7)), node, clock


async def test_pauses_grow_until_a_line_has_lasted():
    """A line that is cut at once does not make the next dial come sooner."""
    pace, _, _ = make_pace()
    for _ in range(30):
        pace.succeeded()
        longest = pace.failed(failure())
    assert longest > 0.15
    pace.proven()
    assert pace.failed(failure()) <= 0.15


async def test_refused_credentials_and_refused_tracking_pause_longer():
    """The same question gets the same answer; the first is the wire's own pause."""
    pace, node, _ = make_pace()
    assert pace.failed(failure(is_final=True)) >= node.settings.auth_pause
    assert not pace.is_futile
    assert pace.failed(failure(REFUSED, is_final=True)) == REFUSED_PAUSE
    assert pace.is_futile
    pace.succeeded()
    assert not pace.is_futile


async def test_opened_circuit_ends_a_pause():
    """When it has closed, the server is back: no reason to wait any longer."""
    pace, node, clock = make_pace()
    pace.failed(failure(is_final=True))
    waited = []

    async def wait():
        await pace.wait(None)
        waited.append(clock.monotonic())

    began = clock.monotonic()
    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await clock.advance(1.0)
        node.breaker.force_open("by hand")
        await clock.advance(1.0)
        assert waited == []
        node.breaker.force_closed()
        await clock.advance(0.2)
    assert waited[0] - began < 2.3
