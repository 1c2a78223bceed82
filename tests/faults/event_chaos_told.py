"""What the processes of an event run have written down; see event_chaos_worker.py."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Handling", "Log", "Name", "Publish", "Told"]

Name = tuple[str, str]
"""Of an event: tenant and id."""


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
    def is_shared(self) -> bool:
        """Whether every publisher publishes it."""
        return self.name[1].startswith("all.")

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
    key: str
    since: float
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
            parts = (line[part] for part in ("place", "count", "key", "since", "at"))
            one = Handling(name, process, *parts)
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

    def starts(self) -> dict[Name, float]:
        """Return when each event was published for the first time."""
        starts: dict[Name, float] = {}
        for one in self.publishes:
            starts[one.name] = min(one.start, starts.get(one.name, one.start))
        return starts

    def in_order(self) -> list[Handling]:
        """Return all that was handled, as it came."""
        found = [one for each in self.handlings.values() for one in each]
        return sorted(found, key=lambda one: one.at)

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
