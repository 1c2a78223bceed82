"""Rules of sweeping: often after a loss, else seldom."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from mcp_crew_redis.events.consumer.pacing import SweepPace
from mcp_crew_redis.testing import ManualClock

CLAIM = 30.0


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def pace(clock):
    return SweepPace(CLAIM, clock.monotonic, Random(1))


async def sweeps(pace, clock, seconds):
    """Return when sweeps were due in the next seconds; each takes no time."""
    times, began = [], clock.monotonic()
    while pace.due <= began + seconds:
        await clock.advance(max(0.0, pace.due - clock.monotonic()))
        assert pace.is_due
        times.append(clock.monotonic() - began)
        pace.swept()
    await clock.advance(began + seconds - clock.monotonic())
    return times


def gaps(times):
    return [b - a for a, b in pairwise(times)]


async def test_the_first_is_due_at_once(pace):
    """Something may lie about from before."""
    assert pace.is_due
    pace.swept()
    assert not pace.is_due


async def test_without_a_reason_they_are_rare(pace, clock):
    """Ten times `claim_after` apart, more or less, once the start is past."""
    await sweeps(pace, clock, 10 * CLAIM)
    times = await sweeps(pace, clock, 100 * CLAIM)

    assert 7 <= len(times) <= 13
    assert all(8 * CLAIM <= gap <= 12 * CLAIM for gap in gaps(times))
    assert len({round(gap, 3) for gap in gaps(times)}) > 1


async def test_after_a_loss_they_are_frequent_until_all_must_be_found(pace, clock):
    """A second apart, for a little over four thirds of `claim_after`."""
    await sweeps(pace, clock, 20 * CLAIM)
    pace.hasten()
    assert pace.is_due
    times = await sweeps(pace, clock, 3 * CLAIM)

    assert max(gaps(times)) <= 1.0
    assert CLAIM * 4 / 3 <= times[-1] <= CLAIM * 4 / 3 + 5


async def test_each_loss_begins_it_anew(pace, clock):
    """The last one counts."""
    await sweeps(pace, clock, 20 * CLAIM)
    for _ in range(3):
        pace.hasten()
        await sweeps(pace, clock, CLAIM)
    times = await sweeps(pace, clock, CLAIM)

    assert times[-1] >= CLAIM / 3


@pytest.mark.parametrize("claim_after", [0.1, 0.5, 2.0])
async def test_short_times_are_swept_more_often(clock, claim_after):
    """A quarter of them apart: what is left is found soon after it is old enough."""
    pace = SweepPace(claim_after, clock.monotonic, Random(1))
    await sweeps(pace, clock, 20 * claim_after)
    pace.hasten()
    times = await sweeps(pace, clock, 2 * claim_after)

    assert max(gaps(times)) <= claim_after / 4 + 1e-6


async def test_after_an_outage_it_waits_for_signs_of_life(pace, clock):
    """Nobody could show any."""
    pace.hasten()
    pace.postpone()
    assert not pace.is_due
    times = await sweeps(pace, clock, CLAIM * 3)

    assert CLAIM / 3 <= times[0] <= CLAIM
    assert times[-1] >= CLAIM * 4 / 3


async def test_begin_is_now(pace, clock):
    """As soon as the streams are known."""
    await sweeps(pace, clock, 5 * CLAIM)
    pace.begin()

    assert pace.is_due
