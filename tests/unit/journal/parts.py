"""Entries and journals for the tests of the journal's files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mcp_crew_redis._wire.header import seal, seal_tombstone
from mcp_crew_redis.store.journal.entries import Delta, Entry, Posting, Register
from mcp_crew_redis.store.journal.files import JournalFiles
from mcp_crew_redis.store.journal.folder import JournalFolder, journals_in
from mcp_crew_redis.store.journal.records import _SHAPES, Put, identify
from mcp_crew_redis.testing import ManualClock

__all__ = [
    "TARGET",
    "Bench",
    "delta",
    "posting",
    "register",
    "state",
    "states",
]

TARGET = "5c0ffee5"


def register(name: str = "a", stamp: int = 1_000, value: bytes = b"v") -> Register:
    return Register.of(name.encode(), "acme", seal(stamp, value, 9_000))


def tombstone(name: str = "a", stamp: int = 1_000) -> Register:
    return Register.of(name.encode(), "acme", seal_tombstone(stamp, 9_000))


def delta(name: str = "n", sequence: int = 1, amount: int = 1) -> Delta:
    return Delta(
        key=name.encode(),
        tenant_id="acme",
        writer="w1",
        sequence=sequence,
        amount=amount,
        ttl_ms=60_000,
        made_us=5,
    )


def posting(name: str = "m1", body: bytes = b"b") -> Posting:
    return Posting(
        id=name,
        tenant_id="acme",
        kind="event",
        order_key=b"stream",
        body=body,
        made_us=7,
    )


def state(entry: Entry) -> tuple[object, ...]:
    """Every field of an entry, for comparison."""
    return (type(entry), *_SHAPES[type(entry)].take(entry))


def states(entries: Iterable[Entry]) -> list[tuple[object, ...]]:
    return [state(entry) for entry in entries]


class Bench:
    """Journals in one directory, one process's life after the other."""

    def __init__(self, root: Path, **options: object) -> None:
        self.root = root
        self.options = {"target": TARGET, "fsync": "never", **options}
        self.clock = ManualClock()
        self.live: list[Entry] = []
        self.opened: list[JournalFiles] = []

    def make(self, **options: object) -> JournalFiles:
        files = JournalFiles(
            self.root,
            **{**self.options, **options},
            live=lambda: self.live,
            clock=self.clock,
        )
        self.opened.append(files)
        return files

    def open(self, **options: object) -> JournalFiles:
        files = self.make(**options)
        files.open()
        return files

    def crash(self, files: JournalFiles) -> None:
        """End like a process that is killed: locks go, files stay as they are."""
        files._syncer._cancel_timer()
        files._abandon()
        files._is_open = False

    def left(self, *entries: Entry, **options: object) -> Path:
        """Leave a dead process's journal with these entries; return its folder."""
        files = self.open(**options)
        for entry in entries:
            files.put(entry)
        path = files._log.folder.path
        self.crash(files)
        return path

    def adopted(self, **options: object) -> list[Entry]:
        """Adopt in a new process that then closes; return what it was offered."""
        files = self.open(**options)
        offered: list[Entry] = []
        files.adopt(lambda entry: offered.append(entry) or True)
        for entry in offered:
            files.drop(entry)
        files.close()
        return offered

    def folders(self) -> list[str]:
        return [path.name for path in journals_in(self.root)]

    def segments(self) -> list[Path]:
        return sorted(self.root.glob("*/*.journal"))

    def close(self) -> None:
        for files in self.opened:
            self.crash(files)


def read(path: Path) -> list[Put]:
    """Return what a reader finds in a journal whose process is dead."""
    from mcp_crew_redis.store.journal.adoption import read_journal

    folder = JournalFolder.claim(path)
    assert folder is not None
    with folder:
        return read_journal(folder, TARGET).puts


def by_identity(entries: Iterable[Entry]) -> dict[object, tuple[object, ...]]:
    return {identify(entry): state(entry) for entry in entries}
