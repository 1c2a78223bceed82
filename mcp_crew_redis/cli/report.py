"""What the demo prints: short lines, one table, the same words with and without colour.

Plain output is for pipes: no colour, no box, no line broken to fit a terminal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NoReturn, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mcp_crew_redis.cli.failure import ReaderGoneError
from mcp_crew_redis.cli.shelf import Row

__all__ = ["Report", "duration", "printable"]

_PLAIN_WIDTH = 240
_ROOMY_WIDTH = 92
_MAX_QUOTE = 60
_UNITS = (("d", 86_400, "h", 3_600), ("h", 3_600, "m", 60), ("m", 60, "s", 1))


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        # rich would end the process from within, past our own clean-up.
        raise ReaderGoneError


class Report:
    """Prints to one stream.

    Args:
        stream: Where to.
        is_plain: Without colours and rules; always so when the stream is no terminal.
        width: Columns; None: the terminal's.

    Raises:
        ReaderGoneError: From each method, when nobody reads the stream any more.
    """

    def __init__(
        self, stream: TextIO, *, is_plain: bool = False, width: int | None = None
    ) -> None:
        self.is_plain = is_plain or not stream.isatty()
        self._console = _Console(
            file=stream,
            width=_PLAIN_WIDTH if self.is_plain else width,
            no_color=True if self.is_plain else None,
            force_terminal=False if self.is_plain else None,
            highlight=False,
            markup=False,
            emoji=False,
        )

    def title(self, text: str) -> None:
        """Begin a part of the story."""
        self._console.print()
        self._console.print(Text(text, style="bold"))

    def line(self, label: str, text: str, *, style: str = "cyan") -> None:
        """Print a labelled line; what does not fit continues under the text."""
        if self.is_plain:
            self._console.print(Text(f"  {label:<6} {text}"), soft_wrap=True)
            return
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=8, no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_row(Text(f"  {label}", style=style), Text(text))
        self._console.print(grid)

    def check(self, holds: bool, text: str) -> None:  # noqa: FBT001 - reads as assert
        """Print what was checked and whether it holds."""
        if holds:
            self.line("ok", text, style="bold green")
        else:
            self.line("FAILED", text, style="bold red")

    def table(self, rows: Sequence[Row]) -> None:
        """Print every row with its key, life, size and times."""
        gap = 2 if self._console.width >= _ROOMY_WIDTH else 1
        table = Table(
            box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="dim"
        )
        table.add_column("  n", justify="right", no_wrap=True, vertical="bottom")
        table.add_column("kind", no_wrap=True, vertical="bottom")
        table.add_column("key", overflow="fold", vertical="bottom")
        for name in ("TTL", "bytes", "write\nus", "read\nus"):
            table.add_column(name, justify="right", no_wrap=True, vertical="bottom")
        for row in rows:
            table.add_row(*_cells(row))
        self._console.print(table)

    def figures(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print figures under their heads; the first column says what they are."""
        table = Table(
            box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim"
        )
        table.add_column(f"  {head[0]}", no_wrap=True)
        for name in head[1:]:
            table.add_column(name, justify="right", no_wrap=True)
        for name, *cells in rows:
            table.add_row(Text(f"  {name}", style="bold"), *map(Text, cells))
        self._console.print(table)


def _cells(row: Row) -> list[Text]:
    return [
        Text(f"  {row.keys}"),
        Text(row.kind, style="bold"),
        Text(row.key, style="cyan"),
        Text(duration(row.ttl)),
        Text(f"{row.bytes:,}"),
        Text(f"{row.write_us:,.0f}"),
        Text(f"{row.read_us:,.0f}"),
    ]


def duration(seconds: float | None) -> str:
    """Return a time to live for people, in its two largest units: `6d23h`, `57m08s`."""
    if seconds is None:
        return "gone"
    if seconds == math.inf:
        return "never"
    left = int(seconds)
    for name, size, smaller, unit in _UNITS:
        if left >= size:
            return f"{left // size}{name}{left % size // unit:02}{smaller}"
    return f"{left}s"


def printable(text: str, limit: int = _MAX_QUOTE) -> str:
    """Return `text` on one line, without control characters, not over `limit`.

    What an MCP server says is foreign: it may hold a terminal's escape sequences.
    """
    line = " ".join(text.split())
    line = "".join(char if char.isprintable() else "?" for char in line)
    return line if len(line) <= limit else f"{line[: limit - 3]}..."
