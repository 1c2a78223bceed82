"""The history checker: from what the processes wrote down, what must stand at the end.

Knows nothing of how the crew works, but for one rule: of two writes of a key, the one
with the higher stamp is the newer. That stamps follow time is checked too.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from tests.faults.outage_log import ACCEPTED, Call, Report

__all__ = ["CLOCKS", "Final", "History", "Key", "Write", "kinds"]

CLOCKS = 0.05
"""Seconds by which two processes may misjudge the server's clock on a busy machine."""

Key = tuple[str, str]
"""Tenant and name."""


@dataclass(frozen=True, slots=True)
class Final:
    """What stands in the end: its stamp, and its value; None for a tombstone."""

    stamp: int
    mark: str | None


@dataclass(frozen=True, slots=True)
class Write:
    """One write of one key, as its process knows it; `stamp` 0 for not at all."""

    call: Call
    stamp: int
    is_wall: bool

    @property
    def is_accepted(self) -> bool:
        """Whether its caller was told that it is done."""
        return self.call.outcome in ACCEPTED

    def __str__(self) -> str:
        call = self.call
        span = f"{call.start:.3f}..{call.end or 0:.3f}"
        return f"{call.op} {call.mark} {call.outcome} at {self.stamp} ({span})"

    @property
    def slack_us(self) -> int:
        """How far the stamp may be moved when the server's clock is known."""
        return round(CLOCKS * 1e6) if self.is_wall else 0

    def may_be(self, final: Final) -> bool:
        """Whether this is what stands."""
        if self.call.mark != final.mark:
            return False
        # Of a call that did not return the stamp is not known, or not the last one.
        return not self.is_accepted or self.may_have(final.stamp)

    def may_have(self, stamp: int) -> bool:
        """Whether this is its stamp."""
        return abs(self.stamp - stamp) <= self.slack_us


def kinds(problems: Iterable[str]) -> Counter[str]:
    """Count problems by their first word."""
    return Counter(problem.partition(":")[0] for problem in problems)


class History:
    """All calls of all processes, by key.

    Args:
        reports: What each process has written down.
    """

    def __init__(self, reports: Iterable[Report]) -> None:
        self.reports = list(reports)
        self.writes: dict[Key, list[Write]] = defaultdict(list)
        self._reads: dict[tuple[str, Key], list[Call]] = defaultdict(list)
        self._readers: dict[Key, set[str]] = defaultdict(set)
        self._added: dict[Key, int] = defaultdict(int)
        self._doubtful: dict[Key, list[int]] = defaultdict(list)
        for report in self.reports:
            for call in report.calls:
                self._take(call)

    def _take(self, call: Call) -> None:
        for name in call.names:
            key = call.tenant, name
            if call.op == "read":
                if call.outcome == "read":
                    self._reads[call.process, key].append(call)
                    self._readers[key].add(call.process)
            elif call.op != "add":
                stamp, is_wall = call.stamps.get(name, (0, False))
                self.writes[key].append(Write(call, stamp, is_wall))
            elif call.outcome in ACCEPTED:
                self._added[key] += call.amount
            elif call.outcome == "unknown":
                self._doubtful[key].append(call.amount)

    @property
    def counters(self) -> list[Key]:
        """Every counter that somebody has added to."""
        return sorted({*self._added, *self._doubtful})

    def count(self, *outcomes: str) -> int:
        """Return how many writes of keys ended so."""
        writes = [write for some in self.writes.values() for write in some]
        return sum(write.call.outcome in outcomes for write in writes)

    # --- what stands ------------------------------------------------------------------

    def problems(
        self, finals: Mapping[Key, Final | None], totals: Mapping[Key, int]
    ) -> list[str]:
        """Return all that cannot be, each beginning with its kind.

        Args:
            finals: What stands under each key in the end.
            totals: The value of each counter.
        """
        found = [self._explain(key, finals.get(key)) for key in self.writes]
        found += [self._add_up(key, totals.get(key, 0)) for key in self.counters]
        for key in self.writes:
            found += [*self._orders(key), *self._stale_reads(key)]
        found += self._bad_conflicts()
        return [each for each in found if each]

    def _explain(self, key: Key, final: Final | None) -> str:
        writes = self.writes[key]
        accepted = [write for write in writes if write.is_accepted]
        newest = max(accepted, key=lambda write: write.stamp, default=None)
        if final is None:
            return f"lost: {key} is missing after {newest}" if newest else ""
        source = next((one for one in writes if one.may_be(final)), None)
        if newest is None or final.stamp >= newest.stamp - newest.slack_us:
            if source is None:
                return f"unexplained: {key} holds {final}, which nobody wrote"
            if source.call.outcome == "unsent":
                return f"unexplained: {key} holds what was never sent: {source}"
            return ""
        # What came by way of a journal has been written over it, or it got lost.
        is_late = source is not None and source.call.outcome != "stored"
        kind = "clobbered" if is_late else "lost"
        return f"{kind}: {key} holds {final}, {source}, after {newest}"

    def _add_up(self, key: Key, total: int) -> str:
        rest, sums = total - self._added[key], 1
        for amount in self._doubtful[key]:
            sums |= sums << amount
        if rest >= 0 and sums >> rest & 1:
            return ""
        doubtful = self._doubtful[key]
        return f"count: {key} is {total}, not {self._added[key]} (+ any of {doubtful})"

    # --- the order --------------------------------------------------------------------

    def _orders(self, key: Key) -> Iterator[str]:
        """Say where a later write has the lower stamp."""
        accepted = [write for write in self.writes[key] if write.is_accepted]
        for write in accepted:
            if not write.stamp:
                yield f"order: {key}: {write} has no stamp"
        ended = _Newest((write.call.end or 0.0, write.stamp) for write in accepted)
        for write in accepted:
            before = ended.until(write.call.start - CLOCKS)
            if before > write.stamp:
                yield f"order: {key}: {write} came after {before}"

    # --- reads ------------------------------------------------------------------------

    def _stale_reads(self, key: Key) -> Iterator[str]:
        """Say which reads did not find what their own process had written."""
        known = {write.call.mark: write for write in self.writes[key]}
        deletes = [write for write in self.writes[key] if write.call.op == "delete"]
        for process in self._readers[key]:
            own = _Newest(
                (write.call.end or 0.0, write.stamp)
                for write in self.writes[key]
                if write.is_accepted and write.call.process == process
            )
            for read in self._reads[process, key]:
                before = own.until(read.start)
                mark = read.got[key[1]]
                if mark is not None and mark not in known:
                    yield f"unexplained: {key}: {process} read {mark}"
                elif mark is not None and 0 < known[mark].stamp < before:
                    yield f"stale: {key}: {read} after {before}, {known[mark]}"
                elif mark is None and before and not _is_deleted(deletes, read, before):
                    yield f"stale: {key}: {read} found nothing after {before}"

    # --- conflicts --------------------------------------------------------------------

    def _bad_conflicts(self) -> Iterator[str]:
        for report in self.reports:
            for one in report.conflicts:
                key = one["tenant"], one["name"]
                if one["local"] > one["remote"]:
                    yield f"clobbered: {key}: a newer write was given up: {one}"
                if not any(write.may_have(one["local"]) for write in self.writes[key]):
                    yield f"unexplained: {key}: nobody knows this conflict: {one}"


class _Newest:
    """The highest stamp up to any moment."""

    def __init__(self, pairs: Iterable[tuple[float, int]]) -> None:
        ordered = sorted(pairs)
        self._times = [time for time, _ in ordered]
        self._stamps: list[int] = []
        for _, stamp in ordered:
            self._stamps.append(max(stamp, self._stamps[-1] if self._stamps else 0))

    def until(self, time: float) -> int:
        """Return the highest stamp of what had ended by then; 0 for none."""
        at = bisect_right(self._times, time)
        return self._stamps[at - 1] if at else 0


def _is_deleted(deletes: Iterable[Write], read: Call, before: int) -> bool:
    return any(
        write.call.start <= (read.end or 0.0)
        and (not write.stamp or write.stamp >= before)
        for write in deletes
    )
