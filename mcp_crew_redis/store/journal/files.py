"""A journal in files: what was accepted survives the death of the process.

`put` has handed the record to the kernel when it returns: SIGKILL loses nothing. For
200 bytes it takes 5 to 10 us. What a power cut may take depends on `fsync`, and stalls
the whole event loop, since there is no thread: on the virtual disk of the measurement
0.1 to 0.3 ms for a few records, up to 4 ms for a busy tick's, 6 ms for 8 MiB.

    never      nothing is synchronised: up to what the kernel holds back, often 30 s
    interval   up to the last 0.1 s; one stall each 0.1 s while something is put
    always     nothing for which `committed` has returned; one stall per loop tick

Where the disk refuses, the journal goes on in memory, says so in `reason`, and tries
again every 5 s with the next `put` or `drop`, by writing all live entries into new
files: under a second for 100,000 of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from mcp_crew_redis.clock import Clock
from mcp_crew_redis.errors import ConfigurationError
from mcp_crew_redis.log import get_logger
from mcp_crew_redis.store.journal.adoption import Adopter, Adoption
from mcp_crew_redis.store.journal.disk import VARIABLE, error_name, explain, is_full
from mcp_crew_redis.store.journal.entries import Entry
from mcp_crew_redis.store.journal.folder import JournalFolder
from mcp_crew_redis.store.journal.segment_file import Write
from mcp_crew_redis.store.journal.segments import SegmentLog
from mcp_crew_redis.store.journal.syncing import Fsync, Syncer

__all__ = ["RETRY_AFTER", "SEGMENT_BYTES", "JournalFiles"]

log = get_logger(__name__)

SEGMENT_BYTES: Final = 8 * 1024 * 1024
RETRY_AFTER: Final = 5.0
"""Seconds after which a disk that has refused is tried again."""

_FORKED: Final = "the journal's files are those of the process that forked this one"


class JournalFiles:
    """Keeps a journal's entries in a folder of its own, below a shared directory.

    A `Keeper`. Adoption and the retry after a failure of the disk read or write all
    entries at once, without a pause; everything else is one small write.

    A forked child neither writes nor unlocks what it inherits: there, `is_durable` is
    False from the first. Until it has been used or ends, it shares the lock.

    Args:
        directory: Where all processes' journals are; made if it is missing.
        target: A fingerprint of where entries belong; only journals that bear the same
            are adopted.
        fsync: When the files are synchronised; see the module.
        live: Gives every entry that is pending, in order; what is in the files follows
            `put` and `drop`, and this only after a failure of the disk.
        clock: Time.
        sync: `fsync`, for a test to see when it is called.
        segment_bytes: Size at which the next file begins.
        write: `write`, for a test to let it fail.
    """

    def __init__(
        self,
        directory: Path,
        *,
        target: str,
        fsync: Fsync,
        live: Callable[[], Iterable[Entry]],
        clock: Clock,
        sync: Callable[[int], None] = os.fsync,
        segment_bytes: int = SEGMENT_BYTES,
        write: Write = os.write,
    ) -> None:
        self._directory, self._target = directory, target
        self._live, self._clock = live, clock
        self._sync, self._write, self._segment_bytes = sync, write, segment_bytes
        self._adopter = Adopter(directory, target)
        self._log: SegmentLog | None = None
        self._is_open, self._pid = False, -1
        self._reason: str | None = None
        self._retry_at, self._put_count = 0.0, 0
        self._syncer = Syncer(fsync, self._flush)

    def __repr__(self) -> str:
        files = self._log
        size = f"{files.live_bytes} of {files.total_bytes} bytes live" if files else "-"
        return f"<JournalFiles {size}, {self.reason or self._syncer.fsync}>"

    @property
    def is_durable(self) -> bool:
        """Whether entries outlive the process now."""
        return self._is_usable() and self._reason is None

    @property
    def reason(self) -> str | None:
        """Why entries do not outlive the process; None if all is well."""
        if self._is_open and self._pid != os.getpid():
            return _FORKED
        return self._reason

    # --- life -------------------------------------------------------------------------

    def open(self) -> None:
        """Make the process's own folder and lock it.

        A full disk is no error: the journal is in memory until there is room.

        Raises:
            ConfigurationError: The directory cannot be used at all.
        """
        self._is_open, self._pid = True, os.getpid()
        try:
            self._renew()
        except OSError as error:
            if is_full(error):
                self._fail(error)
                return
            self._is_open = False
            raise ConfigurationError(
                f"{VARIABLE}: cannot use {self._directory}: {error.strerror}; it must "
                "be a folder on a local file system that this user may write to"
            ) from error

    def adopt(self, take: Callable[[Entry], bool]) -> Adoption:
        """Offer each live entry of every journal whose process has died.

        Reads and writes everything before it returns: 100,000 entries take one to two
        seconds. Harmless to repeat; what did not fit is offered again.

        Args:
            take: Accepts an entry, by `put` if it changes what is pending; False when
                the journal is full. An entry that it accepts without a `put`, and that
                is not in the files, is put here. One that needs nothing more is to be
                dropped afterwards.
        """
        if not self.is_durable or self._log is None:
            return Adoption()

        def take_and_put(entry: Entry) -> bool:
            before = self._put_count
            if not self.is_durable or not take(entry):
                return False
            if before == self._put_count and not self._holds(entry):
                self.put(entry)
            return True

        try:
            return self._adopter.run(self._log.folder.name, take_and_put, self._settle)
        except OSError as error:
            self._fail(error)
            return Adoption()

    def close(self) -> None:
        """Synchronise as was asked for, then unlock; a second time does nothing.

        Files without a live entry are removed; others stay for the next process.
        """
        if not self._is_usable():
            return
        self._syncer.close()
        self._is_open = False
        if self._log is not None:
            if self._log.is_empty:
                self._remove_files(self._log)
            self._abandon()

    @staticmethod
    def _remove_files(files: SegmentLog) -> None:
        with suppress(OSError):  # an adopter would find nothing live in them
            files.folder.remove()

    # --- entries ----------------------------------------------------------------------

    def put(self, entry: Entry) -> None:
        """Write an entry, or its new state; the kernel has it when this returns."""
        self._put_count += 1
        files = self._ready()
        if files is None:
            return
        try:
            files.put(entry)
        except OSError as error:
            self._fail(error)
        else:
            self._syncer.has_put()

    def drop(self, entry: Entry) -> None:
        """Write that an entry is over; a register newer than this one stays."""
        files = self._ready()
        if files is None:
            if self._is_usable() and self._log is not None:
                self._log.forget(entry)
            return
        try:
            files.drop(entry)
        except OSError as error:
            self._fail(error)

    async def committed(self) -> None:
        """Return when what was put is as safe as was asked for.

        For `always` that is after one `fsync`, which all callers of a loop tick share.
        After a failure of the disk it returns at once: nothing is safe, and `reason`
        says so. Cancelling leaves everything put.
        """
        if self.is_durable and self._log is not None and self._log.is_dirty:
            await self._syncer.committed()

    def _flush(self) -> None:
        if not self.is_durable or self._log is None:
            return
        try:
            self._log.flush()
        except OSError as error:
            self._fail(error)

    def _settle(self) -> bool:
        """Make adopted entries as safe as was asked for."""
        if self._syncer.is_needed:
            self._flush()
        return self.is_durable

    # --- failure ----------------------------------------------------------------------

    def _is_usable(self) -> bool:
        if self._is_open and self._pid != os.getpid():
            self._abandon()
        return self._is_open and self._pid == os.getpid()

    def _abandon(self) -> None:
        """Close the files, which unlocks them unless a forked process has them too."""
        if self._log is not None:
            self._log.close()
            self._log = None

    def _holds(self, entry: Entry) -> bool:
        return self._log is not None and self._log.holds(entry)

    def _ready(self) -> SegmentLog | None:
        if not self._is_usable():
            return None
        if self._reason is None or self._recover():
            return self._log
        return None

    def _renew(self) -> None:
        """Begin a folder of a new name."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = JournalFolder.create(self._directory)
        files = SegmentLog(
            folder,
            target=self._target,
            clock=self._clock,
            sync=self._sync,
            is_synced=self._syncer.is_needed,
            segment_bytes=self._segment_bytes,
            write=self._write,
        )
        with ExitStack() as undo:
            undo.callback(files.close)
            undo.callback(self._remove_files, files)
            files.start()
            if self._syncer.is_needed:
                folder.sync_name(self._sync)
            undo.pop_all()
        if self._log is not None:
            self._log.close()
        self._log = files

    def _recover(self) -> bool:
        now = self._clock.monotonic()
        if now < self._retry_at:
            return False
        self._retry_at = now + RETRY_AFTER
        try:
            if self._log is None or self._log.folder.is_gone:
                self._renew()
            assert self._log is not None
            self._log.rewrite(self._live())
        except OSError as error:
            self._reason = explain(error)
            return False
        self._reason = None
        log.info("journal.disk_recovered", live_bytes=self._log.live_bytes)
        return True

    def _fail(self, error: OSError) -> None:
        if self._reason is None:
            name = error_name(error)
            log.error("journal.disk_failed", error=name, retry_after=RETRY_AFTER)
        self._reason = explain(error)
        self._retry_at = self._clock.monotonic() + RETRY_AFTER
