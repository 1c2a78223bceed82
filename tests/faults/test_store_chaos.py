"""Two processes write the same keys over paths that stall, wake, lose and are cut.

`CREW_CHAOS_SECONDS` (8) says for how long, `CREW_CHAOS_SEED` which chances.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from random import Random

import pytest
from redis.asyncio import Redis

from mcp_crew_redis._wire.header import HEADER_BYTES, unseal
from mcp_crew_redis.testing import FaultProxy
from tests.faults.store_chaos import NAMES, TENANT, digest
from tests.integration.core.bench import split
from tests.rig.waiting import wait_until

WORKER = Path(__file__).with_name("store_chaos.py")
SECONDS = float(os.environ.get("CREW_CHAOS_SECONDS", "8"))
SEED = int(os.environ.get("CREW_CHAOS_SEED", "0")) or Random().randrange(1, 10**6)


async def work(socket, seed):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(WORKER), socket, str(seed), str(SECONDS)),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        output, _ = await process.communicate()
    except BaseException:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    assert process.returncode == 0
    return json.loads(output)


async def stall_requests(proxy, random):
    """What is on its way waits, then lands."""
    proxy.requests.stall()
    await asyncio.sleep(random.uniform(0.01, 0.5))
    proxy.requests.release()


async def stall_old_requests(proxy, random):
    """Later connections have a path of their own; the old one wakes later."""
    proxy.requests.stall()
    old = split(proxy)
    await asyncio.sleep(random.uniform(0.05, 0.8))
    old.release()


async def stall_replies(proxy, random):
    """All is executed, nothing is heard of it for a while."""
    proxy.replies.stall()
    await asyncio.sleep(random.uniform(0.01, 0.5))
    proxy.replies.release()


async def cut(proxy, random):
    """Whatever is on its way is lost."""
    await asyncio.sleep(random.uniform(0, 0.02))
    proxy.cut()


async def lose_a_reply(proxy, random):
    """The next write is executed, its reply lost."""
    proxy.drop_reply_to(b"{%s}:%s" % (TENANT.encode(), random.choice(NAMES).encode()))
    with suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            await proxy.wait_for_dropped_reply()


FAULTS = [stall_requests, stall_old_requests, stall_replies, cut, lose_a_reply]


async def disturb(proxy, random, done):
    """Break one path again and again until `done`, and heal it."""
    faults = Counter()
    while not done.is_set():
        fault = random.choice(FAULTS)
        faults[fault.__name__] += 1
        await fault(proxy, random)
        await asyncio.sleep(random.uniform(0.01, 0.15))
    proxy.heal()
    return faults


async def watch(server, done):
    """Look at every key all the time: none may step back. Return what did."""
    keys = [f"p:state:{{{TENANT}}}:{name}" for name in NAMES]
    newest, wrong = dict.fromkeys(keys, 0), []
    async with Redis(**server.client_kwargs) as client:
        while not done.is_set():
            for key, data in zip(keys, await client.mget(keys), strict=True):
                stamp = 0 if data is None else unseal(data).stamp
                if stamp < newest[key]:
                    wrong.append(f"{key}: {stamp} after {newest[key]}")
                newest[key] = stamp
            await asyncio.sleep(0.001)
    return wrong


async def run(server, proxies):
    """Let a process write over each path while it is disturbed; return the reports."""
    done = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch(server, done))
        workers = [
            group.create_task(work(proxy.unix_socket, SEED + at))
            for at, proxy in enumerate(proxies)
        ]
        disturbing = [
            group.create_task(disturb(proxy, Random(SEED * 7 + at), done))
            for at, proxy in enumerate(proxies)
        ]
        await asyncio.wait(workers)
        done.set()
    faults = sum((task.result() for task in disturbing), Counter())
    return [task.result() for task in workers], faults, watching.result()


def newest_of(reports):
    """Return each key's newest acknowledged stamp, and its value's digest."""
    newest = {}
    for report in reports:
        for key, (stamp, mark) in report["newest"].items():
            if stamp > newest.get(key, (0, None))[0]:
                newest[key] = stamp, mark
    return newest


def check_key(server, key, stamp, mark):
    """Say what is wrong with a key, if anything."""
    data = server.execute("GET", key)
    if data is None:
        return f"{key}: gone"
    stands = unseal(data).stamp
    if stands < stamp:
        return f"{key}: {stands} stands, {stamp} was acknowledged"
    if stands == stamp and mark not in (None, digest(data[HEADER_BYTES:])):
        return f"{key}: another value under {stamp}"
    return None


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 60)
async def test_no_key_ends_older_than_its_newest_acknowledged_stamp(
    server, record_testsuite_property
):
    """Whatever wakes late, is cancelled, lost or sent twice."""
    print(f"CREW_CHAOS_SEED={SEED}")  # noqa: T201 - to run it again
    async with AsyncExitStack() as stack:
        proxies = [
            await stack.enter_async_context(FaultProxy(server.unix_socket))
            for _ in range(2)
        ]
        reports, faults, went_back = await run(server, proxies)
        await wait_until(
            lambda: all(proxy.requests.held_count == 0 for proxy in proxies),
            "all that waited has landed",
        )
    counts = sum((Counter(report["counts"]) for report in reports), Counter())
    told = f"seed {SEED}, {SECONDS:g} s: {dict(counts)}, faults {dict(faults)}"
    print(told)  # noqa: T201 - with -s, or when it fails
    record_testsuite_property("told", told)

    newest = newest_of(reports)
    assert went_back[:10] == []
    assert [line for report in reports for line in report["wrong"]] == []
    problems = [check_key(server, key, *mark) for key, mark in newest.items()]
    assert [problem for problem in problems if problem] == []
    assert len(newest) == len(NAMES)
    assert counts["cancelled"] > 20
    assert counts["returned"] > 200
    assert len(faults) == len(FAULTS)
