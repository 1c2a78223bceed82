"""A journal's files: what is put is there, what is over is not, and room is kept."""

from __future__ import annotations

import asyncio
import errno
import os
import stat

import pytest
from structlog.testing import capture_logs

from mcp_crew_redis.errors import ConfigurationError
from mcp_crew_redis.store.journal.keeping import Keeper
from tests.unit.journal.parts import (
    delta,
    posting,
    read,
    register,
    state,
    states,
)


class Disk:
    """Writes like `os.write`, until it is told to fail."""

    def __init__(self) -> None:
        self.error = 0
        self.room: int | None = None  # bytes until it is full

    def write(self, descriptor, data) -> int:
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        if self.room is not None:
            data = data[: self.room]
            self.room -= len(data)
            if not data:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(descriptor, data)


def found(bench, files):
    """End the process and return what a reader of its files finds."""
    path = files._log.folder.path
    bench.crash(files)
    return states(put.entry for put in read(path))


def test_construction_is_inert(bench):
    """Nothing is made before `open`."""
    files: Keeper = bench.make()

    assert not bench.root.exists()
    assert not files.is_durable


def test_only_the_user_may_read_the_files(bench):
    """Folders are 0700, files 0600, and no descriptor is inherited by programs."""
    files = bench.open()
    files.put(register())

    folder = files._log.folder
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (bench.root, folder.path)]

    assert modes == [0o700, 0o700]
    assert [stat.S_IMODE(p.stat().st_mode) for p in bench.segments()] == [0o600]
    assert not os.get_inheritable(folder.descriptor)
    assert not os.get_inheritable(files._log._segment.descriptor)


def test_what_is_put_is_in_the_files_at_once(bench):
    """Without a close, as after SIGKILL."""
    files = bench.open()
    entries = [register("a"), delta(), posting()]

    for entry in entries:
        files.put(entry)

    assert files.is_durable
    assert files.reason is None
    assert found(bench, files) == states(entries)


def test_what_is_dropped_is_not(bench):
    """While others are live the drop is a record of its own."""
    files = bench.open()
    for entry in (kept := register("a"), gone := posting()):
        files.put(entry)

    files.drop(gone)

    assert found(bench, files) == [state(kept)]


def test_a_drop_leaves_the_newer_write(bench):
    """It may arrive when a later write has taken its place."""
    files = bench.open()
    files.put(older := register(stamp=1))
    files.put(newer := register(stamp=2))

    files.drop(older)

    assert found(bench, files) == [state(newer)]


def test_without_entries_the_same_file_is_empty_again(bench):
    """An outage with one entry makes and removes no files."""
    files = bench.open()
    before = bench.segments()
    size = before[0].stat().st_size

    for _ in range(5):
        files.put(register())
        files.drop(register())

    assert bench.segments() == before
    assert before[0].stat().st_size == size


def test_a_closed_journal_without_entries_leaves_nothing(bench):
    """Folders do not pile up."""
    files = bench.open()
    files.put(register())
    files.drop(register())

    files.close()
    files.close()

    assert bench.folders() == []
    assert not files.is_durable


def test_a_closed_journal_with_entries_stays(bench):
    """They are for the next process."""
    files = bench.open()
    files.put(entry := register())

    files.close()

    assert states(bench.adopted()) == [state(entry)]


def test_after_its_end_nothing_is_written(bench):
    """A late put or drop is not an error."""
    files = bench.open()
    files.close()

    files.put(register())
    files.drop(register())

    assert bench.folders() == []


def test_segments_turn_over_and_the_dead_ones_go(bench):
    """The oldest goes when nothing in it is live."""
    files = bench.open(segment_bytes=1_000)
    names = [f"k{n}" for n in range(60)]

    for name in names:
        files.put(register(name))
    many = len(bench.segments())
    for name in names[:-1]:
        files.drop(register(name))

    assert many >= 4
    assert len(bench.segments()) <= 2
    assert found(bench, files) == [state(register(names[-1]))]


def test_files_stay_near_what_is_live(bench):
    """Rewriting one key for ever does not fill the disk, nor lose the quiet ones."""
    files = bench.open(segment_bytes=4_000)
    quiet = [register(f"quiet{n}") for n in range(40)]
    for entry in quiet:
        files.put(entry)
    most = 0

    for stamp in range(2_000, 4_000):
        files.put(register("busy", stamp))
        most = max(most, sum(path.stat().st_size for path in bench.segments()))

    assert most < 6 * files._log.live_bytes + 4_000
    assert found(bench, files) == [*states(quiet), state(register("busy", 3_999))]


def test_order_survives_compaction(bench):
    """Postings come back in the order in which they were accepted."""
    files = bench.open(segment_bytes=600)
    entries = [posting(f"m{n}") for n in range(4)]
    for entry in entries[:2]:
        files.put(entry)
    for stamp in range(1, 100):
        files.put(register(stamp=stamp))  # moves the first two to the end
    for entry in entries[2:]:
        files.put(entry)

    left = found(bench, files)

    assert [one for one in left if one in states(entries)] == states(entries)


def test_a_record_larger_than_a_segment_has_one_of_its_own(bench):
    """There is no value that does not fit."""
    files = bench.open(segment_bytes=1_000)
    entries = [register("a"), register("b", value=b"x" * 5_000), register("c")]

    for entry in entries:
        files.put(entry)

    assert len(bench.segments()) == 3
    assert found(bench, files) == states(entries)


# --- synchronising --------------------------------------------------------------------


class Sync:
    """Remembers what was synchronised, in what order."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __call__(self, descriptor: int) -> None:
        mode = os.fstat(descriptor).st_mode
        self.calls.append("folder" if stat.S_ISDIR(mode) else "file")
        os.fsync(descriptor)


async def test_never_synchronises_never(bench):
    """Not even at the end."""
    files = bench.open(sync=(sync := Sync()))
    files.put(register())

    await files.committed()
    files.close()

    assert sync.calls == []


async def test_always_synchronises_before_it_returns(bench):
    """`committed` returns after the file and its name are on the disk."""
    files = bench.open(fsync="always", sync=(sync := Sync()))
    sync.calls.clear()
    files.put(register())
    before = list(sync.calls)

    await files.committed()

    assert before == []
    assert sync.calls == ["file", "folder"]


async def test_always_shares_one_synchronisation_per_tick(bench):
    """A hundred callers cost one stall, and none returns before it."""
    files = bench.open(fsync="always", sync=(sync := Sync()))
    order: list[str] = sync.calls

    async def write(number: int) -> None:
        files.put(register(f"k{number}"))
        await files.committed()
        order.append("returned")

    async with asyncio.TaskGroup() as tasks:
        for number in range(100):
            tasks.create_task(write(number))

    assert order.count("file") == 1
    assert order.index("file") < order.index("returned")


async def test_a_cancelled_caller_leaves_the_others_their_synchronisation(bench):
    """It shares the future, it does not own it."""
    files = bench.open(fsync="always", sync=(sync := Sync()))
    files.put(register())

    async with asyncio.TaskGroup() as tasks:
        cancelled = tasks.create_task(files.committed())
        tasks.create_task(files.committed())
        await asyncio.sleep(0)
        cancelled.cancel()

    assert sync.calls.count("file") == 1


async def test_closing_releases_who_waits(bench):
    """After a last synchronisation."""
    files = bench.open(fsync="always", sync=(sync := Sync()))
    files.put(register())

    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(files.committed())
        await asyncio.sleep(0)
        files.close()

    assert waiting.done()
    assert sync.calls.count("file") == 1


async def test_interval_synchronises_once_for_many(bench):
    """One timer, which the journal owns and `close` cancels."""
    loop = asyncio.get_running_loop()
    files = bench.open(fsync="interval", sync=(sync := Sync()))
    done = loop.create_future()
    sync.calls.clear()
    began = loop.time()
    for number in range(10):
        files.put(register(f"k{number}"))

    loop.call_later(0.15, done.set_result, None)
    await files.committed()
    instantly = loop.time() - began
    await done

    assert instantly < 0.1
    assert sync.calls == ["file", "folder"]
    files.put(register())
    files.close()
    assert sync.calls.count("file") == 2


def test_interval_outside_of_a_loop_synchronises_at_once(bench):
    """Nobody would come back for it."""
    files = bench.open(fsync="interval", sync=(sync := Sync()))

    files.put(register())

    assert sync.calls.count("file") == 1


def test_what_replaces_is_safe_before_the_old_is_removed(bench):
    """With `always`, no segment goes while what was moved is unsynchronised."""
    events: list[str] = []
    files = bench.open(
        fsync="always", segment_bytes=1_000, sync=lambda _: events.append("sync")
    )
    files.put(register("quiet"))
    folder = files._log.folder
    remove = folder.remove_segment

    def remove_segment(number: int) -> None:
        events.append("dirty" if files._log.is_dirty else "removed")
        remove(number)

    folder.remove_segment = remove_segment
    for stamp in range(500):
        files.put(register("busy", stamp))

    assert "removed" in events
    assert "dirty" not in events


# --- failure --------------------------------------------------------------------------


def test_a_full_disk_is_no_error(bench):
    """The journal goes on in memory; health says why and what to do, the log once."""
    disk = Disk()
    files = bench.open(write=disk.write)
    files.put(kept := register("a"))
    disk.room = 30

    with capture_logs() as logs:
        files.put(register("b"))
        files.put(register("c"))
        files.drop(register("c"))

    assert not files.is_durable
    assert "REDIS_CREW_JOURNAL_DIR" in files.reason
    assert "ENOSPC" in files.reason
    assert "free some space" in files.reason
    assert [line["event"] for line in logs] == ["journal.disk_failed"]
    assert found(bench, files) == [state(kept)]


async def test_a_disk_that_has_room_again_gets_everything(bench):
    """Every 5 s, with a later put, all live entries go to a new file."""
    disk = Disk()
    files = bench.open(write=disk.write)
    files.put(a := register("a"))
    disk.error = errno.ENOSPC
    files.put(b := register("b"))
    files.drop(a)
    disk.error = 0
    files.put(c := register("c"))
    too_early = files.is_durable
    await bench.clock.advance(5.0)
    bench.live = [b, c, d := register("d")]

    with capture_logs() as logs:
        files.put(d)

    assert not too_early
    assert files.is_durable
    assert files.reason is None
    assert [line["event"] for line in logs] == ["journal.disk_recovered"]
    assert len(bench.segments()) == 1
    assert found(bench, files) == states([b, c, d])


async def test_a_retry_in_vain_leaves_the_old_files(bench):
    """What was written before the disk was full is still there."""
    disk = Disk()
    files = bench.open(write=disk.write)
    files.put(a := register("a"))
    disk.room = 0
    files.put(b := register("b"))
    await bench.clock.advance(5.0)
    bench.live = [a, b]
    disk.room = 150  # for the header and a part

    with capture_logs() as logs:
        files.put(b)

    assert not files.is_durable
    assert logs == []
    assert len(bench.segments()) == 1
    assert found(bench, files) == [state(a)]


async def test_closing_after_a_retry_in_vain_leaves_the_old_files(bench):
    """What a rewriting has not reached counts as live."""
    disk = Disk()
    files = bench.open(write=disk.write)
    files.put(a := register("a"))
    disk.error = errno.ENOSPC
    files.put(b := register("b"))
    await bench.clock.advance(5.0)
    bench.live = [a, b]
    files.put(b)

    files.close()

    assert states(bench.adopted()) == [state(a)]


def test_a_write_that_was_cut_short_is_undone(bench):
    """The file is as long as before."""
    disk = Disk()
    files = bench.open(write=disk.write)
    files.put(register("a"))
    [segment] = bench.segments()
    size = segment.stat().st_size
    disk.room = 30

    files.put(register("b"))

    assert segment.stat().st_size == size


async def test_a_rewriting_removes_the_old_when_all_is_written(bench):
    """However many segments it needs."""
    disk = Disk()
    files = bench.open(fsync="always", segment_bytes=300, write=disk.write)
    bench.live = [register(f"k{n}") for n in range(20)]
    for entry in bench.live:
        files.put(entry)
    disk.error = errno.EIO
    files.put(bench.live[0])
    disk.error = 0
    await bench.clock.advance(5.0)
    written: list[tuple[int, bool]] = []
    remove = files._log.folder.remove_segment

    def remove_segment(number: int) -> None:
        written.append((len(files._log._kept), files._log.is_dirty))
        remove(number)

    files._log.folder.remove_segment = remove_segment
    files.put(bench.live[0])

    assert files.is_durable
    assert set(written) == {(20, False)}


async def test_removed_files_are_noticed_and_made_again(bench):
    """A write to a removed file succeeds and is lost: that is not durable."""
    files = bench.open()
    files.put(a := register("a"))
    for path in bench.segments():
        path.unlink()
    files._log.folder.path.rmdir()
    bench.root.rmdir()

    files.put(b := register("b"))
    reason = files.reason
    await bench.clock.advance(5.0)
    bench.live = [a, b]
    files.put(b)

    assert "ENOENT" in reason
    assert files.is_durable
    assert found(bench, files) == states([a, b])


async def test_a_failed_synchronisation_is_a_failed_disk(bench):
    """The kernel tells it once: the next success would say nothing about this one."""
    error = OSError(errno.EIO, os.strerror(errno.EIO))
    calls: list[int] = []

    def sync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise error

    files = bench.open(fsync="always", sync=sync)
    files.put(register())
    with capture_logs() as logs:
        await files.committed()
        await files.committed()

    assert "EIO" in files.reason
    assert len(calls) == 2
    assert [line["event"] for line in logs] == ["journal.disk_failed"]


def test_a_disk_that_is_full_at_the_start_is_no_error(bench):
    """The process starts; its journal is in memory."""
    disk = Disk()
    disk.error = errno.ENOSPC

    with capture_logs() as logs:
        files = bench.open(write=disk.write)
        files.put(register())

    assert "ENOSPC" in files.reason
    assert [line["event"] for line in logs] == ["journal.disk_failed"]
    assert bench.folders() == []


def test_a_directory_that_is_none_is_a_wrong_setting(bench):
    """The message names the variable."""
    bench.root.write_text("a file")

    with pytest.raises(ConfigurationError, match="REDIS_CREW_JOURNAL_DIR"):
        bench.open()


# --- fork -----------------------------------------------------------------------------


def in_child(act) -> int:
    """Run `act` in a forked child; return its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = act()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forked_child_leaves_its_parents_files_alone(bench):
    """It neither writes, nor removes, nor unlocks."""
    files = bench.open()
    files.put(entry := register())

    def act() -> int:
        durable = files.is_durable
        files.put(register("b"))
        files.drop(entry)
        files.close()
        return int(durable or "forked" not in files.reason)

    code = in_child(act)
    other = bench.open()
    offered: list[object] = []
    other.adopt(lambda one: offered.append(one) or True)

    assert code == 0
    assert offered == []
    assert files.is_durable
    assert found(bench, files) == [state(entry)]
