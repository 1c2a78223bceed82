"""Events while processes die, servers die, and everything is deleted.

`CREW_CHAOS_SECONDS` (1) says for how long each run goes on; `CREW_CHAOS_SEED` at which
moments it strikes.
"""

from __future__ import annotations

import asyncio
import os
from random import Random

import pytest

from tests.faults.event_chaos import GRACE, Processes, nothing, settle
from tests.faults.event_chaos_checks import (
    Kills,
    Outages,
    disorder,
    logged,
    mortal,
    pauses,
    published_until,
    read,
    untimely,
)
from tests.faults.event_chaos_load import Load
from tests.faults.event_chaos_view import View
from tests.faults.outage_crews import number_from
from tests.faults.test_replica_lag import pair
from tests.rig.waiting import wait_until

SECONDS = number_from("CREW_CHAOS_SECONDS", 1)
STRIKES = max(2, round(SECONDS / 5))
SEED = int(os.environ.get("CREW_CHAOS_SEED", "0")) or Random().randrange(1, 10**6)
PUBLISHERS = 1 if SECONDS < 5 else 2
VARIANTS = {
    "single": Load(),
    "batch": Load(batch=20, concurrency=2, work=10.0),
    "dedup": Load(dedup=True),
    "ordered": Load(partitions=4, work=20.0),
}
CHOSEN = sorted(VARIANTS) if SECONDS >= 5 else [Random(SEED).choice(sorted(VARIANTS))]
"""Kinds of subscriptions whose consumers are killed: one of them in the short run."""
DEADLY = 1
"""Events that kill their process, at least."""

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


async def a_while(random):
    """Let the load go on until the next strike."""
    await asyncio.sleep(random.uniform(0.5, 1.5) * SECONDS / STRIKES)


# --- processes that die ---------------------------------------------------------------


@pytest.mark.parametrize("variant", CHOSEN)
async def test_what_killed_consumers_held_is_handled_by_others(
    own_server, tmp_path, random, tell, variant
):
    """Nothing is lost; what is handled twice was held by a process that died."""
    load, socket = VARIANTS[variant], own_server.unix_socket
    async with Processes(tmp_path, load) as processes:
        kills = Kills(processes, own_server)
        await processes.start_all(socket, consumers=3, publishers=2)
        for strike in range(STRIKES):
            await a_while(random)
            await kills.kill(random.choice(processes.names("consumer")))
            if strike < STRIKES - 1:
                await processes.start("consumer", socket)
        run = await settle(processes, own_server, load.claim_after + GRACE)
    told = run.told
    tell(
        f"seed {SEED}, {variant}: {len(told.handlings)} events, {STRIKES} kills, "
        f"{kills.count} held, {run.tally['redelivered']} redelivered, "
        f"{len(told.repeated())} handled twice, all {run.took:.2f} s after the end"
    )

    assert told.outcomes().keys() == {"stored"}
    assert told.unhandled() == set()
    assert (run.twice, run.dead, told.crossed) == ([], {}, [])
    assert run.tally["redelivered"] <= kills.count
    assert kills.unexplained(told, run.entries) == []
    assert variant != "ordered" or untimely(told, run.entries) == []


async def test_what_kills_its_process_ends_as_a_dead_letter_and_nothing_else_does(
    own_server, tmp_path, tell
):
    """Those that were fetched together with it are innocent."""
    load = Load(deadly=150, max_deliveries=4, claim_after=0.3, callers=2)
    socket = own_server.unix_socket
    async with Processes(tmp_path, load) as processes:
        await processes.start_all(socket, consumers=2, publishers=1)
        with View(own_server) as view:
            await processes.replacing(
                socket,
                lambda: len(processes.told().failures) >= DEADLY,
                "some are deadly",
            )
            await processes.end(*processes.names("publisher"))
            poison = load.chosen(processes.told().promised(), load.deadly)
            await processes.replacing(
                socket,
                lambda: poison <= view.dead().keys() and not view.pending(),
                "they are buried",
            )
            await wait_until(lambda: view.unread() == 0, "all is read", 10)
        run = await settle(processes, own_server, 10, lambda told: told.unhandled())
    promised = run.told.promised()
    tell(
        f"{len(promised)} events, {len(poison)} deadly, {processes.replaced} deaths, "
        f"{len(run.dead)} dead letters, {len(run.told.unhandled() - poison)} innocent"
    )

    assert run.told.unhandled() == poison
    assert run.dead.keys() == poison


# --- servers that die -----------------------------------------------------------------


@pytest.mark.parametrize("fsync", ["always", "everysec"])
async def test_a_server_that_dies_costs_nothing_that_was_promised(
    make_server, tmp_path, random, tell, fsync
):
    """Killed, or even cut from power: what was promised stands once and is handled.

    A power cut may take plain publishes of the last second.
    """
    load = Load(plain=5)
    async with (
        mortal(make_server, fsync) as (server, take_away),
        Processes(tmp_path, load) as processes,
    ):
        outages = Outages(server, processes)
        await processes.start_all(
            server.unix_socket, consumers=2, publishers=PUBLISHERS
        )
        for _ in range(STRIKES // 2):
            await a_while(random)
            await outages.outage(take_away, random.uniform(0.4, 0.8))
        await a_while(random)
        but = nothing if fsync == "always" else plain_ones
        run = await settle(processes, server, load.claim_after * 2 + GRACE, but)
    told, gone = run.told, but(run.told)
    tell(
        f"seed {SEED}, {fsync}: {dict(told.outcomes())}, {len(run.lost)} plain ones "
        f"lost, {run.tally['redelivered']} redelivered, {len(told.repeated())} handled "
        f"twice; in an outage, each second, {outages}"
    )

    assert told.outcomes()["deferred"] > 10
    assert run.lost <= gone
    assert told.unhandled() <= gone
    assert (run.twice, run.dead, told.crossed) == ([], {}, [])
    assert disorder(told, run.entries) == []
    assert outages.are_calm


def plain_ones(told):
    """Return what was published without being idempotent."""
    return frozenset(one.name for one in told.publishes if one.is_plain)


async def test_a_promoted_replica_costs_nothing_that_was_promised(
    make_server, tmp_path, random, tell
):
    """It lacks the last events and acknowledgements: duplicates, but no loss."""
    load, replicated, missed = Load(plain=5), set(), 0
    async with (
        pair(make_server) as (servers, socket),
        Processes(tmp_path, load) as processes,
    ):
        await processes.start_all(socket, consumers=2, publishers=PUBLISHERS)
        for strike in range(STRIKES // 2):
            if strike:
                await servers.follow()
            await a_while(random)
            servers.lag()
            await asyncio.sleep(random.uniform(0.2, 0.5))
            missed += await servers.promote()
            with View(servers.master) as view:
                replicated |= view.entries().keys()
        await a_while(random)

        def not_replicated(told):
            return plain_ones(told) - replicated

        within = load.claim_after * 2 + GRACE
        run = await settle(processes, servers.master, within, not_replicated)
    told = run.told
    tell(
        f"seed {SEED}: {dict(told.outcomes())}, {missed} bytes not replicated, "
        f"{len(run.lost)} plain ones lost, {run.tally['redelivered']} redelivered, "
        f"{len(told.repeated())} handled twice"
    )

    assert missed > 1_000
    assert run.lost <= not_replicated(told)
    assert told.unhandled() <= not_replicated(told)
    assert (run.twice, run.dead, told.crossed) == ([], {}, [])


# --- everything is deleted ------------------------------------------------------------


async def test_consuming_goes_on_when_everything_is_deleted(
    own_server, tmp_path, random, tell
):
    """Within a second, without an error loop; who comes later finds what came later."""
    load, clock, deleted = Load(), asyncio.get_running_loop().time, []
    socket = own_server.unix_socket
    async with Processes(tmp_path, load) as processes:
        await processes.start_all(socket, consumers=2, publishers=PUBLISHERS)
        before = await processes.all_statistics()
        for _ in range(STRIKES):
            await a_while(random)
            own_server.execute("FLUSHALL")
            deleted.append(clock())
        await asyncio.sleep(1.0)
        after = await processes.all_statistics()
        await processes.end(*processes.names("consumer"))
        await processes.end(*processes.names("publisher"))
        await processes.start_all(socket, consumers=1, publishers=0)

        def gone(told):
            return published_until(told, deleted[-1])

        run = await settle(processes, own_server, load.claim_after + GRACE, gone)
    told, reads = run.told, sum(map(read, after)) - sum(map(read, before))
    lines = sum(map(logged, after)) - sum(map(logged, before))
    longest = max(pauses(told, deleted))
    tell(
        f"seed {SEED}: {STRIKES} times FLUSHALL, {len(told.handlings)} handled, "
        f"{len(told.unhandled())} gone; the longest pause was {longest:.3f} s, "
        f"{reads} reads, {lines} lines"
    )

    assert told.unhandled() <= gone(told)
    assert longest < 1.0
    assert lines <= 2 * load.streams * (STRIKES + 1) + 10
    assert reads <= 3 * len(told.handlings) + 10 * load.streams * STRIKES
    assert (run.dead, told.crossed) == ({}, [])


# --- tenants --------------------------------------------------------------------------


async def test_tenants_with_the_same_types_groups_ids_and_keys_never_meet(
    own_server, tmp_path, tell
):
    """Each gets every event once, its own; poison ends as a dead letter of its own."""
    load = Load(
        tenants=20, is_same=True, pause=0.03, work=20.0, raising=20, max_deliveries=3
    )
    async with Processes(tmp_path, load) as processes:
        await processes.start_all(
            own_server.unix_socket, consumers=2, publishers=PUBLISHERS
        )
        await asyncio.sleep(SECONDS)

        def poisonous(told):
            return load.chosen(told.promised(), load.raising)

        run = await settle(processes, own_server, 2 * GRACE, poisonous)
    told, promised, poison = run.told, run.told.promised(), poisonous(run.told)
    tell(f"{len(promised)} events of 20 tenants, {len(poison)} poisonous")

    assert len(poison) > 5
    assert (run.twice, told.crossed, told.repeated()) == ([], [], {})
    assert run.entries.keys() == promised
    assert told.handlings.keys() == promised - poison
    assert run.dead.keys() == poison
    assert run.tally["dead"] == len(poison)
    assert told.failures == dict.fromkeys(poison, load.max_deliveries)
