"""Laws of the journal's files: any history, cut or damaged anywhere."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mcp_crew_redis.store.journal.adoption import LeftAloneError, read_journal
from mcp_crew_redis.store.journal.entries import Delta, Entry, Posting, Register
from mcp_crew_redis.store.journal.folder import JournalFolder
from mcp_crew_redis.store.journal.records import decode, encode_put, identify, read_body
from tests.unit.journal.parts import TARGET, Bench, by_identity, state

words = st.text(max_size=4) | st.just("\udce9")
numbers = st.integers(-(2**63), 2**63 - 1)
flags = st.booleans()

registers = st.builds(
    Register,
    key=st.sampled_from([b"a", b"b", b"c"]),
    tenant_id=words,
    sealed=st.binary(max_size=60),
    stamp=st.integers(0, 9),
    expires_at_ms=numbers,
    is_tombstone=flags,
    is_uncertain=flags,
    is_wall_time=flags,
    since_us=numbers,
    trouble=words,
)
deltas = st.builds(
    Delta,
    key=st.sampled_from([b"a", b"n"]),
    tenant_id=words,
    writer=st.sampled_from(["w1", "w2"]),
    sequence=st.integers(1, 2),
    amount=numbers,
    ttl_ms=numbers,
    made_us=numbers,
    is_frozen=flags,
    frozen_us=numbers,
    is_wall_time=flags,
    trouble=words,
)
postings = st.builds(
    Posting,
    id=st.sampled_from(["m1", "m2", "m3"]),
    tenant_id=words,
    kind=words,
    order_key=st.binary(max_size=4),
    body=st.binary(max_size=60),
    made_us=numbers,
    is_wall_time=flags,
    trouble=words,
)
entries = registers | deltas | postings
histories = st.lists(st.tuples(st.booleans(), entries), max_size=40)


class Model:
    """What must be live, written as plainly as possible."""

    def __init__(self) -> None:
        self.live: dict[object, Entry] = {}

    def do(self, is_put: bool, entry: Entry) -> None:  # noqa: FBT001 - as it is drawn
        name = identify(entry)
        if is_put:
            self.live[name] = entry
            return
        known = self.live.get(name)
        is_newer = isinstance(known, Register) and known.stamp > entry.stamp
        if known is not None and not is_newer:
            del self.live[name]

    def states(self) -> dict[object, tuple[object, ...]]:
        return by_identity(self.live.values())


@contextmanager
def a_bench(**options):
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), **options)
        try:
            yield bench
        finally:
            bench.close()


def play(files, history):
    for is_put, entry in history:
        (files.put if is_put else files.drop)(replace(entry))


def live_in(path):
    with JournalFolder.claim(path) as folder:
        return by_identity(put.entry for put in read_journal(folder, TARGET).puts)


@given(entries, st.integers(0, 2**63))
def test_every_entry_survives(entry, place):
    """Every field, whatever it is."""
    record = encode_put(entry, place)
    at = iter((record[:8], record[8:]))

    put = decode(read_body(lambda _: next(at), len(record)))

    assert (state(put.entry), put.place) == (state(entry), place)


@settings(max_examples=200)
@given(histories, st.sampled_from([120, 400, 8_000]))
def test_files_replay_to_what_is_live(history, segment_bytes):
    """Whatever was compacted, turned over and removed meanwhile."""
    model = Model()
    with a_bench(segment_bytes=segment_bytes) as bench:
        files = bench.open()
        play(files, history)
        for is_put, entry in history:
            model.do(is_put, entry)
        path = files._log.folder.path
        bench.crash(files)

        assert live_in(path) == model.states()


@settings(max_examples=100)
@given(histories, st.data())
def test_cut_at_any_byte_they_replay_to_what_was_written(history, data):
    """A kill in the middle of a write loses that write and no other."""
    with a_bench() as bench:
        files = bench.open()
        path = files._log.folder.path
        sizes = [files._log.total_bytes]
        models = [{}]
        model = Model()
        # A put that stays live: the file is never emptied, so its end is its past.
        for is_put, entry in [(True, last_one()), *history]:
            play(files, [(is_put, entry)])
            model.do(is_put, entry)
            sizes.append(files._log.total_bytes)
            models.append(model.states())
        bench.crash(files)
        cut = data.draw(st.integers(sizes[0], sizes[-1]))
        [segment] = path.iterdir()
        segment.write_bytes(segment.read_bytes()[:cut])

        whole = max(n for n, size in enumerate(sizes) if size <= cut)

        assert live_in(path) == models[whole]


def last_one() -> Posting:
    return Posting(
        id="stays", tenant_id="t", kind="k", order_key=b"", body=b"", made_us=0
    )


@settings(max_examples=200)
@given(histories, st.data())
def test_a_flipped_byte_yields_nothing_that_was_not_put(history, data):
    """What is read is a state that was put, or the journal is refused."""
    with a_bench(segment_bytes=300) as bench:
        files = bench.open()
        path = files._log.folder.path
        play(files, history)
        bench.crash(files)
        segment = data.draw(st.sampled_from(sorted(path.iterdir())))
        content = bytearray(segment.read_bytes())
        where = data.draw(st.integers(0, len(content) - 1))
        content[where] ^= data.draw(st.integers(1, 255))
        segment.write_bytes(content)

        try:
            found = live_in(path)
        except LeftAloneError:
            return

    ever_put = [state(entry) for is_put, entry in history if is_put]
    assert all(one in ever_put for one in found.values())


class Died(BaseException):
    """The process is killed before its next system call."""


@contextmanager
def dying(calls):
    """Let so many changes of files happen, then end the process within the block."""
    left = [calls]

    def counted(change):
        def call(*args, **keywords):
            left[0] -= 1
            if left[0] < 0:
                raise Died
            return change(*args, **keywords)

        return call

    with ExitStack() as stack:
        for name in ("open", "write", "ftruncate", "unlink", "rmdir", "mkdir"):
            stack.enter_context(patch.object(os, name, counted(getattr(os, name))))
        # Nobody looks at the log of so many adoptions.
        stack.enter_context(capture_logs())
        with suppress(Died):
            yield counted(os.write)


@settings(max_examples=300)
@given(histories, st.data(), st.sampled_from(["never", "always"]))
def test_death_between_any_two_system_calls_loses_nothing(history, data, fsync):
    """No compaction and no adoption has a moment in which an entry is nowhere."""
    model, after = Model(), Model()
    with a_bench(segment_bytes=200, fsync=fsync) as bench:
        first = bench.make()
        with dying(data.draw(st.integers(0, 120))) as write:
            first._write = write
            first.open()
            for is_put, entry in history:
                after.do(is_put, entry)
                play(first, [(is_put, entry)])
                model.do(is_put, entry)
        bench.crash(first)
        heir = bench.make()
        with dying(data.draw(st.integers(0, 120))) as write:
            heir._write = write
            heir.open()
            heir.adopt(lambda _: True)
        bench.crash(heir)

        with capture_logs():
            found = by_identity(bench.adopted())

    before, now = model.states(), after.states()
    certain = {name: one for name, one in before.items() if now.get(name) == one}
    ever_put = [state(entry) for is_put, entry in history if is_put]
    assert {name: found.get(name) for name in certain} == certain
    assert all(one in ever_put for one in found.values())
