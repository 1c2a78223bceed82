"""Publishing: a hundred callers with one event each, one caller with a thousand.

And what an entry takes in the server's memory beyond its payload.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgpack
import orjson
from bars import Bar
from events_rig import (
    EVENT_TYPE,
    PAYLOAD,
    STREAM,
    TENANT,
    Cell,
    faststream_broker,
    open_crew,
    quiet,
    raw_client,
    sole_stream,
)
from rig import Address, Sample, sample, spread_percent

if TYPE_CHECKING:
    import redis.asyncio

    from mcp_crew_redis.events.event import Event

CALLERS, MANY = 100, 1_000
PUBLISH_BAR, MANY_BAR, OVERHEAD_BAR = 5.0, 2.5, 130.0
WEIGHED = 10_000
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

Call = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Contender:
    """Someone who publishes: one event, and a thousand at once."""

    name: str
    one: Call
    many: Call


# --- the contenders -----------------------------------------------------------------


def ours(events: object) -> Contender:
    from mcp_crew_redis.events.event import Event

    def many() -> Awaitable[object]:
        batch = [Event.new(EVENT_TYPE, PAYLOAD) for _ in range(MANY)]
        return events.publish_many(batch)

    return Contender("ours", lambda: events.publish(EVENT_TYPE, PAYLOAD), many)


def faststream(broker: object, raw: redis.asyncio.Redis) -> Contender:
    """The way of its page on pipelines, without a transaction around it."""

    async def many() -> None:
        async with raw.pipeline(transaction=False) as pipe:
            for _ in range(MANY):
                await broker.publish(PAYLOAD, stream=STREAM, pipeline=pipe)
            await pipe.execute()

    return Contender("FastStream", lambda: broker.publish(PAYLOAD, stream=STREAM), many)


def redis_py(raw: redis.asyncio.Redis) -> Contender:
    """No envelope and nothing encoded: bytes that were ready before."""
    fields = {b"d": orjson.dumps(PAYLOAD)}

    async def many() -> None:
        async with raw.pipeline(transaction=False) as pipe:
            for _ in range(MANY):
                pipe.xadd("raw", fields)
            await pipe.execute()

    return Contender("redis-py, raw bytes", lambda: raw.xadd("raw", fields), many)


@contextlib.asynccontextmanager
async def contenders(address: Address, *, peers: bool) -> AsyncIterator[list]:
    async with (
        open_crew(address) as crew,
        raw_client(address, most=CALLERS + 10) as raw,
        faststream_broker(address) as broker,
    ):
        found = [ours(crew.tenant(TENANT).events)]
        if peers:
            await broker.connect()
            found += [faststream(broker, raw), redis_py(raw)]
        yield found


# --- measuring ----------------------------------------------------------------------

Cells = dict[tuple[str, str], Cell]


async def measure(address: Address, options: argparse.Namespace) -> list[Bar]:
    """Let everyone take a turn in each round; print the tables; return the bars."""
    cells: Cells = {}
    async with raw_client(address) as raw:
        await raw.flushall()
    quiet()
    async with contenders(address, peers=options.peers) as found:
        for what in ("one", "many"):
            await measure_calls(found, what, options, cells)
    print_table(cells)
    overheads = await measure_overhead(address)
    return [*bars(cells), *overheads]


async def measure_calls(
    found: list[Contender], what: str, options: argparse.Namespace, cells: Cells
) -> None:
    """Take the samples of one kind of call, in turns."""
    callers, events = (CALLERS, 1) if what == "one" else (1, MANY)
    sizes = {}
    for one in found:
        call = getattr(one, what)
        await sample(call, callers=callers, operations=callers * 5)
        probe = await sample(call, callers=callers, operations=callers * 20)
        sizes[one.name] = max(callers * 5, int(probe.per_second * options.seconds))
    for turn in range(options.rounds):
        start = turn % len(found)
        for one in found[start:] + found[:start]:
            taken = await sample(
                getattr(one, what), callers=callers, operations=sizes[one.name]
            )
            cell = cells.setdefault((what, one.name), Cell())
            cell.laps.append(
                Sample(
                    operations=taken.operations * events,
                    wall_s=taken.wall_s,
                    cpu_s=taken.cpu_s,
                )
            )


def print_table(cells: Cells) -> None:
    titles = {"one": "publish, 100 callers", "many": "publish_many of 1,000"}
    print("\n## Published by one process\n")
    print("| call | publisher | events/s | spread | us CPU/event | ours / it |")
    print("|---|---|--:|--:|--:|--:|")
    for (what, name), cell in cells.items():
        spread = spread_percent([lap.per_second for lap in cell.laps])
        ratio = cells[what, "ours"].per_second / cell.per_second
        print(
            f"| {titles[what]} | {name} | {cell.per_second:,.0f} | {spread:.0f} % "
            f"| {cell.cpu_us:.1f} | {ratio:.2f}x |"
        )


def bars(cells: Cells) -> list[Bar]:
    """Return the bars against FastStream."""
    found = []
    for what, title, limit in (
        ("one", "publish with 100 callers, ours / FastStream", PUBLISH_BAR),
        ("many", "publish_many of 1,000, ours / FastStream's pipeline", MANY_BAR),
    ):
        if (what, "FastStream") in cells:
            mine, theirs = (cells[what, name] for name in ("ours", "FastStream"))
            ratio = mine.per_second / theirs.per_second
            found.append(Bar(name=title, measured=ratio, limit=limit, at_least=True))
    return found


# --- what an entry weighs -----------------------------------------------------------


def plain() -> Event[dict]:
    from mcp_crew_redis.events.event import Event

    return Event.new(EVENT_TYPE, PAYLOAD)


def descendant(**attributes: str) -> Event[dict]:
    """An event of a chain with W3C trace context, as handlers publish them."""
    from mcp_crew_redis.events.event import Event

    return Event.new(
        EVENT_TYPE,
        PAYLOAD,
        **attributes,
        correlation_id="0190b4c2-7e11-7a3c-8f5d-0123456789ab",
        causation_id="0190b4c2-7e11-7a3c-8f5d-0123456789ac",
        traceparent=TRACE,
    )


def named() -> Event[dict]:
    """The same with 31 characters of the caller's own: more is what he makes of it."""
    return descendant(source="agent-researcher", key="conversation-42")


async def weigh(
    raw: redis.asyncio.Redis, publish: Callable[[], Awaitable[object]], payload: int
) -> float:
    """Return the bytes of server memory per entry that are not payload."""
    await raw.flushall()
    await publish()
    usage = await raw.memory_usage(await sole_stream(raw), samples=0)
    return usage / WEIGHED - payload


async def measure_overhead(address: Address) -> list[Bar]:
    """Weigh 10,000 entries of each kind; print the table; return the bars."""
    size = len(msgpack.packb(PAYLOAD))
    print("\n## Memory of the server per entry, over the payload\n")
    print("| entry | payload | bytes over it |\n|---|--:|--:|")
    found = []
    kinds = {"plain": plain, "of a chain": descendant, "with source and key": named}
    for name, make in kinds.items():
        async with raw_client(address) as raw, open_crew(address) as crew:
            events = crew.tenant(TENANT).events

            async def publish(make: Callable = make, events: object = events) -> None:
                for _ in range(WEIGHED // MANY):
                    await events.publish_many([make() for _ in range(MANY)])

            over = await weigh(raw, publish, size)
        print(f"| ours, {name} | {size} | {over:.0f} |")
        title = f"an entry over its payload, {name}, memory"
        bar = Bar(
            name=title,
            measured=over,
            limit=OVERHEAD_BAR,
            at_least=False,
            unit="bytes",
        )
        found += [bar] if make is not named else []
    await weigh_faststream(address)
    return found


async def weigh_faststream(address: Address) -> None:
    async with raw_client(address) as raw, faststream_broker(address) as broker:
        await broker.connect()
        publisher = faststream(broker, raw)

        async def publish() -> None:
            for _ in range(WEIGHED // MANY):
                await publisher.many()

        size = len(orjson.dumps(PAYLOAD))
        print(f"| FastStream | {size} | {await weigh(raw, publish, size):.0f} |")
