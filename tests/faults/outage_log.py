"""What a process of an outage run has written down of its own calls.

One JSON object a line: a line before each call, one after it. A call without the
second one was under way when its process died.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["ACCEPTED", "Call", "CallLog", "Report", "read_report"]

ACCEPTED = frozenset({"stored", "deferred"})
"""Outcomes that promise the write."""


@dataclass(slots=True)
class Call:
    """One call of one process.

    Attributes:
        process: Which.
        op: set, delete, add or read.
        tenant: Whose data.
        names: The identifiers that it was about.
        mark: The value that it writes; nobody else writes the same.
        amount: What it adds.
        start: When it began, on the clock that all processes of a machine share.
        end: When it returned or raised; None if it did neither.
        outcome: stored, deferred, read; unknown when it may have happened, unsent when
            it says that it has not.
        stamps: The stamp of each name as it was accepted, and whether that was this
            machine's wall clock.
        got: What a read has found, by name: a mark or None.
    """

    process: str
    op: str
    tenant: str
    names: list[str]
    start: float
    mark: str | None = None
    amount: int = 0
    end: float | None = None
    outcome: str = "unknown"
    stamps: dict[str, tuple[int, bool]] = field(default_factory=dict)
    got: dict[str, str | None] = field(default_factory=dict)


@dataclass(slots=True)
class Report:
    """All that one process has said.

    Attributes:
        calls: In the order in which they began.
        conflicts: What it told of writes that lost against newer ones.
        statistics: Its journal's figures at the end; empty if it was killed.
        errors: How often calls raised what.
    """

    calls: list[Call] = field(default_factory=list)
    conflicts: list[dict[str, Any]] = field(default_factory=list)
    statistics: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)


class CallLog:
    """Writes the lines; each is in the kernel's hands when the method returns."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._descriptor = os.open(path, flags, 0o600)
        self._number = 0

    def line(self, **what: object) -> None:
        """Write one line."""
        os.write(self._descriptor, json.dumps(what).encode() + b"\n")

    def begin(self, **what: object) -> int:
        """Write the line before a call and return its number."""
        self._number += 1
        self.line(n=self._number, **what)
        return self._number

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def read_report(path: Path) -> Report:
    """Read what a process has written, the last line possibly torn."""
    report, by_number = Report(), {}
    for text in path.read_text().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            break
        if "statistics" in line:
            report.statistics = line["statistics"]
            report.conflicts, report.errors = line["conflicts"], line["errors"]
        elif "end" in line:
            call = by_number[line["n"]]
            call.end, call.outcome = line["end"], line["outcome"]
            call.got = line.get("got", {})
            stamps = line.get("stamps", {})
            call.stamps = {name: tuple(stamp) for name, stamp in stamps.items()}
        elif "op" in line:
            number = line.pop("n")
            by_number[number] = Call(process=path.stem, **line)
    report.calls = list(by_number.values())
    return report
