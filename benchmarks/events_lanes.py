"""Priorities: critical events in front of a backlog of low ones, and low ones' share.

A hundred thousand low events wait. Critical ones are published while they are worked
off: first with a handler that does nothing, then with one that takes 20 ms, so that
every call the subscription may make is taken. Then all four lanes are full at once.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bars import Bar
from events_contenders import consuming
from events_rig import (
    EVENT_TYPE,
    PAYLOAD,
    SEEDS,
    STALLED_S,
    TENANT,
    multiply,
    open_crew,
    percentile,
    quiet,
    raw_client,
)
from rig import Address

if TYPE_CHECKING:
    import redis.asyncio

BACKLOG = 100_000
CRITICALS, PAUSE_S = 20, 0.02
SLOW_S = 0.02
OVERTAKEN_BAR, CRITICAL_BAR_MS = 1_000, 50.0  # a hundredth of the backlog; at once
LOW_BAR = 100 / 15  # percent
LANES = ("critical", "high", "normal", "low")


@dataclass(slots=True)
class Overtaking:
    """What became of the critical events."""

    handled_low: int = 0
    ages_ms: list[float] = field(default_factory=list)
    overtaken_by: list[int] = field(default_factory=list)
    at_start: int = 0  # low ones that came before a critical one that lay there too

    def note_critical(self, payload: dict) -> None:
        """Note the time since a critical event was published, and who came first."""
        self.ages_ms.append((time.perf_counter_ns() - payload["at"]) / 1e6)
        self.overtaken_by.append(self.handled_low - payload["low"])


async def fill(raw: redis.asyncio.Redis, address: Address, lane: str, n: int) -> None:
    """Put a backlog into one lane."""
    from mcp_crew_redis.events.event import Event
    from mcp_crew_redis.events.kinds import EventPriority

    priority = EventPriority[lane.upper()]
    async with open_crew(address) as crew:
        events = [
            Event.new(EVENT_TYPE, PAYLOAD, priority=priority) for _ in range(SEEDS)
        ]
        await crew.tenant(TENANT).events.publish_many(events)
    keys = [key async for key in raw.scan_iter(count=1_000, _type="stream")]
    (key,) = [key for key in keys if lane.encode() in key]
    await multiply(raw, key, n)


# --- overtaking ---------------------------------------------------------------------


async def overtake(address: Address, *, slow_s: float) -> Overtaking:
    """Publish critical events one by one into a low backlog that is being handled."""
    from mcp_crew_redis.events.kinds import EventPriority

    found = Overtaking()

    async def handler(event: object) -> None:
        if event.priority is EventPriority.CRITICAL:
            found.note_critical(event.payload)
        else:
            found.handled_low += 1
        if slow_s:
            await asyncio.sleep(slow_s)

    async with open_crew(address) as crew:
        events = crew.tenant(TENANT).events

        async def shout() -> None:
            payload = {"at": time.perf_counter_ns(), "low": found.handled_low}
            await events.publish(EVENT_TYPE, payload, priority=EventPriority.CRITICAL)

        await shout()  # one that waits there beside the backlog
        async with consuming(address, handler):
            await until(lambda: found.handled_low >= 100)
            (found.at_start,), found.ages_ms = found.overtaken_by, []
            found.overtaken_by = []
            for _ in range(CRITICALS):
                await shout()
                await asyncio.sleep(PAUSE_S)
            await until(lambda: len(found.ages_ms) == CRITICALS)
            if found.handled_low >= BACKLOG:
                raise SystemExit("the backlog was too short for this machine")
    return found


async def until(is_so: object) -> None:
    """Wait for a state that has no event.

    Raises:
        SystemExit: It did not come.
    """
    try:
        async with asyncio.timeout(STALLED_S):
            while not is_so():  # noqa: ASYNC110 - a counter has no event
                await asyncio.sleep(0.001)
    except TimeoutError:
        raise SystemExit("the lanes stalled") from None


# --- shares -------------------------------------------------------------------------


async def shares(address: Address, each: int) -> Counter[str]:
    """Fill all lanes; return what was handled until one of them was worked off."""
    handled: Counter[str] = Counter()
    finished = asyncio.Event()

    async def handler(event: object) -> None:
        if finished.is_set():
            return
        lane = event.priority.name.lower()
        handled[lane] += 1
        if handled[lane] >= each:
            finished.set()

    async with consuming(address, handler):
        async with asyncio.timeout(STALLED_S):
            await finished.wait()
    return handled


# --- measuring ----------------------------------------------------------------------


async def measure(address: Address, options: argparse.Namespace) -> list[Bar]:
    """Print who overtakes whom; return the bars."""
    print(f"\n## A backlog of {BACKLOG:,} low events\n")
    print("| handler | critical events | p50 ms | max ms | low ones handled before |")
    print("|---|--:|--:|--:|--:|")
    found = []
    async with raw_client(address) as raw:
        for name, slow_s in (("no-op", 0.0), ("20 ms each", SLOW_S)):
            await raw.flushall()
            await fill(raw, address, "low", BACKLOG)
            quiet()
            found.extend(report(name, await overtake(address, slow_s=slow_s)))
        await raw.flushall()
        each = 16_000 if options.quick else 48_000
        for lane in LANES:
            await fill(raw, address, lane, each)
        quiet()
        handled = await shares(address, each)
    return [*found, report_shares(handled)]


def report(name: str, result: Overtaking) -> list[Bar]:
    p50, most = percentile(result.ages_ms, 0.5), max(result.ages_ms)
    passed = max(result.at_start, *result.overtaken_by)
    print(f"| {name} | {len(result.ages_ms)} | {p50:.2f} | {most:.2f} | <= {passed} |")
    title = f"critical event, handler {name}"
    return [
        Bar(
            name=f"{title}, longest wait",
            measured=most,
            limit=CRITICAL_BAR_MS,
            at_least=False,
            unit="ms",
        ),
        Bar(
            name=f"{title}, low ones handled before it",
            measured=float(passed),
            limit=float(OVERTAKEN_BAR),
            at_least=False,
            unit="events",
        ),
    ]


def report_shares(handled: Counter[str]) -> Bar:
    total = handled.total()
    print(f"\n## All lanes full: shares of {total:,} handled\n")
    print("| " + " | ".join(LANES) + " |\n|--:|--:|--:|--:|")
    print("| " + " | ".join(f"{handled[lane] / total:.4f}" for lane in LANES) + " |")
    return Bar(
        name="all lanes full, share of the low one",
        measured=(handled["low"] + 1) / total * 100,  # the turn under way owes it one
        limit=LOW_BAR,
        at_least=True,
        unit="%",
    )
