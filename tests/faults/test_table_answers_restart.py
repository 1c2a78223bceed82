"""Rows 23 and 24 of the failure table: another life of the server, another time."""

from __future__ import annotations

from random import Random

import pytest

from mcp_crew_redis._core.breaker import BreakerSettings, CircuitBreaker
from mcp_crew_redis._core.port import Port
from mcp_crew_redis._core.scripts import ScriptLoader
from mcp_crew_redis.errors import CircuitOpenError
from mcp_crew_redis.store.stamps import MAX_AGE, StampSource
from mcp_crew_redis.testing import ManualClock
from tests.faults.answers import KINDS, server_of, wired
from tests.integration.core.bench import eventually, wire
from tests.integration.core.fake_server import FakeServer, bulk
from tests.rig.waiting import wait_until

KEYS = (b"p:counter:{acme}:n", b"p:meta:{acme}:floor")
HOUR = 3600
NOW = 1_700_000_000


@pytest.fixture(params=KINDS)
async def local(request):
    async with server_of(request.param) as server:
        yield server


# --- row 23: a restart, with the data or without -------------------------------------


@pytest.mark.parametrize("keep_data", [True, False], ids=["kept", "lost"])
async def test_row_23_a_restart_is_seen_by_another_run_id(local, keep_data):
    """Whoever has to put something back learns that there is a reason to."""
    async with wired(local) as port:
        await port.send("SET", "k", "v")
        before = port.client.greeting

        await local.restart(keep_data=keep_data)
        held = await eventually(lambda: port.send("GET", "k"), "it is back")

        after = port.client.greeting
        assert before is not None
        assert after is not None
        assert after.run_id not in ("", before.run_id)
        assert held == (b"v" if keep_data else None)


async def test_row_23_scripts_go_on_after_their_loss(local):
    """They are part of what a restart forgets; no caller notices."""
    async with wired(local) as port:
        await port.run("counter_add", KEYS, ("a", 1, 5, 60_000, 0))

        await local.restart(keep_data=False)
        call = ("counter_add", KEYS, ("a", 2, 5, 60_000, 0))
        answer = await eventually(lambda: port.run(*call), "it is back")

        assert answer == [1, b"5"]


async def test_row_23_a_kept_counter_is_not_counted_twice(local):
    """A repetition after the restart finds its record."""
    call = ("counter_add", KEYS, ("a", 1, 5, 60_000, 0))
    async with wired(local) as port:
        await port.run(*call)
        await local.restart()

        assert await eventually(lambda: port.run(*call), "it is back") == [2, b"5"]


async def test_row_23_a_power_cut_takes_what_was_answered_last(local):
    """Redis itself loses it; the next life answers with what was before."""
    async with wired(local) as port:
        await port.send("SET", "k", "old")
        mark = local.aof_size
        await port.send("SET", "k", "new")
        await local.kill()
        local.truncate_aof(mark)
        await local.start()

        assert await eventually(lambda: port.send("GET", "k"), "it is back") == b"old"


# --- row 24: the server's clock jumps ------------------------------------------------


class Time:
    """TIME of a fake server: follows the test's clock, and jumps when told."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.ahead = 0
        self.count = 0

    def __call__(self, _: list[bytes]) -> bytes:
        self.count += 1
        return b"*2\r\n" + bulk(str(int(self._clock.wall()) + self.ahead)) + bulk("0")


@pytest.fixture
async def bench():
    """Stamps on a server whose clock the test moves."""
    clock = ManualClock(wall=float(NOW))
    time = Time(clock)
    async with FakeServer(TIME=time) as fake, wire(fake.client_kwargs) as client:
        stamps = StampSource(Port(client, ScriptLoader()), clock)
        await stamps.ready()
        yield stamps, clock, time
        await stamps.aclose()


async def measured_again(stamps, clock, time):
    """Let the measurement grow old, and the next write renew it."""
    before = time.count
    await clock.advance(MAX_AGE)
    first = stamps.stamp()
    await wait_until(lambda: time.count > before, "the clock is measured again")
    await wait_until(lambda: not stamps._owner, "and has been taken")
    return first


async def test_row_24_stamps_rise_when_the_servers_clock_steps_back(bench):
    """Not one write is older than the one before it, and none is refused for it."""
    stamps, clock, time = bench
    given = [stamps.stamp()]
    time.ahead = -HOUR

    given.append(await measured_again(stamps, clock, time))
    for _ in range(10):
        given += [stamps.stamp() for _ in range(100)]
        await clock.advance(0.001)

    assert given == sorted(set(given))


async def test_row_24_stamps_come_back_to_the_servers_clock(bench):
    """At half speed: an hour too many is gone after two."""
    stamps, clock, time = bench
    stamps.stamp()
    time.ahead = -HOUR
    await measured_again(stamps, clock, time)

    await clock.advance(2 * HOUR + 1)

    server_us = (int(clock.wall()) + time.ahead) * 1_000_000
    assert abs(stamps.hybrid.now_us() - server_us) < 1_000_000


async def test_row_24_stamps_follow_a_clock_that_steps_forward_at_once(bench):
    """What others write by that clock must not stay newer for ever."""
    stamps, clock, time = bench
    before = stamps.stamp()
    time.ahead = HOUR

    await measured_again(stamps, clock, time)

    assert stamps.stamp() - before >= HOUR * 1_000_000


async def test_row_24_a_write_over_what_was_read_is_newer_whatever_the_clock(bench):
    """The order of a read and a write is nobody's clock."""
    stamps, clock, time = bench
    read = stamps.stamp() + 2_000_000
    time.ahead = -HOUR
    await measured_again(stamps, clock, time)

    assert stamps.above(read) > read


async def test_row_24_the_circuit_does_not_hear_the_wall_clock():
    """Durations are monotonic: an hour back opens nothing longer, forward nothing."""
    clock = ManualClock()
    breaker = CircuitBreaker(
        BreakerSettings(), monotonic=clock.monotonic, random=Random(7)
    )
    breaker.trip(breaker.generation, "silence")
    delay = breaker.probe_delay()

    for step in (-HOUR, 2 * HOUR):
        clock.step_wall(step)

        assert breaker.probe_delay() == delay
        with pytest.raises(CircuitOpenError) as caught:
            breaker.admit()
        assert caught.value.since == 0.0
