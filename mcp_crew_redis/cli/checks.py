"""What the demo claims, checked: each line is true or the demo fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mcp_crew_redis.cli.cast import TENANTS, edited
from mcp_crew_redis.cli.dialogue import Readings
from mcp_crew_redis.cli.items import Item, digest_of
from mcp_crew_redis.cli.report import Report
from mcp_crew_redis.cli.second_process import SecondProcess
from mcp_crew_redis.cli.shelf import Shelf, unequal
from mcp_crew_redis.cli.subscribers import Reviewer
from mcp_crew_redis.cli.talk import Desk
from mcp_crew_redis.clock import Clock
from mcp_crew_redis.crew import CrewRedis
from mcp_crew_redis.types import DataType

__all__ = ["Stand", "check_all"]

_BURST = 1_000
_BURST_TYPES = (DataType.TOOLS, DataType.CACHE, DataType.CONVERSATION)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """What the checks look at, and where they tell what they see.

    Attributes:
        report: Where to.
        crew: This process's.
        shelf: What was written through.
        second: The other process.
        clock: Time.
        desk: Where this process's agents publish.
        reviewer: Its subscriber that fails until it is repaired.
        round_trips_before: How often the server had read when all began.
    """

    report: Report
    crew: CrewRedis
    shelf: Shelf
    second: SecondProcess
    clock: Clock
    desk: Desk
    reviewer: Reviewer
    round_trips_before: int


async def check_all(stand: Stand, items: Sequence[Item], readings: Readings) -> bool:
    """Make every check and tell it; return whether all hold."""
    stand.report.title("Checks")
    verdicts = [
        _check_equal(stand.report, items, readings),
        await _check_isolation(stand, items, readings),
        await _check_burst(stand, items),
    ]
    for tenant in TENANTS:
        changed = next(
            item
            for item in items
            if item.tenant_id == tenant.id and item.data_type is DataType.KNOWLEDGE
        )
        verdicts.append(await _check_ring(stand, edited(changed)))
    await _describe_wire(stand)
    return all(verdicts)


def _check_equal(report: Report, items: Sequence[Item], readings: Readings) -> bool:
    count = len(items) - len(unequal(items, readings))
    holds = bool(items) and count == len(items)
    report.check(
        holds,
        f"{count} of {len(items)} values came back equal in the other process, "
        "and expire",
    )
    return holds


async def _check_isolation(
    stand: Stand, items: Sequence[Item], readings: Readings
) -> bool:
    """Each tenant has its own values, all of them and nothing else, wherever asked."""
    kept = {item.name for item in items}
    by_tenant = await stand.shelf.names_by_tenant()
    found = {name for names in by_tenant.values() for name in names}
    crossed = await _crossing_count(stand, items)
    holds = found == kept == set(readings) and crossed == 0
    counts = ", ".join(
        f"{name} {len(names)}" for name, names in sorted(by_tenant.items())
    )
    stand.report.check(
        holds, f"keys the server has by tenant: {counts}; {crossed} seen by the other"
    )
    return holds


async def _crossing_count(stand: Stand, items: Sequence[Item]) -> int:
    """Ask every tenant for the conversations of the others."""
    crossed = 0
    for item in items:
        if item.data_type is DataType.CONVERSATION:
            for other in TENANTS:
                if other.id != item.tenant_id:
                    tenant = stand.crew.tenant(other.id)
                    crossed += await tenant.exists(item.data_type, item.identifier)
    return crossed


async def _check_burst(stand: Stand, items: Sequence[Item]) -> bool:
    small = [item for item in items if item.data_type in _BURST_TYPES]
    before = await stand.shelf.socket_read_count()
    burst = await stand.shelf.read_many(small, _BURST)
    reads = await stand.shelf.socket_read_count() - before
    holds = burst.equal_count == _BURST
    stand.report.check(
        holds,
        f"{burst.equal_count:,} of {_BURST:,} concurrent reads equal; made in "
        f"{burst.seconds * 1e3:,.1f} ms: {burst.read_count / burst.seconds:,.0f} "
        f"reads/s, {reads} round trips (seen here, no benchmark)",
    )
    return holds


async def _check_ring(stand: Stand, item: Item) -> bool:
    """Change a value here; the bell must tell the other process, which reads it."""
    began = stand.clock.wall()
    tenant = stand.crew.tenant(item.tenant_id)
    await tenant.set(item.data_type, item.identifier, item.value, kind=item.kind)
    await stand.desk.say_of(item)
    ring = await stand.second.ring()
    while (ring.tenant_id, ring.identifier) != (item.tenant_id, item.identifier):
        ring = await stand.second.ring()  # a change may be told more than once
    holds = ring.digest == digest_of(item.value)
    took = (ring.heard_at - began) * 1e3
    stand.report.check(
        holds,
        f"{item.tenant_id} changed {item.identifier}: the other process, rung "
        f"after {took:,.1f} ms, read it",
    )
    return holds


async def _describe_wire(stand: Stand) -> None:
    wire = stand.crew.redis.statistics()
    clients = await stand.crew.redis.info("clients")
    sent = wire.interactive.sent + wire.bulk.sent
    others = clients["connected_clients"] - wire.dials
    round_trips = await stand.shelf.socket_read_count() - stand.round_trips_before
    stand.report.line(
        "wire",
        f"{wire.dials} connection{'s' if wire.dials != 1 else ''}, {sent:,} commands "
        f"here; {others} connections there, the bell included; "
        f"{round_trips:,} round trips in all; circuit {wire.circuit.state}",
    )
