"""Locks on files that the kernel drops at the holder's death."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from mcp_crew_redis.errors import ConfigurationError

if sys.platform != "win32":
    import fcntl

__all__ = ["FileLock"]

_INTERVAL = 0.005


class FileLock:
    """A held lock on a file; given back by `release()` or the process's death."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    @classmethod
    def try_acquire(cls, path: Path, *, exclusive: bool) -> FileLock | None:
        """Return the lock, or None while somebody holds one that excludes it.

        Raises:
            ConfigurationError: The file system has no locks, or is not writable.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable(path, error) from error
        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            os.close(descriptor)
            raise _unusable(path, error) from error
        return cls(descriptor)

    @classmethod
    async def acquire(cls, path: Path, *, exclusive: bool) -> FileLock:
        """Wait for the lock; bound the wait with `asyncio.timeout`."""
        lock = cls.try_acquire(path, exclusive=exclusive)
        while lock is None:  # the kernel has no flock to await
            await asyncio.sleep(_INTERVAL)
            lock = cls.try_acquire(path, exclusive=exclusive)
        return lock

    def release(self) -> None:
        """Give the lock back; a second time does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _unusable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"data_dir: cannot lock {path}: {error.strerror}; "
        "it must be a writable folder on a local file system"
    )
