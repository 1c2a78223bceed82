"""A round of the janitor: due keys are worked on, errors make it wait."""

import asyncio
from contextlib import asynccontextmanager
from random import Random

from structlog.testing import capture_logs

from mcp_crew_redis.errors import ConfigurationError, ConnectionLostError
from mcp_crew_redis.events.janitor.rounds import BATCH, Round
from tests.rig.waiting import wait_until


class Work:
    """Notes the batches; does what it is told."""

    def __init__(self, again=None, errors=()):
        self.batches = []
        self.times = []
        self.again = again or {}
        self.errors = list(errors)

    async def __call__(self, keys):
        self.batches.append(list(keys))
        self.times.append(asyncio.get_running_loop().time())
        if self.errors:
            raise self.errors.pop(0)
        return {key: self.again[key] for key in keys if key in self.again}

    @property
    def keys(self):
        return [key for batch in self.batches for key in batch]


@asynccontextmanager
async def running(work, owns=lambda _: True, retry=0.05):
    """Give a round that runs; stopped, not cancelled, at the end."""
    each = Round("test", work, owns, Random(7), retry)
    async with asyncio.TaskGroup() as group:
        group.create_task(each.run())
        yield each
        each.stop()


async def test_what_is_due_is_worked_on_in_batches():
    """In the order of due times."""
    work = Work()
    async with running(work) as each:
        for number in range(BATCH + 1):
            each.put(b"%02d" % number)
        await wait_until(lambda: len(work.keys) == BATCH + 1, "all are worked on")

    assert max(map(len, work.batches)) <= BATCH
    assert work.keys == sorted(work.keys)


async def test_a_key_comes_again_when_the_work_says_so():
    """After as many seconds; one that is missing is done with."""
    work = Work(again={b"a": 0.01})
    async with running(work) as each:
        each.put(b"a")
        each.put(b"b")
        await wait_until(lambda: work.keys.count(b"a") >= 3, "it came again")

    assert work.keys.count(b"b") == 1


async def test_a_sooner_time_ends_the_wait():
    """The loop does not sleep through it."""
    work = Work()
    async with running(work) as each:
        each.put(b"late", 60.0)
        await asyncio.sleep(0)
        each.put(b"soon", 0.01)

        await wait_until(lambda: work.keys == [b"soon"], "it was worked on", 1.0)


async def test_what_is_not_owned_is_left_out():
    """And forgotten."""
    work = Work()
    async with running(work, owns=lambda key: key == b"mine") as each:
        each.put(b"theirs")
        each.put(b"mine")
        await wait_until(lambda: work.keys == [b"mine"], "mine is worked on")

        assert len(each.agenda) == 0


async def test_without_an_answer_it_tries_again_after_pauses():
    """Nothing is forgotten, and it does not spin."""
    errors = [ConnectionLostError("gone") for _ in range(4)]
    work = Work(errors=errors)
    async with running(work) as each:
        each.put(b"a")
        await wait_until(lambda: len(work.batches) == 5, "it got through")

    pauses = [b - a for a, b in zip(work.times, work.times[1:], strict=False)]
    assert min(pauses) > 0.001
    assert work.keys == [b"a"] * 5


async def test_a_ring_does_not_cut_a_pause_short():
    """Otherwise a busy bell would make it spin."""
    work = Work(errors=[ConnectionLostError("gone")])
    async with running(work, retry=0.2) as each:
        each.put(b"a")
        await wait_until(lambda: len(work.batches) == 1, "it has failed")
        for number in range(100):
            each.put(b"%d" % number)
            await asyncio.sleep(0)

        assert len(work.batches) == 1
        await wait_until(lambda: len(work.keys) > 100, "everything is worked on")


async def test_another_error_is_logged_and_tried_again():
    """It ends nothing."""
    work = Work(errors=[ConfigurationError("no right")])
    with capture_logs() as logs:
        async with running(work) as each:
            each.put(b"a")
            await wait_until(lambda: len(work.batches) == 2, "it was tried again")

    (line,) = logs
    assert line["event"] == "janitor.work_failed"
    assert line["cause"] == "ConfigurationError"


async def test_stopping_finishes_the_batch_under_way():
    """And begins no other."""
    gate = asyncio.Event()
    finished = []

    async def work(keys):
        await gate.wait()
        finished.extend(keys)
        return dict.fromkeys(keys, 0.0)

    async with running(work) as each:
        each.put(b"a")
        await asyncio.sleep(0.01)
        each.stop()
        gate.set()

    assert finished == [b"a"]


async def test_stopping_ends_a_long_wait_at_once():
    """Nothing to do, or nothing soon."""
    async with running(Work()) as each:
        each.put(b"a", 3_600.0)
        await asyncio.sleep(0)
