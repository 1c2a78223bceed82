"""A thousand tenants on one consumer process: connections, idle CPU, delay.

python events_tenants.py PORT TENANTS         (the consumer; commands on stdin)
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import resource
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import structlog
from bars import Bar
from events_contenders import consuming
from events_latency import ARRIVED_S, age_ms, run_sender, tenant_names
from events_rig import EVENT_TYPE, HERE, PAYLOAD, open_crew, percentile, raw_client
from rig import Address, cores, place

TENANTS = 1_000
CONNECTIONS_BAR, CPU_BAR, P99_BAR = 4, 1.0, 10.0
RATE = 50.0
ANSWER_S = 60.0
SETTLE_S = 2.0  # between the last event and the idle seconds


# --- the consumer's process ---------------------------------------------------------


async def serve(address: Address, tenants: int) -> None:
    """Consume for everyone; obey `idle SECONDS`, `ages` and the end of stdin."""
    ages: list[float] = []
    known: set[str] = set()

    async def handler(event: object) -> None:
        known.add(event.tenant_id)
        if "at" in event.payload:
            ages.append(age_ms(event.payload))

    async with consuming(address, handler):
        say({"ready": True})
        async for words in commands():
            match words:
                case ["known"]:
                    await until_all(known, tenants)
                    say({"known": len(known)})
                case ["idle", seconds]:
                    say({"cpu_percent": await idle_cpu(float(seconds))})
                case ["ages"]:
                    say({"ages": ages})


async def until_all(known: set[str], tenants: int) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ANSWER_S / 2):
            while len(known) < tenants:  # noqa: ASYNC110 - a set has no event
                await asyncio.sleep(0.01)


async def idle_cpu(seconds: float) -> float:
    """Return the CPU time of this process, all threads, in percent of wall time."""

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    before = used()
    await asyncio.sleep(seconds)
    return (used() - before) / seconds * 100


async def commands() -> AsyncIterator[list[str]]:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        yield line.decode().split()


def say(what: dict) -> None:
    print(json.dumps(what), flush=True)


# --- the measuring process ----------------------------------------------------------


class Consumer:
    """The process above, seen from here."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, address: Address, tenants: int) -> AsyncIterator[Consumer]:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(HERE / "events_tenants.py"),
            str(address.port),
            str(tenants),
            stdin=pipe,
            stdout=pipe,
            limit=2**24,
        )
        consumer = cls(process)
        try:
            await consumer.answer()
            yield consumer
        finally:
            process.stdin.close()
            try:
                async with asyncio.timeout(ANSWER_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()

    async def ask(self, command: str) -> dict:
        """Give a command; return the answer."""
        self._process.stdin.write(f"{command}\n".encode())
        return await self.answer()

    async def answer(self) -> dict:
        async with asyncio.timeout(ANSWER_S):
            line = await self._process.stdout.readline()
        if not line:
            raise SystemExit("the consumer's process ended")
        return json.loads(line)

    def ports(self) -> set[int]:
        """Return the local ports of its TCP connections, from /proc."""
        folder = Path(f"/proc/{self._process.pid}")
        inodes = set()
        for file in (folder / "fd").iterdir():
            with contextlib.suppress(OSError):
                target = str(file.readlink())
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
        rows = [row.split() for row in (folder / "net/tcp").read_text().splitlines()]
        return {int(row[1].split(":")[1], 16) for row in rows if row[9] in inodes}


async def count_connections(raw: object, consumer: Consumer) -> int:
    """Return how many clients in CLIENT LIST are of the consumer's process."""
    ports = consumer.ports()
    clients = await raw.client_list()
    return sum(int(client["addr"].rpartition(":")[2]) in ports for client in clients)


async def greet(address: Address, tenants: int) -> None:
    """Publish one event of each tenant: their streams exist from then on."""
    async with open_crew(address) as crew, asyncio.TaskGroup() as group:
        for name in tenant_names(tenants):
            events = crew.tenant(name).events
            group.create_task(events.publish(EVENT_TYPE, PAYLOAD))


async def measure(address: Address, options: argparse.Namespace) -> list[Bar]:
    """Print what a thousand tenants cost; return the bars."""
    if sys.platform != "linux":
        print("\nThe section on tenants counts connections in /proc: left out here.")
        return []
    seconds = 5.0 if options.quick else 20.0
    async with raw_client(address) as raw:
        await raw.flushall()
        async with Consumer.running(address, TENANTS) as consumer:
            await greet(address, TENANTS)
            known = (await consumer.ask("known"))["known"]
            if known != TENANTS:
                raise SystemExit(f"{TENANTS:,} tenants published, {known:,} were heard")
            await asyncio.sleep(SETTLE_S)
            cpu = (await consumer.ask("idle 10"))["cpu_percent"]
            await run_sender(
                "ours", address, rate=RATE, seconds=seconds, tenants=TENANTS
            )
            connections = await count_connections(raw, consumer)
            ages = await ages_of(consumer, int(RATE * seconds))
    return report(connections, cpu, ages)


async def ages_of(consumer: Consumer, wanted: int) -> list[float]:
    """Ask for the ages until all have arrived."""
    ages: list[float] = []
    async with asyncio.timeout(ARRIVED_S):
        while len(ages) < wanted:
            ages = (await consumer.ask("ages"))["ages"]
            await asyncio.sleep(0.05)
    return ages


def report(connections: int, cpu: float, ages: list[float]) -> list[Bar]:
    print(f"\n## {TENANTS:,} tenants on one consumer process\n")
    p50, p99 = percentile(ages, 0.5), percentile(ages, 0.99)
    print(f"- connections: {connections}")
    print(f"- idle: {cpu:.2f} % of a core over 10 s")
    print(
        f"- publish to handler, a random tenant, {RATE:g} events/s: "
        f"p50 {p50:.2f} ms, p99 {p99:.2f} ms, max {max(ages):.2f} ms of {len(ages):,}"
    )
    rows = (
        ("connections", float(connections), float(CONNECTIONS_BAR), ""),
        ("idle CPU", cpu, CPU_BAR, "%"),
        ("publish to handler, p99", p99, P99_BAR, "ms"),
    )
    return [
        Bar(
            name=f"1,000 tenants, {name}",
            measured=measured,
            limit=limit,
            at_least=False,
            unit=unit,
        )
        for name, measured, limit, unit in rows
    ]


def main(port: str, tenants: str) -> None:
    """Consume, as a process of its own."""
    quiet_log = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=quiet_log)
    place(cores()[0])
    asyncio.run(serve(Address(port=int(port)), int(tenants)))


if __name__ == "__main__":
    main(*sys.argv[1:])
