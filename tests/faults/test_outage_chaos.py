"""Four processes go on while the server is killed and restarted again and again.

`CREW_CHAOS_SECONDS` (6) says for how long, with a restart every six seconds or less;
`CREW_CHAOS_SEED` which moments.
"""

from __future__ import annotations

import asyncio
import os
from random import Random

import pytest

from mcp_crew_redis.testing import FaultProxy
from tests.faults.outage_crews import Fleet, number_from, problems_on

SECONDS = number_from("CREW_CHAOS_SECONDS", 6)
RESTARTS = max(2, round(SECONDS / 6))
SEED = int(os.environ.get("CREW_CHAOS_SEED", "0")) or Random().randrange(1, 10**6)


async def restart_again_and_again(server, proxy, random):
    """Kill it, leave it dead for a while, and some processes apart for longer."""
    for _ in range(RESTARTS):
        rest = SECONDS / RESTARTS
        down, apart = random.uniform(0.1, 0.3) * rest, random.uniform(0.1, 0.2) * rest
        await asyncio.sleep(rest - down - apart)
        server.kill()
        proxy.refuse()
        await asyncio.sleep(down)
        server.start()
        await asyncio.sleep(apart)  # the others write what is newer
        await proxy.accept()


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 180)
async def test_nothing_is_lost_and_nothing_clobbered(
    make_server, tmp_path, record_testsuite_property
):
    """Every key's last value is explained by what the processes wrote down."""
    print(f"CREW_CHAOS_SEED={SEED}")  # noqa: T201 - to run it again
    server = make_server("valkey")
    async with FaultProxy(server.unix_socket) as proxy, Fleet(tmp_path) as fleet:
        for number, socket in enumerate([server.unix_socket, proxy.unix_socket] * 2):
            await fleet.start(f"w{number}", socket)
        await fleet.ready()
        await restart_again_and_again(server, proxy, Random(SEED))
        await fleet.called()
        await fleet.finish()

        history = fleet.history()
        problems = problems_on(server, history)
    statistics = [report.statistics for report in history.reports]
    conflicts = sum(each["conflicts"] for each in statistics)
    restored = sum(each["restored"] for each in statistics)
    told = (
        f"seed {SEED}, {SECONDS:g} s, {RESTARTS} restarts: "
        f"{history.count('stored')} stored, {history.count('deferred')} deferred, "
        f"{conflicts} conflicts, {restored} restored"
    )
    print(told)  # noqa: T201 - with -s, or when it fails
    record_testsuite_property("told", told)

    assert problems[:10] == []
    assert [each["depth"] for each in statistics] == [0] * 4
    assert all(each["drained"] for each in statistics)
    assert history.count("stored") > 100
    assert history.count("deferred") > 100
    assert history.count("unsent", "unknown") == 0
    assert conflicts > 0
