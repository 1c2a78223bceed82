"""Events while processes die, servers die, and everything is deleted.

`CREW_CHAOS_SECONDS` (2) says for how long each run goes on; `CREW_CHAOS_SEED` at which
moments it strikes.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from itertools import pairwise
from random import Random

import pytest

from tests.faults.event_chaos import Processes, View, handled_all
from tests.faults.event_chaos_worker import Load
from tests.faults.outage_crews import number_from
from tests.faults.outage_power import PowerSupply
from tests.faults.test_replica_lag import pair
from tests.rig.waiting import wait_until

SECONDS = number_from("CREW_CHAOS_SECONDS", 2)
STRIKES = max(2, round(SECONDS / 5))
SEED = int(os.environ.get("CREW_CHAOS_SEED", "0")) or Random().randrange(1, 10**6)
DEADLY = 2
GRACE = 2.0
"""Seconds beside `claim_after` within which what a dead process held is handled."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(SECONDS * 2 + 120)]


@pytest.fixture
def random():
    """The moments; printed, to run them again."""
    print(f"CREW_CHAOS_SEED={SEED}")  # noqa: T201 - shown when a test fails
    return Random(SEED)


@pytest.fixture
def tell(record_testsuite_property):
    """Say what a run was like."""

    def say(what):
        print(what)  # noqa: T201 - with -s, or when it fails
        record_testsuite_property("told", what)

    return say


class Kills:
    """SIGKILLs consumers, and knows what each of them held."""

    def __init__(self, processes, view):
        self._processes, self._view = processes, view
        self.held = {}  # by entry, the processes that died with it
        self.count = 0

    async def kill(self, name):
        """Kill one, and note what is pending under its name."""
        pid = await self._processes.kill(name)
        for entry in self._view.pending(pid):
            self.held.setdefault(entry, []).append(name)
            self.count += 1

    def unexplained(self, told, entries):
        """Return what was handled again although it had been acknowledged."""
        found = []
        for name, handlings in told.repeated().items():
            places = {place: key for key, place in entries[name]}
            died = [
                process
                for place in {one.place for one in handlings}
                for process in self.held.get((places.get(place), place), [])
            ]
            first, *_, _ = sorted(handlings, key=lambda one: one.at)
            if len(handlings) - 1 > len(died) or first.process not in died:
                found.append((name, handlings, died))
        return found


async def test_what_killed_consumers_held_is_handled_by_others(
    own_server, tmp_path, random, tell
):
    """Nothing is lost; what is handled twice was held by a process that died."""
    load = Load()
    socket = own_server.unix_socket
    with View(own_server) as view:
        async with Processes(tmp_path, load) as processes:
            kills = Kills(processes, view)
            await processes.start_all("consumer", socket, 3)
            publishers = await processes.start_all("publisher", socket, 2)
            for strike in range(STRIKES):
                await asyncio.sleep(random.uniform(0.5, 1.5) * SECONDS / STRIKES)
                await kills.kill(random.choice(processes.names("consumer")))
                if strike < STRIKES - 1:
                    await processes.start("consumer", socket)
            killed_at = asyncio.get_running_loop().time()
            await processes.end(*publishers)
            await handled_all(processes, view, load.claim_after + GRACE + 1)
            took = asyncio.get_running_loop().time() - killed_at
            await processes.end(*processes.names("consumer"))
        told, entries, tally = processes.told(), view.entries(), view.tally()
        assert view.dead() == {}
        assert (view.unread(), view.pending()) == (0, {})
    repeated = told.repeated()
    tell(
        f"seed {SEED}: {len(told.handlings)} events, {STRIKES} kills, {kills.count} "
        f"held, {tally['redelivered']} redelivered, {len(repeated)} handled twice, "
        f"all {took:.2f} s after the last kill"
    )

    assert told.outcomes().keys() == {"stored"}
    assert told.unhandled() == set()
    assert [places for places in entries.values() if len(places) > 1] == []
    assert tally["redelivered"] <= kills.count
    assert kills.unexplained(told, entries) == []
    assert told.crossed == []


# --- servers that die -----------------------------------------------------------------


def disorder(told, entries):
    """Return pairs of one publisher's events that stand in the wrong order.

    Of two that went to the same stream one after the other, where one of them waited
    in the journal.
    """
    by_stream = {}
    for one in told.publishes:
        if one.is_promised and not one.is_plain and not one.name[1].startswith("all."):
            (key, place), *_ = entries[one.name]
            number = tuple(map(int, place.split("-")))
            by_stream.setdefault((one.process, key), []).append((number, one))
    found = []
    for calls in by_stream.values():
        ended = sorted(calls, key=lambda call: call[1].end)
        last, at = None, 0
        for number, call in sorted(calls, key=lambda call: call[1].start):
            while ended[at][1].end < call.start:
                last = max(last or ended[at], ended[at], key=lambda one: one[0])
                at += 1
            if last is not None and last[0] > number:
                found.append((last[1], call))
    return [pair for pair in found if "deferred" in {one.outcome for one in pair}]


def logged(told):
    """Return how many lines a consumer has logged; those of connections are others'."""
    return sum(
        count for line, count in told["lines"].items() if line.startswith("consumer.")
    )


class Outages:
    """Takes a server away, and measures what consumers do meanwhile."""

    def __init__(self, server, processes):
        self._server, self._processes = server, processes
        self.reads = self.spent = self.lines = 0.0  # of one consumer, per second

    async def outage(self, take_away, seconds):
        """Have one of that length, a part of a second for noticing it not counted."""
        take_away()
        await asyncio.sleep(0.3)
        consumers = self._processes.names("consumer")
        before = [await self._processes.statistics(name) for name in consumers]
        await asyncio.sleep(seconds)
        after = [await self._processes.statistics(name) for name in consumers]
        self._server.start()
        for old, new in zip(before, after, strict=True):
            passed = new["at"] - old["at"]
            reads = new["statistics"]["reads"] - old["statistics"]["reads"]
            self.reads = max(self.reads, reads / passed)
            self.lines = max(self.lines, (logged(new) - logged(old)) / passed)
            self.spent = max(self.spent, (new["spent"] - old["spent"]) / passed)


@pytest.mark.parametrize("fsync", ["always", "everysec"])
async def test_a_server_that_dies_costs_nothing_that_was_promised(
    make_server, tmp_path, random, tell, fsync
):
    """Killed, or even cut from power: what was promised stands once and is handled."""
    options = "--appendfsync", fsync, "--auto-aof-rewrite-percentage", "0"
    server = make_server("valkey", *options)
    load = Load(plain=5)
    async with Processes(tmp_path, load) as processes, AsyncExitStack() as stack:
        take_away = server.kill
        if fsync == "everysec":
            take_away = (await stack.enter_async_context(PowerSupply(server))).cut
        outages = Outages(server, processes)
        await processes.start_all("consumer", server.unix_socket, 2)
        publishers = await processes.start_all("publisher", server.unix_socket, 2)
        for _ in range(max(1, STRIKES // 2)):
            await asyncio.sleep(random.uniform(0.5, 1.5) * SECONDS / STRIKES)
            await outages.outage(
                take_away, random.uniform(0.7, 1.3) * SECONDS / STRIKES
            )
        await asyncio.sleep(SECONDS / STRIKES)
        await processes.end(*publishers)
        plain = {one.name for one in processes.told().publishes if one.is_plain}
        with View(server) as view:
            gone = frozenset(plain) if fsync == "everysec" else frozenset()
            await handled_all(processes, view, load.claim_after * 2 + GRACE, gone)
            await processes.end(*processes.names("consumer"))
            told, entries, tally = processes.told(), view.entries(), view.tally()
            assert view.dead() == {}
            assert (view.unread(), view.pending()) == (0, {})
    promised = told.promised()
    lost = {name for name in promised if name not in entries}
    twice = {name for name, places in entries.items() if len(places) > 1}
    tell(
        f"seed {SEED}, {fsync}: {dict(told.outcomes())}, {len(lost)} plain ones lost, "
        f"{tally['redelivered']} redelivered, {len(told.repeated())} handled twice; "
        f"in an outage a consumer reads {outages.reads:.1f} times, logs "
        f"{outages.lines:.1f} lines and works {outages.spent:.3f} s a second"
    )

    assert lost <= gone
    assert twice == set()
    assert told.unhandled() <= gone
    assert disorder(told, entries) == []
    assert told.outcomes()["deferred"] > 10
    assert told.crossed == []
    assert outages.reads < 10
    assert outages.lines < 20
    assert outages.spent < 0.2


async def test_consuming_goes_on_when_everything_is_deleted(
    own_server, tmp_path, random, tell
):
    """Within a second, without an error loop, and what comes later is handled."""
    load, clock = Load(), asyncio.get_running_loop().time
    socket, deleted = own_server.unix_socket, []
    with View(own_server) as view:
        async with Processes(tmp_path, load) as processes:
            consumers = await processes.start_all("consumer", socket, 2)
            publishers = await processes.start_all("publisher", socket, 2)
            before = {name: await processes.statistics(name) for name in consumers}
            for _ in range(STRIKES):
                await asyncio.sleep(random.uniform(0.5, 1.5) * SECONDS / STRIKES)
                deleted.append(clock())
                own_server.execute("FLUSHALL")
            await asyncio.sleep(1.0)
            after = {name: await processes.statistics(name) for name in consumers}
            await processes.end(*publishers)
            told = processes.told()
            gone = {one.name for one in told.publishes if one.start <= deleted[-1]}
            await handled_all(
                processes, view, load.claim_after + GRACE, frozenset(gone)
            )
            await processes.end(*consumers)
        told = processes.told()
        assert view.dead() == {}
        assert (view.unread(), view.pending()) == (0, {})
    times = sorted(one.at for each in told.handlings.values() for one in each)
    pauses = [b - a for a, b in pairwise(times)]
    starts = {one.name: one.start for one in told.publishes}
    resumed = [
        min(
            each[0].at - moment
            for name, each in told.handlings.items()
            if starts[name] > moment
        )
        for moment in deleted
    ]
    reads = sum(
        after[name]["statistics"]["reads"] - before[name]["statistics"]["reads"]
        for name in consumers
    )
    lines = sum(logged(after[name]) - logged(before[name]) for name in consumers)
    tell(
        f"seed {SEED}: {STRIKES} FLUSHALL, {len(told.handlings)} handled, "
        f"{len(told.unhandled())} gone with them; consuming went on after "
        f"{max(resumed):.3f} s, longest pause {max(pauses):.3f} s; "
        f"{reads} reads, {lines} lines"
    )

    assert told.unhandled() <= gone
    assert max(pauses) < 1.0
    assert max(resumed) < 1.0
    streams = load.tenants * load.types * 4
    assert lines <= 2 * streams * (STRIKES + 1) + 10
    assert reads <= 3 * len(told.handlings) + 10 * streams * STRIKES
    assert told.crossed == []


# --- events that cannot be handled ----------------------------------------------------


async def test_poison_ends_as_dead_letters_and_everything_else_is_handled(
    own_server, tmp_path, tell
):
    """What raises each time; the rest does not wait for it."""
    load = Load(raising=20, max_deliveries=3)
    socket = own_server.unix_socket
    with View(own_server) as view:
        async with Processes(tmp_path, load) as processes:
            consumers = await processes.start_all("consumer", socket, 2)
            publishers = await processes.start_all("publisher", socket, 2)
            await asyncio.sleep(SECONDS)
            await processes.end(*publishers)
            promised = processes.told().promised()
            poison = {name for name in promised if load.is_one(name[1], load.raising)}
            await handled_all(
                processes, view, load.claim_after + GRACE, frozenset(poison)
            )
            await processes.end(*consumers)
        told, dead = processes.told(), view.dead()
        assert view.tally()["dead"] == len(poison)
        assert (view.unread(), view.pending()) == (0, {})
    tell(f"{len(promised)} events, {len(poison)} poisonous")

    assert len(poison) > 5
    assert dead.keys() == poison
    assert told.handlings.keys() == promised - poison
    assert told.failures == dict.fromkeys(poison, load.max_deliveries)


async def test_what_kills_its_process_ends_as_a_dead_letter_and_nothing_else_does(
    own_server, tmp_path, tell
):
    """Those that were fetched together with it are innocent."""
    load = Load(deadly=150, max_deliveries=3, claim_after=0.3, callers=2)
    socket = own_server.unix_socket
    with View(own_server) as view:
        async with Processes(tmp_path, load) as processes:
            await processes.start_all("consumer", socket, 2)
            publishers = await processes.start_all("publisher", socket, 1)
            deaths = 0

            async def is_so(predicate):
                nonlocal deaths
                for name in processes.names("consumer"):
                    if processes.has_ended(name):
                        await processes.kill(name)
                        await processes.start("consumer", socket)
                        deaths += 1
                return predicate()

            def are_deadly():
                return len(processes.told().failures) >= DEADLY

            await wait_until(lambda: is_so(are_deadly), "some are deadly", 30)
            await processes.end(*publishers)
            promised = processes.told().promised()
            poison = {name for name in promised if load.is_one(name[1], load.deadly)}

            def are_buried():
                return poison <= view.dead().keys() and not view.pending()

            await wait_until(lambda: is_so(are_buried), "the poison is buried", 60)
            for name in processes.names("consumer"):
                await processes.ready(name)
            await wait_until(lambda: view.unread() == 0, "all is read", 10)
            await wait_until(lambda: not view.pending(), "all is done", 10)
            await processes.end(*processes.names("consumer"))
        told, dead = processes.told(), view.dead()
        assert (view.unread(), view.pending()) == (0, {})
    tell(
        f"{len(promised)} events, {len(poison)} deadly, {deaths} deaths, {len(dead)} "
        f"dead letters, {len(promised - poison - told.handlings.keys())} never handled"
    )

    assert told.handlings.keys() == promised - poison
    assert dead.keys() == poison


# --- replicas and tenants -------------------------------------------------------------


async def test_a_promoted_replica_costs_nothing_that_was_promised(
    make_server, tmp_path, random, tell
):
    """It lacks the last events and acknowledgements: duplicates, but no loss."""
    load = Load(plain=5)
    async with (
        pair(make_server) as (servers, socket),
        Processes(tmp_path, load) as processes,
    ):
        await processes.start_all("consumer", socket, 2)
        publishers = await processes.start_all("publisher", socket, 2)
        replicated = set()
        for strike in range(max(1, STRIKES // 2)):
            if strike:
                await servers.follow()
            await asyncio.sleep(random.uniform(0.3, 0.7) * SECONDS)
            servers.lag()
            await asyncio.sleep(random.uniform(0.2, 0.5))
            missed = await servers.promote()
            with View(servers.master) as view:
                replicated |= view.entries().keys()
        await asyncio.sleep(SECONDS / 2)
        await processes.end(*publishers)
        plain = {one.name for one in processes.told().publishes if one.is_plain}
        gone = frozenset(plain - replicated)
        with View(servers.master) as view:
            await handled_all(processes, view, load.claim_after * 2 + GRACE, gone)
            await processes.end(*processes.names("consumer"))
            told, entries, tally = processes.told(), view.entries(), view.tally()
            assert view.dead() == {}
            assert (view.unread(), view.pending()) == (0, {})
    lost = {name for name in told.promised() if name not in entries}
    tell(
        f"seed {SEED}: {dict(told.outcomes())}, {missed} bytes not replicated, "
        f"{len(lost)} plain ones lost, {tally['redelivered']} redelivered, "
        f"{len(told.repeated())} handled twice"
    )

    assert missed > 1_000
    assert lost <= gone
    assert [name for name, places in entries.items() if len(places) > 1] == []
    assert told.unhandled() <= gone
    assert told.crossed == []


async def test_tenants_with_the_same_types_groups_ids_and_keys_never_meet(
    own_server, tmp_path, tell
):
    """Each gets every event once, its own, while consumers die."""
    load = Load(tenants=20, is_same=True, pause=0.03, work=20.0)
    socket = own_server.unix_socket
    with View(own_server) as view:
        async with Processes(tmp_path, load) as processes:
            kills = Kills(processes, view)
            consumers = await processes.start_all("consumer", socket, 3)
            publishers = await processes.start_all("publisher", socket, 2)
            await asyncio.sleep(SECONDS / 2)
            await kills.kill(consumers[0])
            await asyncio.sleep(SECONDS / 2)
            await processes.end(*publishers)
            await handled_all(processes, view, load.claim_after + GRACE)
            await processes.end(*processes.names("consumer"))
        told, entries = processes.told(), view.entries()
        assert (view.unread(), view.pending(), view.dead()) == (0, {}, {})
    tell(f"{len(told.handlings)} events of 20 tenants, {kills.count} held by the dead")

    assert told.crossed == []
    assert told.handlings.keys() == told.promised() == entries.keys()
    assert [places for places in entries.values() if len(places) > 1] == []
    assert kills.unexplained(told, entries) == []
