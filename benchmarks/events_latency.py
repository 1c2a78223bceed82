"""How soon a published event reaches its handler, in another process.

The moment before the call of publish travels in the payload, by the machine's monotonic
clock, which both processes share; the handler compares it. The consumer runs on the
client's core, the publisher beside the server on the other.

    python events_latency.py ours|FastStream PORT RATE SECONDS TENANTS      (publishes)
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog
from bars import Bar
from events_contenders import consuming
from events_rig import (
    EVENT_TYPE,
    GROUP,
    HERE,
    PAYLOAD,
    STREAM,
    TENANT,
    faststream_broker,
    open_crew,
    percentile,
    quiet,
    raw_client,
)
from rig import Address, cores, median, place

RATE = 100.0
WARM = 30  # events that are not counted: connections, groups and caches come with them
ARRIVED_S = 5.0
CALM_S = 0.2  # before this process closes, on the server's core, the last one arrives

Ages = list[float]
Send = Callable[[dict], Awaitable[object]]


def age_ms(payload: dict) -> float:
    """Return the milliseconds since a payload was made."""
    return (time.perf_counter_ns() - payload["at"]) / 1e6


# --- the publisher's process --------------------------------------------------------


@contextlib.asynccontextmanager
async def sender(name: str, address: Address, tenants: int) -> AsyncIterator[Send]:
    """Connect a publisher; with several tenants, each event is of a random one."""
    if name == "ours":
        async with open_crew(address) as crew:
            names = [TENANT] if tenants == 1 else tenant_names(tenants)
            pick = random.Random(7).choice
            yield lambda payload: crew.tenant(pick(names)).events.publish(
                EVENT_TYPE, payload
            )
    else:
        async with faststream_broker(address) as broker:
            await broker.connect()
            yield lambda payload: broker.publish(payload, stream=STREAM)


def tenant_names(number: int) -> list[str]:
    """Return the names of that many tenants."""
    return [f"tenant-{each}" for each in range(number)]


async def send(
    name: str, address: Address, rate: float, seconds: float, tenants: int
) -> None:
    """Publish at an even pace, never early."""
    async with sender(name, address, tenants) as publish:
        began = time.perf_counter()
        for number in range(int(rate * seconds)):
            if (left := began + number / rate - time.perf_counter()) > 0:
                await asyncio.sleep(left)
            await publish(PAYLOAD | {"at": time.perf_counter_ns()})
        await asyncio.sleep(CALM_S)


async def run_sender(
    name: str, address: Address, *, rate: float, seconds: float, tenants: int = 1
) -> None:
    """Run the publisher in a process of its own; wait for its end."""
    words = [str(each) for each in (address.port, rate, seconds, tenants)]
    command = [sys.executable, str(HERE / "events_latency.py"), name, *words]
    process = await asyncio.create_subprocess_exec(*command)
    if await process.wait():
        raise SystemExit(f"the publisher of {name} failed")


# --- the consumer's process ---------------------------------------------------------


@contextlib.asynccontextmanager
async def ours(address: Address, ages: Ages) -> AsyncIterator[None]:
    async def handler(event: object) -> None:
        ages.append(age_ms(event.payload))

    async with consuming(address, handler):
        yield


@contextlib.asynccontextmanager
async def faststream(address: Address, ages: Ages) -> AsyncIterator[None]:
    """It blocks in XREADGROUP, so an event wakes it at once."""
    from faststream.redis import StreamSub

    broker = faststream_broker(address)
    where = StreamSub(STREAM, group=GROUP, consumer="c", last_id="0")

    @broker.subscriber(stream=where)
    async def handler(message: dict) -> None:
        ages.append(age_ms(message))

    async with broker:
        await broker.start()
        yield


async def ages_of(name: str, address: Address, seconds: float) -> Ages:
    """Run one consumer and one publisher; return the ages of what was handled."""
    async with raw_client(address) as raw:
        await raw.flushall()
    ages: Ages = []
    quiet()
    contender = ours if name == "ours" else faststream
    async with contender(address, ages):
        await run_sender(name, address, rate=RATE, seconds=seconds)
        wanted = int(RATE * seconds)
        await arrived(lambda: len(ages), wanted)
    return ages[WARM:]


async def arrived(count: Callable[[], int], wanted: int) -> None:
    """Wait until all that was published has been handled.

    Raises:
        SystemExit: It was not, or more than that.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ARRIVED_S):
            while count() < wanted:  # noqa: ASYNC110 - a list has no event
                await asyncio.sleep(0.01)
    if count() != wanted:
        raise SystemExit(f"{wanted:,} events published, {count():,} handled")


async def measure(address: Address, options: argparse.Namespace) -> list[Bar]:
    """Take turns; print the table; return the bar."""
    names = ["ours", "FastStream"] if options.peers else ["ours"]
    # Many short turns: a busy moment of the machine hits both.
    rounds, seconds = (3, 2.0) if options.quick else (9, 4.0)
    taken: dict[str, list[Ages]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else names[::-1]:
            taken[name].append(await ages_of(name, address, seconds))
    print(f"\n## Publish to handler at {RATE:g} events/s, milliseconds\n")
    print("| consumer | events | p50 | p99 | max |\n|---|--:|--:|--:|--:|")
    p99s = {}
    for name, runs in taken.items():
        p50 = median([percentile(ages, 0.5) for ages in runs])
        p99s[name] = median([percentile(ages, 0.99) for ages in runs])
        most, events = max(max(ages) for ages in runs), sum(map(len, runs))
        print(f"| {name} | {events:,} | {p50:.2f} | {p99s[name]:.2f} | {most:.2f} |")
    if "FastStream" not in p99s:
        return []
    return [
        Bar(
            name="publish to handler at 100 events/s, p99, ours / FastStream",
            measured=p99s["ours"] / p99s["FastStream"],
            limit=1.0,
            at_least=False,
        )
    ]


def main(name: str, port: str, rate: str, seconds: str, tenants: str) -> None:
    """Publish, as a process of its own."""
    quiet_log = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=quiet_log)
    place(cores()[1])
    address = Address(port=int(port))
    asyncio.run(send(name, address, float(rate), float(seconds), int(tenants)))


if __name__ == "__main__":
    main(*sys.argv[1:])
