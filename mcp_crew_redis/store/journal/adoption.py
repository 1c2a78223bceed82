"""What dead processes have left, and how it is taken over.

A journal is adopted under its lock, by one process at a time: the entries are in the
adopter's own files before the adopted ones are removed. If the adopter dies in between,
the next one adopts both; doing an entry twice does it once.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from mcp_crew_redis.log import get_logger
from mcp_crew_redis.store.journal.entries import Entry
from mcp_crew_redis.store.journal.folder import (
    JournalFolder,
    NotOursError,
    journals_in,
)
from mcp_crew_redis.store.journal.records import (
    PREAMBLE,
    VERSION,
    Header,
    Identity,
    Put,
    UnknownRecordError,
    decode,
    encode_drop,
    encode_header,
    frame_bytes,
    read_body,
    replay,
)
from mcp_crew_redis.store.journal.segment_file import SegmentFile

__all__ = ["Adopter", "Adoption", "Cause", "Left", "LeftAloneError", "read_journal"]

log = get_logger(__name__)

Cause = Literal["other_target", "newer_format", "not_ours", "unreadable"]

_BUFFER: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """What came of adopting.

    Attributes:
        journal_count: Journals that were adopted whole, and removed.
        taken_count: Entries that were taken.
        left_count: Entries that did not fit, or could not be kept; they stay for later.
        cut_bytes: Bytes behind a damaged record: what they said is lost.
        other_target_count: Journals of another server, database or prefix; left alone.
        newer_count: Journals that a newer release has written; left alone.
        unreadable_count: Journals of other users, or that cannot be read; left alone.
    """

    journal_count: int = 0
    taken_count: int = 0
    left_count: int = 0
    cut_bytes: int = 0
    other_target_count: int = 0
    newer_count: int = 0
    unreadable_count: int = 0


class LeftAloneError(Exception):
    """The journal is not this process's to adopt; `cause` says why."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause)
        self.cause: Cause = cause


@dataclass(slots=True)
class Left:
    """What a journal's files say.

    Attributes:
        puts: The live entries, in the order in which they came.
        cut_bytes: Bytes that could not be read as records.
        last_number: The number of the last segment.
    """

    puts: list[Put] = field(default_factory=list)
    cut_bytes: int = 0
    last_number: int = 0


# --- reading --------------------------------------------------------------------------


def read_journal(folder: JournalFolder, target: str) -> Left:
    """Read a journal's segments, each up to its first damaged record.

    Holds the live entries in memory, and one record more; a wrong length in a file is
    not allocated.

    Raises:
        LeftAloneError: It is another target's, or not to be understood.
    """
    table: dict[Identity, Put] = {}
    left = Left()
    try:
        for number in folder.segment_numbers():
            left.last_number = number
            left.cut_bytes += _read_segment(folder.open_segment(number), target, table)
    except UnknownRecordError:
        raise LeftAloneError("newer_format") from None
    except NotOursError:
        raise LeftAloneError("not_ours") from None
    except OSError:
        raise LeftAloneError("unreadable") from None
    # By place, not by where the records are: a compaction moves old ones to the end.
    left.puts = sorted(table.values(), key=lambda put: put.place)
    return left


def _read_segment(descriptor: int, target: str, table: dict[Identity, Put]) -> int:
    """Bring the table up to date and return the bytes that could not be read."""
    with os.fdopen(descriptor, "rb", buffering=_BUFFER) as file:
        remaining = os.fstat(descriptor).st_size
        preamble = file.read(len(PREAMBLE))
        if preamble[:-1] != PREAMBLE[:-1] or not preamble[-1] > 0:
            return remaining  # torn when it was made, or damaged
        if preamble[-1] > VERSION:
            raise LeftAloneError("newer_format")
        remaining -= len(preamble)
        is_known = False
        while (body := read_body(file.read, remaining)) is not None:
            record = decode(body)
            if isinstance(record, Header):
                if record.target != target:
                    raise LeftAloneError("other_target")
                is_known = True
            elif not is_known:
                return remaining
            else:
                replay(table, record)
            remaining -= frame_bytes(body)
        return remaining


# --- adopting -------------------------------------------------------------------------


class Adopter:
    """Takes over journals that nobody holds.

    Args:
        root: The directory of the journals.
        target: The fingerprint that a journal must bear.
    """

    def __init__(self, root: Path, target: str) -> None:
        self._root, self._target = root, target
        self._reported: set[str] = set()

    def run(
        self,
        own: str,
        take: Callable[[Entry], bool],
        settle: Callable[[], bool],
    ) -> Adoption:
        """Offer every live entry of every unlocked journal.

        Args:
            own: The name of the journal that they go to.
            take: Accepts an entry, and has it in the own files; False if it cannot.
            settle: Makes those as safe as was asked for; False if it cannot, and then
                nothing is removed.

        Raises:
            OSError: The directory cannot be read.
        """
        totals: Counter[str] = Counter()
        for path in journals_in(self._root):
            if path.name == own:
                continue
            try:
                folder = JournalFolder.claim(path)
                if folder is None:
                    continue  # it has a living owner, or another adopter
                with folder:
                    totals.update(self._adopt(folder, take, settle))
            except LeftAloneError as error:
                totals.update(self._left_alone(path.name, error.cause))
            except NotOursError:
                totals.update(self._left_alone(path.name, "not_ours"))
            except OSError:
                totals.update(self._left_alone(path.name, "unreadable"))
        return Adoption(**totals)

    def _adopt(
        self,
        folder: JournalFolder,
        take: Callable[[Entry], bool],
        settle: Callable[[], bool],
    ) -> dict[str, int]:
        left = read_journal(folder, self._target)
        if left.cut_bytes and self._is_first(folder.name, "damaged"):
            log.warning(
                "journal.damaged", journal=folder.name, cut_bytes=left.cut_bytes
            )
        taken: list[Entry] = []
        for put in left.puts:
            if not take(put.entry):
                break
            taken.append(put.entry)
        rest = len(left.puts) - len(taken)
        is_safe = settle()
        is_over = is_safe and not rest and _remove(folder)
        if is_safe and taken and not is_over:
            self._note(folder, left, taken)
        if left.puts:
            log.info(
                "journal.adopted",
                journal=folder.name,
                entry_count=len(taken),
                left_count=rest,
            )
        return {
            "journal_count": int(is_over),
            "taken_count": len(taken),
            "left_count": rest,
            "cut_bytes": left.cut_bytes,
        }

    def _note(self, folder: JournalFolder, left: Left, taken: Iterable[Entry]) -> None:
        """Drop what was taken from a journal that stays, or it is offered again."""
        number = left.last_number + 1
        header = Header(
            target=self._target, owner=folder.name, number=number, made_us=0
        )
        # Without it they are offered again, which is harmless.
        with suppress(OSError):
            segment = SegmentFile(folder.create_segment(number), os.write)
            try:
                drops = b"".join(map(encode_drop, taken))
                segment.append(encode_header(header) + drops)
            finally:
                segment.close()

    def _left_alone(self, name: str, cause: Cause) -> dict[str, int]:
        if self._is_first(name, cause):
            log.warning("journal.left_alone", journal=name, cause=cause)
        counts = {"other_target": "other_target_count", "newer_format": "newer_count"}
        return {counts.get(cause, "unreadable_count"): 1}

    def _is_first(self, name: str, what: str) -> bool:
        before = len(self._reported)
        self._reported.add(f"{name} {what}")
        return len(self._reported) > before


def _remove(folder: JournalFolder) -> bool:
    try:
        folder.remove()
    except OSError:
        return False  # a later adoption tries again
    return True
