"""One file of a journal, as it is being appended to."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

__all__ = ["SegmentFile", "Write"]

Write = Callable[[int, "bytes | memoryview"], int]


class SegmentFile:
    """One file that is being appended to; every write is whole or undone."""

    def __init__(self, descriptor: int, write: Write) -> None:
        self.descriptor = descriptor
        self.size = 0
        self._write = write

    def append(self, record: bytes) -> None:
        """Write a record; the file is unchanged if that fails.

        Raises:
            OSError: It could not be written, or somebody has removed the file.
        """
        try:
            written = self._write(self.descriptor, record)
            while written < len(record):  # nearly full: the next write says why
                rest = memoryview(record)[written:]
                if (more := self._write(self.descriptor, rest)) == 0:
                    raise _full()
                written += more
            if os.fstat(self.descriptor).st_nlink == 0:
                raise _gone()
        except OSError:
            self._undo()
            raise
        self.size += len(record)

    def cut(self, size: int) -> None:
        """Shorten the file to its first so many bytes."""
        os.ftruncate(self.descriptor, size)
        self.size = size

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _undo(self) -> None:
        try:
            os.ftruncate(self.descriptor, self.size)
        except OSError:
            return  # a reader stops at the torn record, and nothing comes after it


def _gone() -> OSError:
    return OSError(errno.ENOENT, os.strerror(errno.ENOENT))


def _full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
