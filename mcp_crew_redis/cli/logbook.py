"""The names of what is logged here, kept for the report instead of printed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

__all__ = ["Logbook", "logs_kept"]


class Logbook:
    """The names of logged events, each once, in the order of their first time."""

    def __init__(self) -> None:
        self._seen: dict[str, None] = {}

    def note(self, name: str) -> None:
        """Take one in."""
        self._seen[name] = None

    def take(self) -> str:
        """Return what has come since the last time, as one text."""
        seen, self._seen = self._seen, {}
        return ", ".join(seen) or "nothing"


@contextmanager
def logs_kept() -> Iterator[Logbook]:
    """Keep the names of what would go to standard error."""
    book = Logbook()

    def keep(
        _logger: object, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        book.note(str(event["event"]))
        raise structlog.DropEvent

    structlog.configure(processors=[keep])
    try:
        yield book
    finally:
        structlog.reset_defaults()
