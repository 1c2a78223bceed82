"""What the prober tells of a server that is busy with a script."""

from __future__ import annotations

from random import Random

import pytest
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

from mcp_crew_redis._core.breaker import BreakerSettings, CircuitBreaker, CircuitState
from mcp_crew_redis._core.owner import TaskOwner
from mcp_crew_redis._core.prober import Prober
from mcp_crew_redis.testing import ManualClock


class Server:
    """Answers every probe with the same."""

    def __init__(self):
        self.answer = ResponseError("BUSY Redis is busy running a script.")
        self.probes = 0

    async def prove(self):
        """Answer one probe."""
        self.probes += 1
        if self.answer is not None:
            raise self.answer


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
async def probing(clock):
    """Give a server that is probed, its breaker, and what is logged."""
    breaker = CircuitBreaker(
        BreakerSettings(), monotonic=clock.monotonic, random=Random(1)
    )
    owner, server = TaskOwner("test"), Server()
    breaker.trip(breaker.generation, "BUSY")
    Prober(breaker, server.prove, owner, clock).start()
    with capture_logs() as logs:
        yield server, breaker, logs
    await owner.aclose()


def told(logs):
    """Return the events about the script."""
    return [each for each in logs if each["event"] == "wire.script_busy"]


async def test_a_script_of_five_seconds_is_told_once(clock, probing):
    """Whether to end it is for an operator to decide."""
    server, _, logs = probing
    for _ in range(8):
        await clock.advance(0.5)
    assert (server.probes > 1, told(logs)) == (True, [])

    for _ in range(60):
        await clock.advance(0.5)

    assert len(told(logs)) == 1
    assert told(logs)[0]["since_s"] >= 5.0


async def test_a_script_that_ends_in_time_is_not_told(clock, probing):
    """Nor one that comes later: it has its own five seconds."""
    server, breaker, logs = probing
    for _ in range(6):
        await clock.advance(0.5)
    server.answer = None
    for _ in range(10):
        await clock.advance(0.5)

    assert breaker.state is CircuitState.CLOSED
    assert told(logs) == []
