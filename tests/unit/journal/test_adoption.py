"""Adoption: what the dead left is taken once, and what is not ours is left alone."""

from __future__ import annotations

import os
import tracemalloc

import pytest
from structlog.testing import capture_logs

from mcp_crew_redis.store.journal.adoption import Adoption
from mcp_crew_redis.store.journal.folder import JournalFolder
from mcp_crew_redis.store.journal.records import PREAMBLE, encode_put
from tests.unit.journal.parts import delta, posting, read, register, state, states

TAKE_ALL = [True] * 100


def adopt(files, answers=TAKE_ALL):
    """Adopt with these answers; return what was offered, and the counts."""
    offered: list[object] = []
    script = iter(answers)

    def take(entry):
        offered.append(state(entry))
        return next(script)

    return offered, files.adopt(take)


def test_every_entry_of_a_dead_process_is_offered(bench):
    """In the order in which it accepted them."""
    entries = [register("a"), posting("m1"), delta(), posting("m2")]
    bench.left(*entries)
    files = bench.open()

    offered, counts = adopt(files)

    assert offered == states(entries)
    assert counts == Adoption(journal_count=1, taken_count=4)
    assert bench.folders() == [files._log.folder.name]


def test_what_is_taken_is_in_the_own_files(bench):
    """The adopter may die at once."""
    entry = register()
    bench.left(entry)
    files = bench.open()

    adopt(files)
    bench.crash(files)

    assert states(bench.adopted()) == [state(entry)]


def test_what_is_taken_is_written_before_the_old_goes(bench, monkeypatch):
    """Dying between the two means adopting again, nothing more."""
    entry = register()
    bench.left(entry)
    files = bench.open(fsync="always")
    seen: list[object] = []

    def remove(folder):
        seen.append(files._log.is_dirty)
        seen.append(states(one.entry for one in files._log._kept.values()))

    monkeypatch.setattr(JournalFolder, "remove", remove)
    adopt(files)

    assert seen == [False, [state(entry)]]
    assert len(bench.folders()) == 2


def test_a_living_process_keeps_its_journal(bench):
    """Its lock says that it lives."""
    alive = bench.open()
    alive.put(register())

    offered, counts = adopt(bench.open())

    assert offered == []
    assert counts == Adoption()


def test_an_empty_journal_is_removed(bench):
    """Of a process that died without pending entries."""
    bench.left()
    files = bench.open()

    offered, counts = adopt(files)

    assert offered == []
    assert counts == Adoption(journal_count=1)
    assert len(bench.folders()) == 1


def test_what_does_not_fit_stays_for_later(bench):
    """And is offered without what was taken."""
    entries = [register(name) for name in "abc"]
    bench.left(*entries)
    files = bench.open()

    _, counts = adopt(files, [True, False])
    offered, later = adopt(files)

    assert counts == Adoption(taken_count=1, left_count=2)
    assert offered == states(entries[1:])
    assert later == Adoption(journal_count=1, taken_count=2)


def test_a_newer_own_write_is_not_replaced(bench):
    """`take` accepts an older write of a key by doing nothing."""
    bench.left(register(stamp=1))
    files = bench.open()
    files.put(newer := register(stamp=2))
    path = files._log.folder.path

    adopt(files)
    bench.crash(files)

    assert states(put.entry for put in read(path)) == [state(newer)]


def test_a_take_that_puts_is_not_put_again(bench):
    """The journal in memory merges, and puts what came of it."""
    bench.left(delta(sequence=7, amount=3))
    files = bench.open()
    merged = delta(sequence=1, amount=5)
    path = files._log.folder.path

    files.adopt(lambda _: files.put(merged) or True)
    bench.crash(files)

    assert states(put.entry for put in read(path)) == [state(merged)]


def test_a_full_disk_of_our_own_leaves_the_old_files(bench):
    """Nothing is removed that is not written."""

    def write(descriptor, data):
        if len(data) > 150:
            raise OSError(28, "No space left on device")
        return os.write(descriptor, data)

    entries = [register("a"), register("b", value=b"x" * 200), register("c")]
    path = bench.left(*entries)
    files = bench.open(write=write)

    _, counts = adopt(files)

    assert counts.journal_count == 0
    assert counts.left_count == 1
    assert states(put.entry for put in read(path)) == states(entries)


# --- left alone -----------------------------------------------------------------------


def test_another_target_is_left_alone(bench):
    """Its entries belong to another server, database or prefix. Said once."""
    path = bench.left(register(), target="another")
    files = bench.open()

    with capture_logs() as logs:
        offered, counts = adopt(files)
        adopt(files)

    assert offered == []
    assert counts == Adoption(other_target_count=1)
    assert [(line["event"], line["cause"]) for line in logs] == [
        ("journal.left_alone", "other_target")
    ]
    assert path.exists()


def test_a_newer_format_is_left_alone(bench):
    """By its version, whatever follows it."""
    path = bench.left(register())
    segment = next(path.iterdir())
    written = segment.read_bytes()
    segment.write_bytes(written[:7] + b"\x02" + written[8:])

    offered, counts = adopt(bench.open())

    assert offered == []
    assert counts == Adoption(newer_count=1)
    assert path.exists()


def test_a_record_of_a_newer_release_leaves_the_journal_alone(bench, monkeypatch):
    """Even one behind others that could be read."""
    path = bench.left(register())
    record = bytearray(encode_put(register("b"), 1))
    monkeypatch.setattr(
        "mcp_crew_redis.store.journal.records._MEMBERS", {0: (str, str, int, int)}
    )
    with next(path.iterdir()).open("ab") as file:
        file.write(record)

    offered, counts = adopt(bench.open())

    assert offered == []
    assert counts == Adoption(newer_count=1)


def test_links_are_not_followed(bench, tmp_path):
    """Neither a folder nor a segment."""
    path = bench.left(register())
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    other = bench.left(register("b"))
    segment = next(other.iterdir())
    segment.rename(tmp_path / "segment")
    segment.symlink_to(tmp_path / "segment")

    offered, counts = adopt(bench.open())

    assert offered == []
    assert counts == Adoption(unreadable_count=2)
    assert path.is_symlink()
    assert segment.is_symlink()


def test_a_named_pipe_does_not_block(bench):
    """Opening it would wait for a writer for ever."""
    path = bench.left(register())
    segment = next(path.iterdir())
    segment.unlink()
    os.mkfifo(segment)

    _, counts = adopt(bench.open())

    assert counts == Adoption(unreadable_count=1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("what", ["folder", "segment"])
def test_another_users_files_are_not_read(bench, what):
    """Not even by root: it would write for another with its own rights."""
    path = bench.left(register())
    os.chown(path if what == "folder" else next(path.iterdir()), 12_345, 12_345)

    offered, counts = adopt(bench.open())

    assert offered == []
    assert counts == Adoption(unreadable_count=1)


def test_other_files_in_the_directory_are_not_touched(bench):
    """Whatever they are."""
    bench.root.mkdir()
    (bench.root / "notes.txt").write_text("mine")
    (bench.root / "folder").mkdir()
    files = bench.open()

    _, counts = adopt(files)

    assert counts == Adoption()
    assert (bench.root / "notes.txt").read_text() == "mine"


# --- damage ---------------------------------------------------------------------------


def test_a_torn_end_is_cut_and_told(bench):
    """What stands before it is taken."""
    entries = [register("a"), register("b")]
    path = bench.left(*entries)
    segment = next(path.iterdir())
    segment.write_bytes(segment.read_bytes()[:-3])
    files = bench.open()

    with capture_logs() as logs:
        offered, counts = adopt(files)

    size = len(encode_put(entries[1], 1))
    assert offered == [state(entries[0])]
    assert counts == Adoption(journal_count=1, taken_count=1, cut_bytes=size - 3)
    assert [line["event"] for line in logs] == ["journal.damaged", "journal.adopted"]
    assert logs[0]["cut_bytes"] == size - 3


def test_later_segments_are_read_behind_a_damaged_one(bench):
    """A record is a state of its own: it needs none before it."""
    entries = [register(f"k{n}") for n in range(12)]
    path = bench.left(*entries, segment_bytes=400)
    first = min(path.iterdir())
    first.write_bytes(first.read_bytes()[:-3])

    offered, _ = adopt(bench.open())

    assert len(offered) == len(entries) - 1


def test_a_file_torn_when_it_was_made_is_removed(bench):
    """Shorter than its preamble, or zeros after a power cut."""
    for damage in (b"", PREAMBLE[:4], bytes(4_096), PREAMBLE):
        path = bench.left(register())
        next(path.iterdir()).write_bytes(damage)
    files = bench.open()

    offered, counts = adopt(files)

    assert offered == []
    assert counts.journal_count == 4
    assert len(bench.folders()) == 1


def test_a_hostile_length_costs_no_memory(bench):
    """A length of 4 GiB in a sparse file of 8 GiB."""
    path = bench.left(entry := register())
    segment = next(path.iterdir())
    with segment.open("ab") as file:
        file.write(b"\xff" * 8)
        file.truncate(2**33)
    files = bench.open()

    tracemalloc.start()
    try:
        offered, counts = adopt(files)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert offered == [state(entry)]
    assert counts.cut_bytes > 2**32
    assert peak < 2**20


# --- locks ----------------------------------------------------------------------------


def test_a_lock_on_a_removed_folder_counts_for_nothing(bench, monkeypatch):
    """Who opened it before another adopted it has locked a folder of the past."""
    path = bench.left(register())
    lock = JournalFolder._lock

    def after_another(folder):
        monkeypatch.setattr(JournalFolder, "_lock", lock)
        assert len(bench.adopted()) == 1  # opened by us, not yet locked
        return lock(folder)

    monkeypatch.setattr(JournalFolder, "_lock", after_another)

    assert JournalFolder.claim(path) is None
    assert not path.exists()


def test_a_lock_on_a_replaced_folder_counts_for_nothing(bench, monkeypatch):
    """The name is another folder's by now."""
    path = bench.left(register())
    lock = JournalFolder._lock

    def after_another(folder):
        path.rename(bench.root / "gone")
        path.mkdir()
        return lock(folder)

    monkeypatch.setattr(JournalFolder, "_lock", after_another)

    assert JournalFolder.claim(path) is None


def test_a_folder_that_is_taken_away_while_it_is_made_is_made_again(bench, monkeypatch):
    """An adopter may see it before its owner has locked it."""
    claim = JournalFolder.claim
    stolen: list[object] = []

    def after_an_adopter(path):
        if not stolen:
            stolen.append(path)
            with claim(path) as folder:
                folder.remove()
        return claim(path)

    monkeypatch.setattr(JournalFolder, "claim", after_an_adopter)

    files = bench.open()

    assert files.is_durable
    assert [files._log.folder.path] != stolen


def test_the_lock_is_free_when_the_owner_has_closed(bench):
    """Entries of a process that ended in order are adopted too."""
    files = bench.open()
    files.put(entry := register())
    files.close()

    assert states(bench.adopted()) == [state(entry)]
