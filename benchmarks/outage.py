"""What an outage costs its callers, and how soon its end is noticed.

    python benchmarks/outage.py [--quick] [--hold 5] [--rounds 3] [--no-peer]

A client has been at work; then its server is stopped (SIGSTOP), killed (SIGKILL: the
address refuses) or cut off (a path that swallows everything and wakes later). One or a
hundred callers go on calling all the while, 20 ms after each error. Reported are

    longest wait    of any caller, in command timeouts
    p99 once open   of the calls made after the circuit had opened
    noticed after   seconds from the end of the fault until the circuit is closed, with
                    no caller left that could notice it by a call of its own

each the worst of the rounds. redis-py stands beside it with its defaults, one call per
caller, given up after `--patience` seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import redis.asyncio
import structlog

sys.path.insert(0, str(Path(__file__).resolve().parent))

from bars import Bar, print_bars
from outage_faults import FAULTS, Fault, fault
from peers import redis_arguments
from rig import Address, cores, describe_machine, find_server, place

from mcp_crew_redis._core.breaker import CircuitState
from mcp_crew_redis._core.client import PipelinedRedis
from mcp_crew_redis._core.wire_settings import WireSettings

TIMEOUT = WireSettings().command_timeout
BETWEEN_CALLS_S = 0.02
LONGER_S = 0.45
NOTICED_WITHIN_S = 30.0  # then it counts as never


# --- measuring ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One outage: seconds waited at most, p99 once open in ms, seconds to notice."""

    longest_s: float
    p99_ms: float
    noticed_s: float


async def ours(broken: Fault, callers: int, hold_s: float) -> Round:
    """Let `callers` call through one outage, then see the client recover alone."""
    client = PipelinedRedis(**redis_arguments(broken.address))
    waits: list[float] = []
    rejected: list[float] = []
    try:
        await client.set("outage", "x", ex=100)
        broken.begin()
        end = time.perf_counter() + hold_s

        async def caller() -> None:
            while (begun := time.perf_counter()) < end:
                is_open = client.circuit_state is not CircuitState.CLOSED
                with contextlib.suppress(redis.RedisError):
                    await client.get("outage")
                waited = time.perf_counter() - begun
                (rejected if is_open else waits).append(waited)
                await asyncio.sleep(BETWEEN_CALLS_S)

        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(caller())
        broken.end()
        noticed_s = await seconds_until_closed(client)
    finally:
        await client.aclose()
    rejected.sort()
    p99 = rejected[int(len(rejected) * 0.99)] if rejected else float("inf")
    longest = max([*waits, *rejected])
    return Round(longest_s=longest, p99_ms=p99 * 1e3, noticed_s=noticed_s)


async def seconds_until_closed(client: PipelinedRedis) -> float:
    """Watch the circuit without a call."""
    begun = time.perf_counter()
    while (waited := time.perf_counter() - begun) < NOTICED_WITHIN_S:
        if client.circuit_state is CircuitState.CLOSED:
            return waited
        await asyncio.sleep(0.001)
    return float("inf")


async def theirs(broken: Fault, callers: int, patience_s: float) -> float:
    """Return the longest wait of one redis-py call per caller; inf when given up."""
    client = redis.asyncio.Redis(
        **redis_arguments(broken.address), max_connections=callers + 10
    )
    waits: list[float] = []

    async def caller() -> None:
        begun = time.perf_counter()
        try:
            async with asyncio.timeout(patience_s) as limit:
                with contextlib.suppress(redis.RedisError):
                    await client.get("outage")
        except TimeoutError:
            pass
        waited = time.perf_counter() - begun
        waits.append(float("inf") if limit.expired() else waited)

    try:
        await client.set("outage", "x", ex=100)
        broken.begin()
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(caller())
        broken.end()
    finally:
        await client.aclose()
    return max(waits)


# --- the table ----------------------------------------------------------------------


async def measure(options: argparse.Namespace, binary: Path) -> list[Bar]:
    """Go through every kind of outage; print the table and return the bars."""
    print("| outage | over | callers | longest wait | p99 once open | noticed after |")
    print("|---|---|---|---|---|---|")
    worst = Round(longest_s=0.0, p99_ms=0.0, noticed_s=0.0)
    for kind in FAULTS:
        for transport in ("tcp",) if kind == "cut off" else ("unix", "tcp"):
            for callers in (1, 100):
                rounds = [
                    await one_round(kind, transport, callers, number, options, binary)
                    for number in range(options.rounds)
                ]
                cell = worst_of(rounds)
                show(kind, transport, callers, cell)
                worst = worst_of([worst, cell])
                if not options.no_peer:
                    await show_peer(kind, transport, callers, options, binary)
    return bars_of(worst)


async def one_round(
    kind: str,
    transport: str,
    callers: int,
    number: int,
    options: argparse.Namespace,
    binary: Path,
) -> Round:
    """Measure one outage on a server of its own.

    Each round lasts a little longer than the one before, so that it does not end at
    the same moment between two probes.
    """
    hold_s = options.hold + number * LONGER_S
    async with fault(kind, binary, is_tcp=transport == "tcp") as broken:
        return await ours(broken, callers, hold_s)


def worst_of(rounds: list[Round]) -> Round:
    """Return the worst of each figure."""
    return Round(
        longest_s=max(one.longest_s for one in rounds),
        p99_ms=max(one.p99_ms for one in rounds),
        noticed_s=max(one.noticed_s for one in rounds),
    )


def show(kind: str, transport: str, callers: int, cell: Round) -> None:
    """Print one row of ours."""
    print(
        f"| {kind} | {transport} | {callers} | {cell.longest_s / TIMEOUT:.3f} timeouts "
        f"| {cell.p99_ms:.3f} ms | {cell.noticed_s:.2f} s |",
        flush=True,
    )


async def show_peer(
    kind: str, transport: str, callers: int, options: argparse.Namespace, binary: Path
) -> None:
    """Measure and print redis-py's row."""
    async with fault(kind, binary, is_tcp=transport == "tcp") as broken:
        longest = await theirs(broken, callers, options.patience)
    word = f"{longest:.2f} s"
    if longest == float("inf"):
        word = f"over {options.patience:g} s"
    print(
        f"| {kind}, redis-py | {transport} | {callers} | {word} | - | - |", flush=True
    )


def bars_of(worst: Round) -> list[Bar]:
    """Hold the worst of everything against the limits."""
    return [
        Bar(
            name="longest wait of any caller, in command timeouts",
            measured=worst.longest_s / TIMEOUT,
            limit=1.5,
            at_least=False,
        ),
        Bar(
            name="p99 of the calls once the circuit is open",
            measured=worst.p99_ms,
            limit=1.0,
            at_least=False,
            unit="ms",
        ),
        Bar(
            name="recovery noticed without user traffic",
            measured=worst.noticed_s,
            limit=3.0,
            at_least=False,
            unit="s",
        ),
    ]


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round of each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hold", type=float, default=5.0, help="seconds of outage")
    parser.add_argument("--patience", type=float, default=10.0, help="for redis-py")
    parser.add_argument("--no-peer", action="store_true", help="ours alone")
    parser.add_argument("--server", help="path of a server binary")
    options = parser.parse_args()
    if options.quick:
        options.rounds = 1
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR)
    )
    binary = find_server(options.server)
    for line in describe_machine(binary, Address(path="both")):
        print(line)
    print(f"command timeout {TIMEOUT:g} s, outages of {options.hold:g} s\n")
    place(cores()[0])
    print_bars(asyncio.run(measure(options, binary)))


if __name__ == "__main__":
    main()
