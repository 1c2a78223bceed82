"""The files of this process's journal: appended to, turned over, kept small.

The order of all steps is safe against the death of the process between any two of them:
whoever reads the files then finds every live entry. Entries that were dropped may be
found again; that is harmless, since doing an entry twice does it once.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Final, NamedTuple

from mcp_crew_redis.clock import Clock
from mcp_crew_redis.store.journal.entries import Entry, Register
from mcp_crew_redis.store.journal.folder import JournalFolder
from mcp_crew_redis.store.journal.records import (
    Header,
    Identity,
    encode_drop,
    encode_header,
    encode_put,
    identify,
    overrules,
)
from mcp_crew_redis.store.journal.segment_file import SegmentFile, Write

__all__ = ["WASTE", "SegmentLog"]

WASTE: Final = 4
"""How many times the bytes of live records the segments may hold, all in all."""

_MOVED: Final = 2  # bytes of old records moved for each byte that is put


class _Kept(NamedTuple):
    """Where the record of a live entry is."""

    entry: Entry
    size: int
    segment: int
    place: int


class SegmentLog:
    """The segments of one journal, and which of their records are live.

    Old records that are still live move to the end, a few with each put, until the
    oldest segments hold none and can go. So no call copies everything, and the files
    stay below about six times what is live, or one segment.

    Args:
        folder: Locked; closed with this.
        target: For the headers.
        clock: For the headers.
        sync: `fsync`.
        is_synced: Whether `flush` is called: nothing is removed before what replaces it
            is safe from a power cut.
        segment_bytes: Size at which the next segment begins.
        write: `write`.
    """

    def __init__(
        self,
        folder: JournalFolder,
        *,
        target: str,
        clock: Clock,
        sync: Callable[[int], None],
        is_synced: bool,
        segment_bytes: int,
        write: Write = os.write,
    ) -> None:
        self.folder = folder
        self._target, self._clock = target, clock
        self._sync, self._is_synced, self._write = sync, is_synced, write
        self._segment_bytes = segment_bytes
        self._kept: OrderedDict[Identity, _Kept] = OrderedDict()  # by age of record
        self._sizes: dict[int, int] = {}  # of the segments before the current one
        self._segment = SegmentFile(-1, write)
        self._number = self._head = self._live_bytes = self._next_place = 0
        self._is_dirty = self._is_new = self._is_rewriting = False

    @property
    def is_dirty(self) -> bool:
        """Whether something was put that `flush` has not made safe."""
        return self._is_dirty

    @property
    def is_empty(self) -> bool:
        """Whether no live entry is in the files."""
        return not self._kept

    @property
    def live_bytes(self) -> int:
        """Bytes of the records that are live."""
        return self._live_bytes

    @property
    def total_bytes(self) -> int:
        """Bytes of all segments."""
        return sum(self._sizes.values()) + self._segment.size

    def holds(self, entry: Entry) -> bool:
        """Whether the files hold this entry, in this state or a newer one."""
        kept = self._kept.get(identify(entry))
        if kept is None:
            return False
        return kept.entry is entry or not overrules(entry, _stamp(kept.entry))

    def start(self) -> None:
        """Begin the next segment.

        Raises:
            OSError: It cannot be made.
        """
        number = self._number + 1
        names = {"target": self._target, "owner": self.folder.name}
        made_us = int(self._clock.wall() * 1e6)
        header = encode_header(Header(**names, number=number, made_us=made_us))
        segment = SegmentFile(self.folder.create_segment(number), self._write)
        with ExitStack() as undo:
            undo.callback(segment.close)
            undo.callback(self.folder.remove_segment, number)
            segment.append(header)
            undo.pop_all()
        if self._number:
            self._sizes[self._number] = self._segment.size
            self._segment.close()
        self._segment, self._number, self._head = segment, number, len(header)
        self._is_new = True

    # --- entries ----------------------------------------------------------------------

    def put(self, entry: Entry) -> None:
        """Append the entry's state, and move some old records.

        Raises:
            OSError: It is not in the files.
        """
        size = self._append_put(identify(entry), entry)
        if self._sizes:
            self._compact(size * _MOVED)

    def drop(self, entry: Entry) -> None:
        """Append that the entry is over; a newer state of a register stays.

        Raises:
            OSError: A reader of the files would still find it.
        """
        kept = self.forget(entry)
        if kept is None:
            return
        if not self._kept:
            self._empty()
            return
        self._append(encode_drop(entry))
        self._remove_dead()

    def forget(self, entry: Entry) -> _Kept | None:
        """Count an entry as live no longer, without writing that."""
        identity = identify(entry)
        kept = self._kept.get(identity)
        if kept is None or overrules(kept.entry, _stamp(entry)):
            return None
        del self._kept[identity]
        self._live_bytes -= kept.size
        return kept

    def rewrite(self, entries: Iterable[Entry]) -> None:
        """Write these into new segments, then remove all older ones.

        Copies everything at once: for the time after a failure of the disk.

        Raises:
            OSError: Nothing was removed, and the older segments count as before.
        """
        older, known = [*self._sizes, self._number], self._kept
        live_bytes = self._live_bytes
        self._kept, self._live_bytes = OrderedDict(), 0
        self._is_rewriting = True
        try:
            self.start()
            for entry in entries:
                identity = identify(entry)
                before = known.get(identity)
                place = None if before is None else before.place
                self._append_put(identity, entry, place)
            if self._is_synced:
                self.flush()
        except OSError:
            self._kept, self._live_bytes = known, live_bytes
            self._discard_after(older[-1])
            raise
        finally:
            self._is_rewriting = False
        self._remove(older)

    def _append_put(
        self, identity: Identity, entry: Entry, place: int | None = None
    ) -> int:
        kept = self._kept.get(identity)
        if place is None:
            place = self._next_place if kept is None else kept.place
        record = encode_put(entry, place)
        self._append(record)
        if kept is not None:
            self._live_bytes -= kept.size
            self._kept.move_to_end(identity)
        self._kept[identity] = _Kept(entry, len(record), self._number, place)
        self._live_bytes += len(record)
        self._next_place = max(self._next_place, place + 1)
        self._is_dirty = True
        return len(record)

    def _append(self, record: bytes) -> None:
        size = self._segment.size
        if size > self._head and size + len(record) > self._segment_bytes:
            if self._is_synced:
                self._flush_segment()  # its descriptor is about to be closed
                if not self._is_rewriting:
                    self._remove_dead()
            self.start()
        self._segment.append(record)

    # --- room -------------------------------------------------------------------------

    def _compact(self, budget: int) -> None:
        limit = max(WASTE * self._live_bytes, self._segment_bytes)
        while budget > 0:
            identity, oldest = next(iter(self._kept.items()))
            is_old = oldest.segment != self._number
            if not is_old or self._bytes_since(oldest.segment) <= limit:
                break
            budget -= self._append_put(identity, oldest.entry)
        self._remove_dead()

    def _bytes_since(self, number: int) -> int:
        # Without the segments before: they only wait for `flush` to be removed.
        sizes = self._sizes.items()
        return self._segment.size + sum(size for key, size in sizes if key >= number)

    def _remove_dead(self) -> None:
        """Remove the oldest segments, as far as they hold nothing live."""
        # Only the oldest: a dropping record is needed as long as a segment before it
        # may hold what it drops.
        if not self._sizes or (self._is_synced and self._is_dirty):
            return
        oldest = next(iter(self._kept.values())).segment if self._kept else self._number
        self._remove([number for number in self._sizes if number < oldest])

    def _empty(self) -> None:
        """Remove all records; the file stays, for the next entry."""
        self._remove(list(self._sizes))
        self._segment.cut(self._head)

    def _remove(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.folder.remove_segment(number)
            self._sizes.pop(number, None)

    def _discard_after(self, number: int) -> None:
        """Give the space of a rewriting back that has failed."""
        self._segment.close()
        for fresh in range(number + 1, self._number + 1):
            try:
                self.folder.remove_segment(fresh)
            except OSError:
                return  # what they hold is true as well
            self._sizes.pop(fresh, None)

    # --- safety -----------------------------------------------------------------------

    def flush(self) -> None:
        """Make all that was put safe from a power cut.

        Raises:
            OSError: It may not be; the kernel tells it only once.
        """
        if self._is_dirty:
            self._flush_segment()
            self._remove_dead()

    def _flush_segment(self) -> None:
        if self._is_dirty:
            self._sync(self._segment.descriptor)
        if self._is_new:  # its name is a change of the folder
            self._sync(self.folder.descriptor)
        self._is_dirty = self._is_new = False

    def close(self) -> None:
        """Close the files without a change of them, and unlock the folder."""
        self._segment.close()
        self.folder.close()


def _stamp(entry: Entry) -> int:
    return entry.stamp if isinstance(entry, Register) else 0
