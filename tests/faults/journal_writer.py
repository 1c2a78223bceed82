"""A process that fills a journal until it is killed; see test_journal_disk.py.

Prints the name of each entry when `put` and `committed` have returned.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from mcp_crew_redis.clock import SystemClock
from mcp_crew_redis.store.journal.entries import Entry
from mcp_crew_redis.store.journal.files import JournalFiles
from tests.unit.journal.parts import TARGET, posting

CALLERS = 4


def journal(root: str, fsync: str, live: list[Entry]) -> JournalFiles:
    return JournalFiles(
        Path(root),
        target=TARGET,
        fsync=fsync,
        live=lambda: live,
        clock=SystemClock(),
        segment_bytes=20_000,
    )


async def fill(files: JournalFiles) -> None:
    """Put from several callers, for ever; drop nine of ten again."""

    async def caller(number: int) -> None:
        for count in range(1_000_000):
            entry = posting(f"{number}-{count}", os.urandom(80))
            files.put(entry)
            await files.committed()
            if count % 10:
                files.drop(entry)
            else:
                os.write(1, f"{entry.id}\n".encode())
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        for number in range(CALLERS):
            tasks.create_task(caller(number))


def overflow(files: JournalFiles, live: list[Entry]) -> None:
    """Put until the limit on a file's size is reached, and print what health says."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    while files.is_durable:
        live.append(posting(str(len(live)), b"x" * 100))
        files.put(live[-1])
    os.write(1, f"{len(live)}\n{files.reason}\n".encode())


def adopt(files: JournalFiles) -> None:
    """Adopt when the other adopters do, and print what was offered."""
    os.write(1, b"ready\n")
    sys.stdin.readline()
    names: list[str] = []
    files.adopt(lambda entry: names.append(entry.id) or True)
    os.write(1, ("\n".join([*names, "done"]) + "\n").encode())
    sys.stdin.readline()  # alive until all are done, or its journal would be adopted


def main(what: str, root: str, fsync: str) -> None:
    live: list[Entry] = []
    files = journal(root, fsync, live)
    files.open()
    if what == "fill":
        asyncio.run(fill(files))
    elif what == "overflow":
        overflow(files, live)
    else:
        adopt(files)


if __name__ == "__main__":
    main(*sys.argv[1:])
