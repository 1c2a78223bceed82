"""The turnstile of a lane: in turn, no place lost, none given twice."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from mcp_crew_redis._core.lane_queue import Barriers, Turnstile


class Place:
    """A lane of `size` places behind a turnstile."""

    def __init__(self, size: int, burst: int = 4) -> None:
        self.size = size
        self.taken = 0
        self.peak = 0
        self.entered: list[int] = []
        self.turnstile = Turnstile(
            lambda: self.size - self.taken, lambda: None, burst=burst
        )

    async def enter(self, number: int) -> None:
        await self.turnstile.passage()
        self.taken += 1
        self.peak = max(self.peak, self.taken)
        self.entered.append(number)
        self.turnstile.wake()

    def leave(self) -> None:
        self.taken -= 1
        self.turnstile.wake()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_free_turnstile_lets_through_at_once():
    """Without a turn of the loop."""
    place = Place(2)
    async with asyncio.timeout(0.1):
        await place.enter(1)
        await place.enter(2)
    assert not place.turnstile.is_free


@pytest.mark.parametrize("burst", [1, 3, 1000])
async def test_callers_pass_in_the_order_they_came(burst):
    """One leaves, one enters; never more inside than there are places."""
    place = Place(3, burst)
    async with asyncio.TaskGroup() as group:
        for number in range(100):
            group.create_task(place.enter(number))
        await settle()
        while len(place.entered) < 100:
            place.leave()
            await settle()
    assert place.entered == list(range(100))
    assert place.peak <= 3
    assert place.turnstile.heirs == 0


@pytest.mark.parametrize("seed", range(20))
async def test_random_cancellations_lose_no_place(seed):
    """Before, at and after the wake-up; whoever is left gets in, in order."""
    random = Random(seed)
    place = Place(random.randint(1, 5), random.randint(1, 6))
    gone: set[int] = set()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(place.enter(number)) for number in range(60)]
        while not all(task.done() for task in tasks):
            if place.taken and random.random() < 0.6:
                place.leave()
            if random.random() < 0.4:
                number = random.randrange(60)
                if tasks[number].cancel():
                    gone.add(number)
            await asyncio.sleep(0)
            assert place.taken <= place.size
    stayed = [n for n in range(60) if n not in gone]
    assert [n for n in place.entered if n not in gone] == stayed
    assert (place.turnstile.heirs, len(place.turnstile.waiters)) == (0, 0)
    place.taken = 0
    assert place.turnstile.is_free


async def test_newcomer_does_not_pass_those_who_wait():
    """Even if a place is free for a moment."""
    place = Place(1)
    await place.enter(0)
    async with asyncio.TaskGroup() as group:
        group.create_task(place.enter(1))
        await settle()
        place.leave()
        group.create_task(place.enter(2))
        await settle()
        place.leave()
    assert place.entered == [0, 1, 2]


async def test_opened_turnstile_frees_everybody():
    """The lane has ended; nobody counts as an heir."""
    place = Place(0)
    async with asyncio.timeout(1.0), asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(place.turnstile.passage())
        await settle()
        place.turnstile.open()
    assert place.turnstile.heirs == 0


@pytest.mark.slow
async def test_many_waiters_cost_linear_time():
    """50,000 pass, and 50,000 are cancelled in random order, within a second each."""
    loop = asyncio.get_running_loop()
    place = Place(0, burst=10)
    async with asyncio.TaskGroup() as group:
        for number in range(50_000):
            group.create_task(place.enter(number))
        await settle()
        start = loop.time()
        place.size = 50_000
        place.turnstile.wake()
        while len(place.entered) < 50_000:  # noqa: ASYNC110 - turns are what counts
            await asyncio.sleep(0)
        passing = loop.time() - start

        place.size = 50_000
        tasks = [group.create_task(place.enter(number)) for number in range(50_000)]
        await settle()
        start = loop.time()
        Random(1).shuffle(tasks)
        for task in tasks:
            task.cancel()
        await settle()
        cancelling = loop.time() - start
    assert (passing < 1.5, cancelling < 3.0) == (True, True), (passing, cancelling)


async def test_barrier_opens_at_its_number():
    """Not before; a cancelled one is nobody's trouble."""
    barriers = Barriers()
    async with asyncio.TaskGroup() as group:
        third = group.create_task(barriers.reached(3))
        fifth = group.create_task(barriers.reached(5))
        cancelled = group.create_task(barriers.reached(4))
        await settle()
        cancelled.cancel()
        barriers.passed(2)
        await settle()
        assert not third.done()
        barriers.passed(4)
        await settle()
        assert (third.done(), fifth.done()) == (True, False)
        barriers.passed(float("inf"))
    assert not barriers.waiting
