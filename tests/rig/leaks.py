"""The leak guard: what a test started is gone when it ends."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from tests.rig.servers import OWNED_PIDS

__all__ = ["Footprint", "find_leaks"]


@dataclass(frozen=True, slots=True)
class Footprint:
    """What this process holds at one moment."""

    tasks: frozenset[asyncio.Task[object]]
    children: frozenset[int]
    descriptors: frozenset[tuple[int, str]]
    threads: frozenset[threading.Thread]

    @classmethod
    def take(cls) -> Footprint:
        """Look at the running loop and at this process; needs a running loop."""
        return cls(
            tasks=frozenset(asyncio.all_tasks() - {asyncio.current_task()}),
            children=_children() - OWNED_PIDS,
            descriptors=_descriptors(),
            threads=frozenset(threading.enumerate()),
        )

    def leaked_since(self, before: Footprint) -> list[str]:
        """Describe everything that is here now and was not before."""
        return [
            *(f"task {task!r}" for task in self.tasks - before.tasks),
            *(f"child {_describe(pid)}" for pid in self.children - before.children),
            *(
                f"file descriptor {number} -> {target}"
                for number, target in sorted(self.descriptors - before.descriptors)
            ),
            *(f"thread {thread!r}" for thread in self.threads - before.threads),
        ]


async def find_leaks(before: Footprint, patience: float = 0.5) -> list[str]:
    """Return what leaked since `before`, after `patience` seconds to settle.

    A transport closes its socket one loop turn after close() and a killed child
    takes a moment to be reaped: neither is a leak.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience
    while leaks := Footprint.take().leaked_since(before):
        if loop.time() >= deadline:
            return leaks
        await asyncio.sleep(0.005)
        if loop.time() >= deadline - patience / 2:
            gc.collect()  # a forgotten socket now warns, and warnings are errors
    return []


def _children() -> frozenset[int]:
    pids: set[int] = set()
    for listing in Path("/proc/self/task").glob("*/children"):
        pids.update(int(word) for word in listing.read_text().split())
    return frozenset(pids)


def _descriptors() -> frozenset[tuple[int, str]]:
    found: set[tuple[int, str]] = set()
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        return frozenset()
    for number in os.listdir(folder):  # noqa: PTH208 - Path.iterdir opens one more
        try:
            target = os.readlink(folder / number)  # noqa: PTH115 - not a real path
        except OSError:
            continue  # the descriptor of this very listing
        if not target.startswith("/proc/"):
            found.add((int(number), target))
    return frozenset(found)


def _describe(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return str(pid)
    return f"{pid} ({command.replace(bytes(1), b' ').decode(errors='replace')})"
