"""Consuming: a durable group, every event acknowledged, a handler that does nothing.

A backlog waits in the stream, in each contender's own format; a consumer is started on
it. The first events are its warm-up; the time from there to the last handled event is
the figure. Afterwards nothing may be pending or unread in the group.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bars import Bar
from events_contenders import Contender, contenders
from events_rig import (
    Cell,
    Lap,
    StopWatch,
    check_acknowledged,
    multiply,
    quiet,
    raw_client,
    sole_stream,
)
from rig import Address, spread_percent

if TYPE_CHECKING:
    import redis.asyncio

WARM = 1_000
SINGLE_BAR, BATCH_BAR = 10.0, 1.3


async def run_one(
    raw: redis.asyncio.Redis, address: Address, contender: Contender
) -> Lap:
    """Fill an empty server, consume it all, and see that nothing is left."""
    await raw.flushall()
    await contender.seed(address)
    key = await sole_stream(raw)
    total = await multiply(raw, key, contender.events)
    watch = StopWatch(WARM, total)
    quiet()
    lap = await contender.consume(address, watch)
    if watch.seen != total:
        raise SystemExit(f"{contender.name}: {watch.seen:,} handled of {total:,}")
    await check_acknowledged(raw, key)
    return lap


async def measure(address: Address, options: argparse.Namespace) -> list[Bar]:
    """Let everyone take a turn in each round; print the table; return the bars."""
    found = [
        one
        for one in contenders(quick=options.quick)
        if options.peers or one.name.startswith("ours")
    ]
    cells = {(one.kind, one.name): Cell() for one in found}
    async with raw_client(address) as raw:
        for turn in range(options.rounds):
            start = turn % len(found)
            for one in found[start:] + found[:start]:
                lap = await run_one(raw, address, one)
                cells[one.kind, one.name].laps.append(lap)
    print_table(cells)
    return bars(cells)


def print_table(cells: dict[tuple[str, str], Cell]) -> None:
    print("\n## Consumed by one process: durable group, acks on, no-op handler\n")
    print("| handler | consumer | events/s | spread | us CPU/event | ours / it |")
    print("|---|---|--:|--:|--:|--:|")
    for (kind, name), cell in cells.items():
        mine = best(cells, kind, "ours")
        spread = spread_percent([lap.per_second for lap in cell.laps])
        print(
            f"| {kind} | {name} | {cell.per_second:,.0f} | {spread:.0f} % "
            f"| {cell.cpu_us:.1f} | {mine / cell.per_second:.2f}x |"
        )


def best(cells: dict[tuple[str, str], Cell], kind: str, name: str) -> float:
    """Return the best figure of a contender that was measured in several ways."""
    figures: Sequence[float] = [
        cell.per_second
        for (its_kind, its_name), cell in cells.items()
        if its_kind == kind and its_name.startswith(name)
    ]
    return max(figures, default=float("nan"))


def bars(cells: dict[tuple[str, str], Cell]) -> list[Bar]:
    """Return the bars against FastStream.

    The single handler is held against the subscriber with one worker or more, whichever
    is faster; the batch handler at its default size against the best size of theirs.
    """
    if ("single", "FastStream") not in cells:
        return []
    single = cells["single", "ours"].per_second / best(cells, "single", "FastStream")
    mine = cells["batch", "ours, 256"].per_second
    return [
        Bar(
            name="one event per call, ours / FastStream",
            measured=single,
            limit=SINGLE_BAR,
            at_least=True,
        ),
        Bar(
            name="batch handler, ours at its default of 256 / FastStream at its best",
            measured=mine / best(cells, "batch", "FastStream"),
            limit=BATCH_BAR,
            at_least=True,
        ),
    ]
