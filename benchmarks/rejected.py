"""What a call costs while the circuit is open, and whether memory stays flat."""

from __future__ import annotations

import asyncio
import gc
import os
import tempfile
import time
import tracemalloc
from pathlib import Path

from bars import Bar
from redis.exceptions import RedisError

from mcp_crew_redis.errors import CircuitOpenError, UnavailableError

__all__ = ["measure"]

CALLS, QUICK_CALLS = 1_000_000, 200_000
TRACED_CALLS = 20_000
CALLS_PER_TICK = 1_000  # then the loop gets its turn, so that the probes run too
OPEN_WITHIN_S = 10.0
LIMIT_US = 5.0
LIMIT_GROWTH_KIB = 512.0


async def measure(our_class: type, *, quick: bool) -> list[Bar]:
    """Call a client whose server is away: time and memory per refused call."""
    calls = QUICK_CALLS if quick else CALLS
    with tempfile.TemporaryDirectory() as folder:
        client = our_class(unix_socket_path=f"{folder}/nobody.sock", protocol=3)
        try:
            if not await _open_circuit(client):
                print("\nrejected calls: no circuit opened, not measured")
                return []
            await _refused(client, TRACED_CALLS)  # warm up
            gc.collect()
            resident = _resident_kib()
            begun = time.process_time()  # nothing is waited for: CPU is the cost
            await _refused(client, calls)
            each_us = (time.process_time() - begun) / calls * 1e6
            gc.collect()
            grown = _resident_kib() - resident
            traced = await _traced_growth_kib(client)
        finally:
            await client.aclose()
    print(
        f"\n{calls:,} calls on an open circuit: {each_us:.2f} us CPU each; "
        f"resident memory {grown:+.0f} KiB, traced allocations {traced:+.1f} KiB"
    )
    return [
        Bar(
            name="a call on an open circuit",
            measured=each_us,
            limit=LIMIT_US,
            at_least=False,
            unit="us CPU",
        ),
        Bar(
            name=f"memory grown by {calls:,} refused calls",
            measured=max(grown, traced),
            limit=LIMIT_GROWTH_KIB,
            at_least=False,
            unit="KiB",
        ),
    ]


async def _open_circuit(client: object) -> bool:
    deadline = time.perf_counter() + OPEN_WITHIN_S
    while time.perf_counter() < deadline:
        try:
            await client.get("bench:nobody")
        except CircuitOpenError:
            return True
        except (UnavailableError, RedisError, OSError):
            await asyncio.sleep(0.01)
    return False


async def _refused(client: object, calls: int) -> None:
    """Make `calls` calls; each must be refused by the circuit."""
    for _ in range(calls // CALLS_PER_TICK):
        for _ in range(CALLS_PER_TICK):
            try:
                await client.get("bench:nobody")
            except CircuitOpenError:
                continue
            raise SystemExit("a call on an open circuit was not refused")
        await asyncio.sleep(0)


async def _traced_growth_kib(client: object) -> float:
    """Return what is still allocated after refused calls, in KiB."""
    tracemalloc.start()
    try:
        await _refused(client, CALLS_PER_TICK)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        await _refused(client, TRACED_CALLS)
        gc.collect()
        return (tracemalloc.get_traced_memory()[0] - before) / 1024
    finally:
        tracemalloc.stop()


def _resident_kib() -> float:
    """Return the resident memory of this process; 0 where /proc is missing."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024
