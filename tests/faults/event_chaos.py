"""What the event runs share: processes that publish and handle, and how a run ends."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.faults.event_chaos_load import Load
from tests.faults.event_chaos_told import Log, Name, Told
from tests.faults.event_chaos_view import Entry, View
from tests.rig.servers import RealServer
from tests.rig.waiting import wait_until

__all__ = ["GRACE", "Outcome", "Processes", "nothing", "settle"]

WORKER = Path(__file__).with_name("event_chaos_worker.py")
PATIENCE = 60.0
"""Seconds for a process to begin or to end on a busy machine."""
GRACE = 2.0
"""Seconds beside `claim_after` within which what a dead process held is handled."""


class Processes:
    """Publishers and consumers, and their logs. Whatever is left is killed.

    Args:
        folder: For the logs.
        load: What they publish and how they handle it.

    Attributes:
        replaced: How many consumers ended by themselves and were replaced.
    """

    def __init__(self, folder: Path, load: Load) -> None:
        self.replaced = 0
        self._folder, self._load = folder, load
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._counts: Counter[str] = Counter()
        self._readers: dict[str, Log] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name in list(self._running):
            await self.kill(name)

    # --- life -------------------------------------------------------------------------

    async def start(self, role: str, socket: str) -> str:
        """Start a process and return its name; `ready` tells when it works."""
        self._counts[role] += 1
        name = f"{role[0]}{self._counts[role]}"
        config = {
            "role": role,
            "log": str(self._folder / f"{name}.log"),
            "load": asdict(self._load),
            "settings": {"circuit_breaker_timeout": 0.3, "unix_socket": socket},
        }
        self._readers[name] = Log(self._folder / f"{name}.log")
        with (self._folder / f"{name}.out").open("ab") as file:
            self._running[name] = await asyncio.create_subprocess_exec(
                *(sys.executable, str(WORKER), json.dumps(config)),
                stdin=asyncio.subprocess.PIPE,
                stdout=file,
                stderr=file,
            )
        return name

    async def start_all(
        self, socket: str, *, consumers: int, publishers: int
    ) -> tuple[list[str], list[str]]:
        """Start some of each, and return once all of them work."""
        names = (
            [await self.start("consumer", socket) for _ in range(consumers)],
            [await self.start("publisher", socket) for _ in range(publishers)],
        )
        for name in (*names[0], *names[1]):
            await self.ready(name)
        return names

    async def ready(self, name: str) -> None:
        """Return once a process works."""
        await self._told(name, lambda log: bool(log.lines), "is ready")

    def pid(self, name: str) -> int:
        """Return the id of a process that runs."""
        return self._running[name].pid

    def names(self, role: str) -> list[str]:
        """Return the names of those that run."""
        return [name for name in self._running if name[0] == role[0]]

    def has_ended(self, name: str) -> bool:
        """Whether a process has ended by itself."""
        return self._running[name].returncode is not None

    async def kill(self, name: str) -> int:
        """SIGKILL one of them; return what its process id was."""
        process = self._running.pop(name)
        with suppress(ProcessLookupError):
            process.kill()
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
        return process.pid

    async def end(self, *names: str) -> None:
        """Let processes end by themselves: publishers drain, consumers finish."""
        for name in names:
            stdin = self._running[name].stdin
            assert stdin is not None
            stdin.close()
        for name in names:
            async with asyncio.timeout(PATIENCE):
                code = await self._running[name].wait()
            self._running.pop(name)
            assert code == 0, self.output(name)

    async def statistics(self, name: str) -> dict[str, Any]:
        """Ask a consumer for its figures of this moment."""
        log = self._readers[name]
        log.read()
        before = len(log.statistics)
        stdin = self._running[name].stdin
        assert stdin is not None
        stdin.write(b"\n")
        await self._told(name, lambda log: len(log.statistics) > before, "has told")
        return log.statistics[-1]

    async def all_statistics(self) -> list[dict[str, Any]]:
        """Ask all consumers."""
        return [await self.statistics(name) for name in self.names("consumer")]

    async def replacing(
        self, socket: str, predicate: Callable[[], bool], what: str
    ) -> None:
        """Wait, and start another consumer for each that ends meanwhile."""

        async def is_so() -> bool:
            for name in self.names("consumer"):
                if self.has_ended(name):
                    await self.kill(name)
                    await self.start("consumer", socket)
                    self.replaced += 1
            return predicate()

        await wait_until(is_so, what, PATIENCE)
        for name in self.names("consumer"):
            await self.ready(name)

    async def _told(self, name: str, is_told: Any, what: str) -> None:
        log = self._readers[name]

        def look() -> bool:
            if self.has_ended(name):
                raise AssertionError(f"{name} has ended:\n{self.output(name)}")
            log.read()
            return bool(is_told(log))

        await wait_until(look, f"{name} {what}", PATIENCE)

    def output(self, name: str) -> str:
        """Return the end of what a process has printed."""
        return (self._folder / f"{name}.out").read_text()[-4_000:]

    def told(self) -> Told:
        """Return what all of them, dead or alive, have written down until now."""
        for log in self._readers.values():
            log.read()
        return Told(self._readers)


# --- the end of a run -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run has come to, when all its processes have ended.

    Attributes:
        told: What they have written down.
        entries: Where each event stands.
        dead: The dead letters, with their reasons.
        tally: The counts of all groups.
        took: Seconds from the end of publishing until all was handled.
    """

    told: Told
    entries: dict[Name, list[Entry]]
    dead: dict[Name, str]
    tally: Counter[str]
    took: float

    @property
    def lost(self) -> set[Name]:
        """What was promised and stands nowhere."""
        return self.told.promised() - self.entries.keys()

    @property
    def twice(self) -> list[Name]:
        """What stands more than once."""
        return [name for name, places in self.entries.items() if len(places) > 1]


def nothing(_: Told) -> AbstractSet[Name]:
    """Excuse no event from being handled."""
    return frozenset()


async def settle(
    processes: Processes,
    server: RealServer,
    within: float,
    excused: Callable[[Told], AbstractSet[Name]] = nothing,
) -> Outcome:
    """End the publishers, and the consumers when all is handled and nothing pending.

    Args:
        processes: What runs.
        server: Where they publish to.
        within: Seconds that it may take.
        excused: Says which events nobody need have handled.
    """
    clock = asyncio.get_running_loop().time
    await processes.end(*processes.names("publisher"))
    start, but = clock(), excused(processes.told())
    with View(server) as view:

        def is_done() -> bool:  # the cheaper look comes first
            return not view.pending() and processes.told().unhandled() <= but

        try:
            await wait_until(is_done, "all is handled", within)
        except AssertionError as error:
            left = sorted(processes.told().unhandled() - but)
            raise AssertionError(
                f"{error}: {len(left)} are not, as {left[:5]}; "
                f"{len(view.pending())} are pending, {view.unread()} unread"
            ) from None
        took = clock() - start
        await processes.end(*processes.names("consumer"))
        assert (view.unread(), view.pending()) == (0, {})
        shown = view.entries(), view.dead(), view.tally()
    return Outcome(processes.told(), *shown, took)
