"""What the wire must reach, and whether it did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Protocol

from peers import OURS

__all__ = ["Bar", "compared_bars", "print_bars"]

AT_100_CALLERS = (
    ("GET", "redis-py", 10.0),
    ("GET", "glide", 4.0),
    ("SET", "redis-py", 6.0),
    ("SET", "glide", 2.5),
)
CPU_AT_1_CALLER = 0.6  # of redis-py's


class Figures(Protocol):
    """What a cell of the table knows."""

    @property
    def per_second(self) -> float: ...

    @property
    def cpu_us(self) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One promise: the figure measured, and the limit it is held against."""

    name: str
    measured: float
    limit: float
    at_least: bool
    unit: str = "x"

    @property
    def passed(self) -> bool:
        """Whether the figure is on the right side of the limit."""
        if self.at_least:
            return self.measured >= self.limit
        return self.measured <= self.limit

    def as_json(self) -> dict[str, object]:
        """Return plain data."""
        return {**asdict(self), "passed": self.passed}


def compared_bars(
    cells: Mapping[tuple[str, str, int], Figures], names: list[str]
) -> list[Bar]:
    """Return the bars that compare us with a peer, where both were measured.

    A peer that was measured in several placements counts with its best.
    """
    bars = []
    for operation, peer, limit in AT_100_CALLERS:
        ours = cells.get((OURS, operation, 100))
        theirs = [
            cells[name, operation, 100].per_second
            for name in names
            if name.startswith(peer) and (name, operation, 100) in cells
        ]
        if ours and theirs:
            title = f"{operation} at 100 callers, ours / {peer}, ops/s"
            ratio = ours.per_second / max(theirs)
            bars.append(Bar(name=title, measured=ratio, limit=limit, at_least=True))
    for operation in ("GET", "SET"):
        ours, pool = (cells.get((name, operation, 1)) for name in (OURS, "redis-py"))
        if ours and pool:
            title = f"{operation} at 1 caller, ours / redis-py, CPU per operation"
            ratio, limit = ours.cpu_us / pool.cpu_us, CPU_AT_1_CALLER
            bars.append(Bar(name=title, measured=ratio, limit=limit, at_least=False))
    return bars


def print_bars(bars: list[Bar]) -> None:
    """Print one line per bar."""
    print("\nBars\n")
    for bar in bars:
        sign = ">=" if bar.at_least else "<="
        word = "pass" if bar.passed else "FAIL"
        print(
            f"- {word}: {bar.name}: {bar.measured:.2f} {bar.unit} "
            f"({sign} {bar.limit:g} {bar.unit})"
        )
