"""How soon a change is rung in another process, and what ringing costs.

    python benchmarks/bell.py [--seconds 3] [--rate 500] [--transport tcp]

A second process writes keys that carry the moment of their writing, by the machine's
monotonic clock, which both processes share. The delay runs from just before the SET is
sent to the call of the listener, so it holds the writer's send, the server, the push
and the dispatch. Bar: p99 within 5 ms, with 1,000 tenants on one bell.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import anyio
import redis

sys.path.insert(0, str(Path(__file__).resolve().parent))

from rig import Address, cores, describe_machine, find_server, place, running_server

from mcp_crew_redis._core.bell import Bell, BellListener
from mcp_crew_redis._core.bell_table import BellTable
from mcp_crew_redis._core.client import PipelinedRedis

NAMESPACE = "mcp-crew:knowledge:"
TENANTS = 1000
BAR_MS = 5.0


class Stopwatch(BellListener):
    """Notes the age of each change it is told."""

    def __init__(self, ages_ms: list[float]) -> None:
        self.ages_ms = ages_ms
        self.healthy = asyncio.Event()

    def on_healthy(self) -> None:
        self.healthy.set()

    def on_keys(self, keys: Sequence[bytes]) -> None:
        now = time.perf_counter_ns()
        self.ages_ms += [(now - int(key.rpartition(b":")[2])) / 1e6 for key in keys]


def connection(address: Address) -> dict[str, object]:
    if address.path:
        return {"unix_socket_path": address.path}
    return {"host": "127.0.0.1", "port": address.port}


# --- the writer's process -----------------------------------------------------------


def write(where: str, tenants: int, rate: float, seconds: float) -> None:
    """SET keys at an even pace, round all tenants."""
    address = Address(path=where) if "/" in where else Address(port=int(where))
    place(cores()[1])
    client = redis.Redis(**connection(address))
    client.ping()
    began = time.perf_counter()
    for number in range(int(rate * seconds)):
        while (left := began + number / rate - time.perf_counter()) > 0:
            time.sleep(left)
        tenant = f"{{t{number % tenants}}}"
        key = f"{NAMESPACE}{tenant}:{number}:{time.perf_counter_ns()}"
        client.set(key, b"x" * 200, px=60_000)


# --- the listener's process ---------------------------------------------------------


@contextlib.asynccontextmanager
async def ringing(
    address: Address, tenants: int, ages: list[float]
) -> AsyncIterator[PipelinedRedis]:
    client = PipelinedRedis(**connection(address))
    bell = Bell(client)
    watches = [Stopwatch(ages) for _ in range(tenants)]
    for number, watch in enumerate(watches):
        prefix = NAMESPACE if tenants == 1 else f"{NAMESPACE}{{t{number}}}:"
        bell.listen(prefix.encode(), watch)
    async with anyio.create_task_group() as group:
        await group.start(lambda *, task_status: bell.run(task_status=task_status))
        await watches[-1].healthy.wait()
        yield client
        bell.drain()
    await client.aclose()


async def call(client: PipelinedRedis) -> None:
    """Keep the loop and the lane busy, as an application does."""
    while True:
        await client.get("mcp-crew:state:{t1}:busy")


async def latency(
    address: Address, *, tenants: int, callers: int, rate: float, seconds: float
) -> list[float]:
    ages: list[float] = []
    where = address.path or str(address.port)
    numbers = [str(each) for each in (tenants, rate, seconds)]
    async with ringing(address, tenants, ages) as client:
        async with anyio.create_task_group() as group:
            for _ in range(callers):
                group.start_soon(call, client)
            command = [sys.executable, __file__, "--writer", where, *numbers]
            process = await asyncio.create_subprocess_exec(*command)
            if await process.wait():
                raise SystemExit("the writer failed")
            group.cancel_scope.cancel()
        wanted = int(rate * seconds)
        with anyio.move_on_after(2):
            while len(ages) < wanted:  # noqa: ASYNC110 - a list has no event
                await asyncio.sleep(0.01)
        if len(ages) != wanted:
            raise SystemExit(f"{wanted:,} changes made, {len(ages):,} rung")
    return sorted(ages)


class _Owner:
    def left(self, registration: object) -> None: ...
    def pace_changed(self) -> None: ...
    def hasten(self, registration: object) -> None: ...


def dispatch_us() -> float:
    """Return the microseconds per key to find and call one of 1,000 tenants."""
    from mcp_crew_redis._core.bell_listening import Registration

    table = BellTable()
    for number in range(TENANTS):
        prefix = f"{NAMESPACE}{{t{number}}}:".encode()
        registration = Registration(prefix, BellListener(), _Owner())
        registration.tell_healthy()
        table.add(registration)
    keys = [f"{NAMESPACE}{{t{number}}}:k".encode() for number in range(TENANTS)]
    best = float("inf")
    for _ in range(30):
        began = time.perf_counter()
        table.tell_keys(keys)
        best = min(best, time.perf_counter() - began)
    return best / len(keys) * 1e6


def percentile(ages: list[float], share: float) -> float:
    return ages[min(len(ages) - 1, int(len(ages) * share))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rate", type=float, default=500.0, help="writes per second")
    parser.add_argument("--server")
    parser.add_argument("--transport", choices=("unix", "tcp"), default="unix")
    options = parser.parse_args()
    binary = find_server(options.server)
    with running_server(binary, options.transport) as address:
        print("\n".join(describe_machine(binary, address)))
        place(cores()[0])
        print(f"\n{options.rate:,.0f} writes/s by another process, milliseconds")
        print(f"{'':34}{'changes':>9}{'p50':>8}{'p99':>8}{'max':>8}   bar {BAR_MS:g}")
        for tenants, callers in ((1, 0), (TENANTS, 0), (TENANTS, 10), (TENANTS, 100)):
            ages = asyncio.run(
                latency(
                    address,
                    tenants=tenants,
                    callers=callers,
                    rate=options.rate,
                    seconds=options.seconds,
                )
            )
            name = f"{tenants:,} listeners, {callers} busy callers"
            p50, p99 = percentile(ages, 0.5), percentile(ages, 0.99)
            verdict = "holds" if p99 <= BAR_MS else "MISSED"
            figures = f"{p50:8.3f}{p99:8.3f}{ages[-1]:8.3f}"
            print(f"{name:34}{len(ages):9,}{figures}   {verdict}")
        print(f"\ndispatch to one of {TENANTS:,} tenants: {dispatch_us():.2f} us a key")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--writer"]:
        write(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5]))
    else:
        main()
