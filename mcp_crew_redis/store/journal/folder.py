"""The folder of one journal: its lock, and the segments in it.

The folder itself is locked, not a file beside the segments: so no segment exists
without its lock, and a lock cannot be removed without its segments. Segments are opened
relative to the locked folder: nobody can put another one in its place.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self
from uuid import uuid4

if sys.platform != "win32":
    import fcntl

__all__ = ["JournalFolder", "NotOursError", "journals_in"]

_JOURNAL: Final = re.compile(r"[0-9a-f]{32}")
_SEGMENT: Final = re.compile(r"([0-9]{8})\.journal")
_ATTEMPTS: Final = 20
_MODE: Final = 0o600
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_APPEND: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class NotOursError(OSError):
    """It belongs to another user, or is no plain file or folder."""


def journals_in(root: Path) -> list[Path]:
    """Return the folders of the journals in a directory, in the order of their names.

    Raises:
        OSError: It cannot be read.
    """
    names = sorted(os.listdir(root))  # noqa: PTH208 - names alone are wanted
    return [root / name for name in names if _JOURNAL.fullmatch(name)]


class JournalFolder:
    """A locked folder; `close()` or the process's death unlocks it.

    A forked child shares the lock: it lasts until the child has closed it too, and a
    child that closes it does not take it from its parent.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @classmethod
    def create(cls, root: Path) -> JournalFolder:
        """Make a folder of a new name and lock it.

        Raises:
            OSError: The file system does not allow it, or has no locks.
        """
        for _ in range(_ATTEMPTS):
            path = root / uuid4().hex
            path.mkdir(mode=0o700)
            # Between these two lines an adopter may take it for a dead process's, and
            # remove it because it is empty. Then there is another name.
            if (folder := cls.claim(path)) is not None:
                return folder
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    @classmethod
    def claim(cls, path: Path) -> JournalFolder | None:
        """Lock a folder; None if somebody holds it, or has removed it.

        Raises:
            NotOursError: It is a symbolic link, no folder, or another user's.
            OSError: It cannot be opened, or the file system has no locks.
        """
        try:
            descriptor = os.open(path, _READ | os.O_DIRECTORY)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise NotOursError(error.errno, error.strerror) from error
            raise
        folder = cls(path, descriptor)
        try:
            _check_owner(os.fstat(descriptor))
            is_ours = folder._lock()
        except BaseException:
            folder.close()
            raise
        if is_ours:
            return folder
        folder.close()
        return None

    def _lock(self) -> bool:
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        # Who held it before may have adopted and removed it while this waited to open
        # it: then the lock is on a folder that nobody finds any more.
        try:
            found = self.path.stat(follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(self.descriptor))

    @property
    def name(self) -> str:
        """The journal's unique name."""
        return self.path.name

    @property
    def is_gone(self) -> bool:
        """Whether somebody has removed the folder."""
        return self.descriptor < 0 or os.fstat(self.descriptor).st_nlink == 0

    def sync_name(self, sync: Callable[[int], None]) -> None:
        """Make the folder's own name safe from a power cut."""
        parent = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sync(parent)
        finally:
            os.close(parent)

    def segment_numbers(self) -> list[int]:
        """Return which segments there are, in their order."""
        names = os.listdir(self.descriptor)  # noqa: PTH208 - a descriptor is no path
        found = map(_SEGMENT.fullmatch, names)
        return sorted(int(each[1]) for each in found if each is not None)

    def create_segment(self, number: int) -> int:
        """Make a segment and return its descriptor, for appending."""
        return os.open(_file(number), _APPEND, _MODE, dir_fd=self.descriptor)

    def open_segment(self, number: int) -> int:
        """Open a segment for reading; neither links nor other users' files.

        Raises:
            NotOursError: It is a link, no plain file, or another user's.
        """
        # Without O_NONBLOCK a named pipe in its place would wait for a writer.
        flags = _READ | os.O_NONBLOCK
        try:
            descriptor = os.open(_file(number), flags, dir_fd=self.descriptor)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                raise NotOursError(error.errno, error.strerror) from error
            raise
        try:
            _check_file(os.fstat(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def remove_segment(self, number: int) -> None:
        """Remove a segment; one that is gone already counts as removed."""
        try:
            os.unlink(_file(number), dir_fd=self.descriptor)
        except FileNotFoundError:
            return

    def remove(self) -> None:
        """Remove all segments, the oldest first, and the folder.

        Oldest first: whatever remains if this is cut short holds no entry that a
        removed segment had dropped. A folder with anything else in it stays.
        """
        for number in self.segment_numbers():
            self.remove_segment(number)
        try:
            self.path.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                raise

    def close(self) -> None:
        """Give the lock back; a second time does nothing."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def _file(number: int) -> str:
    return f"{number:08d}.journal"


def _check_owner(found: os.stat_result) -> None:
    # Root too reads its own journals only: what another user has laid there would be
    # written to Redis with root's rights.
    if found.st_uid != os.geteuid():
        raise NotOursError(errno.EPERM, "another user's")


def _check_file(found: os.stat_result) -> None:
    _check_owner(found)
    if not stat.S_ISREG(found.st_mode):
        raise NotOursError(errno.EINVAL, "no plain file")
