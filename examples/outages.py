"""What a crew does while it cannot reach Redis, and after.

Run it: python examples/outages.py

# Output:
ready: True, degraded: ['redis']
the write was deferred
['search', 'book'] from the journal, stale: True, waiting: 1
trip: ['search', 'book'] here, and later ['search', 'pay'] elsewhere
in Redis now: ['book', 'pay', 'search']
merged: 1, still waiting: 0
"""

import logging

import anyio
import structlog

from mcp_crew_redis import Conflict, CrewRedis, DataType, Merged
from mcp_crew_redis.testing import FaultProxy, LocalServer


def union(conflict: Conflict) -> Merged:
    """Keep what either side has; without `merge=` the newer write would stand."""
    local, remote = conflict.local, conflict.remote
    print(f"{conflict.identifier}: {local} here, and later {remote} elsewhere")
    assert isinstance(local, list)
    assert isinstance(remote, list)
    return Merged(sorted({*local, *remote}))


async def play(crew: CrewRedis, elsewhere: CrewRedis, proxy: FaultProxy) -> None:
    """Cut one of two crews off, let both write, and bring it back."""
    acme, theirs = crew.tenant("acme"), elsewhere.tenant("acme")
    proxy.refuse()
    proxy.cut()
    health = await crew.health()
    reasons = [reason.partition(":")[0] for reason in health.reasons]
    print(f"ready: {health.is_ready}, degraded: {reasons}")

    outcome = await acme.set(DataType.STATE, "trip", ["search", "book"])
    print(f"the write was {outcome}")
    entry = await acme.get_entry(DataType.STATE, "trip")
    assert entry is not None
    waiting = crew.journal.statistics().depth
    told = f"{entry.value} from the {entry.source}, stale: {entry.is_stale}"
    print(f"{told}, waiting: {waiting}")
    await theirs.set(DataType.STATE, "trip", ["search", "pay"])

    await proxy.accept()
    await crew.journal.drained(10)
    print("in Redis now:", await theirs.get(DataType.STATE, "trip"))
    journal = crew.journal.statistics()
    print(f"merged: {journal.merged}, still waiting: {journal.depth}")


async def main() -> None:
    """Play it with a server and a network that break on command."""
    quiet = structlog.make_filtering_bound_logger(logging.ERROR)
    structlog.configure(wrapper_class=quiet)  # an outage is logged as warnings
    async with (
        LocalServer() as server,
        FaultProxy(server.unix_socket) as proxy,
        CrewRedis(server.settings(unix_socket=proxy.unix_socket), merge=union) as crew,
        CrewRedis(server.settings()) as elsewhere,
    ):
        await play(crew, elsewhere, proxy)


if __name__ == "__main__":
    anyio.run(main)
