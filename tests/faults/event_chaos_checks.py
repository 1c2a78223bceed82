"""What strikes the processes of an event run, and what their logs must not show."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

from tests.faults.event_chaos import Processes
from tests.faults.event_chaos_told import Handling, Name, Publish, Told
from tests.faults.event_chaos_view import Entry, View
from tests.faults.outage_power import PowerSupply
from tests.rig.servers import RealServer

__all__ = [
    "Kills",
    "Outages",
    "disorder",
    "logged",
    "mortal",
    "pauses",
    "published_until",
    "read",
    "untimely",
]

NOTICE = 0.3
"""Seconds in which a process may notice that its server is away."""
MOST = 30
"""Reads and lines of a consumer in a second of an outage; who spins has thousands."""

Entries = dict[Name, list[Entry]]


class Kills:
    """SIGKILLs consumers, and knows what each of them held.

    Attributes:
        held: By entry, the processes that died while it was pending under their name.
        count: Of all of them together.
    """

    def __init__(self, processes: Processes, server: RealServer) -> None:
        self._processes, self._server = processes, server
        self.held: dict[Entry, list[str]] = defaultdict(list)

    @property
    def count(self) -> int:
        """How many entries they held, together."""
        return sum(map(len, self.held.values()))

    async def kill(self, name: str) -> None:
        """Kill one, and note what is pending under its name."""
        pid = await self._processes.kill(name)
        with View(self._server) as view:
            view.pending(pid)  # what it had sent before its end is executed by now
            for entry in view.pending(pid):
                self.held[entry].append(name)

    def unexplained(
        self, told: Told, entries: Entries
    ) -> list[tuple[Name, list[Handling]]]:
        """Return what was handled again although it had been acknowledged.

        A process that died between the two may have handled what it held; nothing else
        explains a second time.
        """
        found = []
        for name, handlings in told.repeated().items():
            died = [process for entry in entries[name] for process in self.held[entry]]
            handlings.sort(key=lambda one: one.at)
            if not all(one.process in died for one in handlings[:-1]):
                found.append((name, handlings))
        return found


class Outages:
    """Takes a server away, and measures what a consumer does meanwhile, each second."""

    def __init__(self, server: RealServer, processes: Processes) -> None:
        self._server, self._processes = server, processes
        self._reads = self._lines = self._spent = 0.0

    def __str__(self) -> str:
        return (
            f"a consumer reads {self._reads:.1f} times, logs {self._lines:.1f} lines "
            f"and works {self._spent:.3f} s"
        )

    @property
    def are_calm(self) -> bool:
        """Whether nobody spins: two readers, whose pauses grow in the first second."""
        return max(self._reads, self._lines) < MOST and self._spent < 0.2

    async def outage(self, take_away: Callable[[], object], seconds: float) -> None:
        """Have one of that length, after the time for noticing it."""
        take_away()
        await asyncio.sleep(NOTICE)
        before = await self._processes.all_statistics()
        await asyncio.sleep(seconds)
        after = await self._processes.all_statistics()
        self._server.start()
        for old, new in zip(before, after, strict=True):
            passed = new["at"] - old["at"]
            reads = new["statistics"]["reads"] - old["statistics"]["reads"]
            self._reads = max(self._reads, reads / passed)
            self._lines = max(self._lines, (logged(new) - logged(old)) / passed)
            self._spent = max(self._spent, (new["spent"] - old["spent"]) / passed)


@asynccontextmanager
async def mortal(
    make_server: Callable[..., RealServer], fsync: str
) -> AsyncIterator[tuple[RealServer, Callable[[], object]]]:
    """Give a server and how to take it away: killed, or cut from power."""
    options = "--appendfsync", fsync, "--auto-aof-rewrite-percentage", "0"
    server = make_server("valkey", *options)
    if fsync == "always":
        yield server, server.kill
        return
    async with PowerSupply(server) as power:
        yield server, power.cut


def logged(told: dict[str, Any]) -> int:
    """Return how many lines a consumer has logged; those of connections are others'."""
    return sum(
        count for line, count in told["lines"].items() if line.startswith("consumer.")
    )


def read(told: dict[str, Any]) -> int:
    """Return how often a consumer has read."""
    return int(told["statistics"]["reads"])


def published_until(told: Told, moment: float) -> set[Name]:
    """Return what was promised and may have stood in Redis before that moment."""
    starts = told.starts()
    return {name for name in told.promised() if starts[name] <= moment}


def pauses(told: Told, moments: list[float]) -> list[float]:
    """Return the seconds from each moment until something newer was handled."""
    starts, found = told.starts(), []
    for moment in moments:
        at = min(
            handlings[0].at
            for name, handlings in told.handlings.items()
            if starts[name] > moment
        )
        found.append(at - moment)
    return found


def disorder(told: Told, entries: Entries) -> list[tuple[Publish, Publish]]:
    """Return pairs of one publisher's events that stand in the wrong order.

    Of two that went to the same stream one after the other, where one of them waited
    in the journal.
    """
    by_stream: dict[tuple[str, str], list[tuple[Publish, tuple[int, ...]]]]
    by_stream = defaultdict(list)
    for one in told.publishes:
        if one.is_promised and not one.is_plain and not one.is_shared:
            key, place = entries[one.name][0]
            number = tuple(map(int, place.split("-")))
            by_stream[one.process, key].append((one, number))
    pairs = [pair for calls in by_stream.values() for pair in _wrong(calls)]
    return [pair for pair in pairs if "deferred" in {one.outcome for one in pair}]


def untimely(told: Told, entries: Entries) -> list[tuple[Handling, Handling]]:
    """Return pairs of events of one key of which the later was begun too early.

    Before the one in front of it had been handled, wherever that was.
    """
    by_key: dict[tuple[str, str], list[tuple[tuple[int, ...], Handling]]]
    by_key = defaultdict(list)
    for name, handlings in told.handlings.items():
        stream, place = entries[name][0]
        first = min(handlings, key=lambda one: one.at)
        number = tuple(map(int, place.split("-")))
        by_key[stream, first.key].append((number, first))
    found = []
    for events in by_key.values():
        ordered = [one for _, one in sorted(events, key=lambda each: each[0])]
        found += [(a, b) for a, b in pairwise(ordered) if b.since < a.at]
    return found


def _wrong(
    calls: list[tuple[Publish, tuple[int, ...]]],
) -> list[tuple[Publish, Publish]]:
    """Return those that began when one was over that stands behind them."""
    found = []
    ended = iter(sorted(calls, key=lambda call: call[0].end))
    over, last = next(ended), None
    for call in sorted(calls, key=lambda call: call[0].start):
        while over[0].end < call[0].start:
            last = over if last is None else max(last, over, key=lambda one: one[1])
            over = next(ended)  # at the latest, this call itself
        if last is not None and last[1] > call[1]:
            found.append((last[0], call[0]))
    return found
