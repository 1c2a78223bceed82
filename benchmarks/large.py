"""Small GETs beside large ones: does a 200 kB reply hold up its neighbours?"""

from __future__ import annotations

import gc
import time
from asyncio import TaskGroup

from bars import Bar
from peers import redis_arguments
from rig import Address, median

__all__ = ["measure"]

CALLERS = 50
SMALL = b"s" * 200
LARGE = b"l" * 200_000
LIMIT = 1.5


async def measure(our_class: type, address: Address, *, quick: bool) -> list[Bar]:
    """Compare the p99 of small GETs alone with that beside 200 kB GETs.

    The large key is read once before, without a hint: the client may learn from that
    first reply. Rounds with and without the large reader alternate. Of each kind the
    quieter half counts: a p99 of under a millisecond is also what another process of
    the machine costs by taking the core once, and that is not the client's doing.
    """
    rounds, calls = (5, 60) if quick else (9, 300)
    alone, beside, large_reads = [], [], 0
    async with our_class(**redis_arguments(address)) as client:
        await client.set("bench:small", SMALL, ex=100)
        await client.set("bench:large", LARGE, ex=100)
        if await client.get("bench:large") != LARGE:
            raise SystemExit("the large value was read wrong")
        await _round(client, calls, with_large=True)  # warm up, not counted
        for _ in range(rounds):
            alone.append((await _round(client, calls, with_large=False))[0])
            p99, reads = await _round(client, calls, with_large=True)
            beside.append(p99)
            large_reads += reads
    quiet_alone, quiet_beside = _of_quieter_half(alone), _of_quieter_half(beside)
    ratio = quiet_beside / quiet_alone
    print(
        f"\nsmall GETs of {CALLERS} callers, p99: alone {quiet_alone * 1e6:,.0f} us, "
        f"beside 200 kB GETs {quiet_beside * 1e6:,.0f} us "
        f"({large_reads} large replies in {rounds} rounds)"
    )
    name = "p99 of small GETs beside 200 kB GETs / alone"
    return [Bar(name=name, measured=ratio, limit=LIMIT, at_least=False)]


def _of_quieter_half(p99s: list[float]) -> float:
    """Return the median of the lower half of the rounds."""
    return median(sorted(p99s)[: (len(p99s) + 1) // 2])


async def _round(client: object, calls: int, *, with_large: bool) -> tuple[float, int]:
    """Return (p99 in seconds, number of large replies) of one round."""
    took: list[float] = []
    reading = with_large
    large_reads = 0

    async def small_reader() -> None:
        for _ in range(calls):
            begun = time.perf_counter()
            await client.get("bench:small")
            took.append(time.perf_counter() - begun)

    async def large_reader() -> None:
        nonlocal large_reads
        while reading:
            await client.get("bench:large")
            large_reads += 1

    gc.collect()
    async with TaskGroup() as group:
        if with_large:
            group.create_task(large_reader())
        async with TaskGroup() as small_group:
            for _ in range(CALLERS):
                small_group.create_task(small_reader())
        reading = False
    took.sort()
    return took[int(len(took) * 0.99)], large_reads
