"""What the event runs share: their processes, what those tell, and what Redis shows."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from mcp_crew_redis._wire.envelope import unpack_envelope
from mcp_crew_redis._wire.uuid7 import id_text
from tests.faults.event_chaos_worker import GROUP, Load
from tests.rig.servers import RealServer
from tests.rig.waiting import wait_until

__all__ = ["Entry", "Processes", "Publish", "Told", "View", "handled_all"]

WORKER = Path(__file__).with_name("event_chaos_worker.py")
PATIENCE = 60.0
"""Seconds for a process to begin or to end on a busy machine."""

Name = tuple[str, str]
"""Of an event: tenant and id."""
Entry = tuple[str, str]
"""Of an entry: the key of its stream, and its place there."""


class Processes:
    """Publishers and consumers, and their logs. Whatever is left is killed.

    Args:
        folder: For the logs.
        load: What they publish and how they handle it.
    """

    def __init__(self, folder: Path, load: Load) -> None:
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

    async def start_all(self, role: str, socket: str, count: int) -> list[str]:
        """Start some, and return once all of them work."""
        names = [await self.start(role, socket) for _ in range(count)]
        for name in names:
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


# --- what they tell -------------------------------------------------------------------


class Log:
    """One process's file, read on as it grows."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0
        self.lines: list[dict[str, Any]] = []
        self.statistics: list[dict[str, Any]] = []

    def read(self) -> None:
        """Read what is new; a line that is not whole yet is left for later."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        for text in whole.splitlines():
            line = json.loads(text)
            (self.statistics if "statistics" in line else self.lines).append(line)


@dataclass(slots=True)
class Publish:
    """One call of a publisher.

    Attributes:
        name: The event's.
        process: Which publisher.
        is_plain: It was not idempotent.
        start: When it began, on the clock that all processes of a machine share.
        end: When it returned or raised; infinity if it did neither.
        outcome: stored, deferred, unknown (it may have happened), or unsent.
    """

    name: Name
    process: str
    is_plain: bool
    start: float
    end: float = float("inf")
    outcome: str = "unknown"

    @property
    def is_promised(self) -> bool:
        """Whether whoever called may rely on it."""
        return self.outcome in ("stored", "deferred")


@dataclass(slots=True)
class Handling:
    """One call of a handler that returned."""

    name: Name
    process: str
    place: str
    count: int
    at: float


@dataclass(slots=True)
class Told:
    """What the processes have written down.

    Attributes:
        publishes: Calls, in the order of their logs.
        handlings: What was handled, by event.
        crossed: Events that came to somebody they were not for.
        failures: Events for which a handler raised or its process died, and how often.
    """

    logs: dict[str, Log]
    publishes: list[Publish] = field(init=False, default_factory=list)
    handlings: dict[Name, list[Handling]] = field(init=False)
    crossed: list[dict[str, Any]] = field(init=False, default_factory=list)
    failures: Counter[Name] = field(init=False, default_factory=Counter)

    def __post_init__(self) -> None:
        self.handlings = defaultdict(list)
        for process, log in self.logs.items():
            calls: dict[int, Publish] = {}
            for line in log.lines:
                self._take(process, calls, line)
            self.publishes += calls.values()

    def _take(
        self, process: str, calls: dict[int, Publish], line: dict[str, Any]
    ) -> None:
        if "handled" in line:
            name = line["tenant"], line["handled"]
            one = Handling(name, process, line["place"], line["count"], line["at"])
            self.handlings[name].append(one)
        elif "outcome" in line:
            call = calls[line["n"]]
            call.end, call.outcome = line["end"], line["outcome"]
        elif "start" in line:
            name = line["tenant"], line["id"]
            calls[line["n"]] = Publish(name, process, line["plain"], line["start"])
        elif "crossed" in line:
            self.crossed.append(line)
        elif "raised" in line or "died" in line:
            self.failures[line["tenant"], line.get("raised") or line["died"]] += 1

    def promised(self) -> set[Name]:
        """Return the events that some publisher may rely on."""
        return {one.name for one in self.publishes if one.is_promised}

    def outcomes(self) -> Counter[str]:
        """Return how often which outcome was told."""
        return Counter(one.outcome for one in self.publishes)

    def unhandled(self) -> set[Name]:
        """Return what was promised and never handled."""
        return self.promised() - self.handlings.keys()

    def repeated(self) -> dict[Name, list[Handling]]:
        """Return what was handled more than once."""
        return {
            name: handlings
            for name, handlings in self.handlings.items()
            if len(handlings) > 1
        }


# --- what Redis shows -----------------------------------------------------------------


class View:
    """Looks at streams and groups as they stand on a server.

    Args:
        server: Which.
    """

    def __init__(self, server: RealServer) -> None:
        self._client = redis.Redis(unix_socket_path=server.unix_socket, retry=None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def streams(self) -> list[bytes]:
        """Return the keys of all streams of events."""
        keys = self._client.keys("*:events:{*}:*:*")
        return sorted(keys)

    def pending(self, pid: int | None = None) -> dict[Entry, int]:
        """Return pending entries with their deliveries; of one process, or of all."""
        for _ in range(2):  # whatever a process that died had sent is done then
            self._client.ping()
        found: dict[Entry, int] = {}
        for key in self.streams():
            try:
                told = self._client.xpending_range(key, GROUP, "-", "+", 1_000_000)
            except redis.ResponseError:
                continue  # no group yet
            for one in told:
                if pid is None or f"-{pid}-".encode() in one["consumer"]:
                    entry = key.decode(), one["message_id"].decode()
                    found[entry] = one["times_delivered"]
        return found

    def unread(self) -> int:
        """Return how many entries the group has not been given yet."""
        count = 0
        for key in self.streams():
            groups = {one["name"]: one for one in self._client.xinfo_groups(key)}
            last = groups.get(GROUP.encode(), {"last-delivered-id": b"-"})
            start = last["last-delivered-id"]
            after = start if start == b"-" else b"(" + start
            count += len(self._client.xrange(key, after, "+"))
        return count

    def entries(self) -> dict[Name, list[Entry]]:
        """Return where each event stands."""
        found: dict[Name, list[Entry]] = defaultdict(list)
        for key in self.streams():
            tenant = key.decode().partition("{")[2].partition("}")[0]
            for place, fields in self._client.xrange(key):
                name = id_text(unpack_envelope(fields[b"m"]).id)
                found[tenant, name].append((key.decode(), place.decode()))
        return found

    def dead(self) -> dict[Name, str]:
        """Return the dead letters, with the reason of each."""
        found: dict[Name, str] = {}
        for key in self._client.keys("*:event:{*}:dead:*"):
            tenant = key.decode().partition("{")[2].partition("}")[0]
            for _, fields in self._client.xrange(key):
                name = id_text(unpack_envelope(fields[b"m"]).id)
                found[tenant, name] = fields[b"_r"].decode()
        return found

    def tally(self) -> Counter[str]:
        """Return the counts of all groups together."""
        total: Counter[str] = Counter()
        for key in self._client.keys("*:event:{*}:tally:*"):
            told = self._client.hgetall(key)
            total.update({name.decode(): int(value) for name, value in told.items()})
        return total


async def handled_all(
    processes: Processes, view: View, timeout: float, but: frozenset[Name] = frozenset()
) -> None:
    """Return once all that was promised is handled and nothing is pending.

    Args:
        processes: The publishers among them have ended.
        view: Of their server.
        timeout: Seconds until it must be so.
        but: Events that nobody can handle.
    """

    def left() -> tuple[int, int]:
        if pending := len(view.pending()):  # the cheaper look
            return -1, pending
        return len(processes.told().unhandled() - but), 0

    try:
        await wait_until(lambda: left() == (0, 0), "all is handled", timeout)
    except AssertionError as error:
        unhandled = processes.told().unhandled() - but
        raise AssertionError(
            f"{error}: {len(unhandled)} are not, as {sorted(unhandled)[:5]}; "
            f"{len(view.pending())} are pending, {view.unread()} unread"
        ) from None
