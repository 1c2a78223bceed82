"""The journal's files among processes that die and on disks that are full."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.rig.waiting import wait_until_blocking
from tests.unit.journal.parts import Bench, posting, register, state, states

WRITER = Path(__file__).parent / "journal_writer.py"


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path / "journals")
    yield made
    made.close()


def start(what, root, fsync="never"):
    return subprocess.Popen(
        [sys.executable, WRITER, what, root, fsync],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("fsync", ["never", "interval", "always"])
@pytest.mark.parametrize("count", [1, 60, 400])
def test_a_killed_process_loses_nothing_for_which_put_has_returned(bench, fsync, count):
    """SIGKILL in a loop of puts, drops, new segments and compactions."""
    with start("fill", bench.root, fsync) as writer:
        told = [writer.stdout.readline().strip() for _ in range(count)]
        writer.kill()
        told += writer.stdout.read().split("\n")[:-1]

    found = {entry.id for entry in bench.adopted()}

    assert len(told) >= count
    assert set(told) <= found


def test_processes_that_start_at_once_adopt_each_journal_once(bench):
    """No entry is offered to two of them, and none to nobody."""
    names = [f"{journal}-{n}" for journal in range(30) for n in range(3)]
    for journal in range(30):
        bench.left(*(posting(f"{journal}-{n}") for n in range(3)))

    with ExitStack() as stack:
        heirs = [stack.enter_context(start("adopt", bench.root)) for _ in range(4)]
        for heir in heirs:
            assert heir.stdout.readline() == "ready\n"
        for heir in heirs:
            heir.stdin.write("go\n")
            heir.stdin.flush()
        offered = [list(iter(heir.stdout.readline, "done\n")) for heir in heirs]
        for heir in heirs:
            heir.stdin.close()

    taken = [name.strip() for each in offered for name in each]
    assert sorted(taken) == sorted(names)


def test_a_limit_on_files_leaves_what_was_written(bench):
    """A real error of a real kernel: EFBIG, from `ulimit -f`."""
    with start("overflow", bench.root) as writer:
        count, reason = writer.stdout.read().splitlines()

    found = bench.adopted()

    assert "EFBIG" in reason
    assert "ulimit" in reason
    assert [entry.id for entry in found] == [str(n) for n in range(int(count) - 1)]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB, where this user may make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", "size=256k", "tmpfs", disk]
    if os.geteuid() != 0 or mount is None:
        pytest.skip("only root can mount a file system")
    done = subprocess.run([mount, *options], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("this machine does not let root mount a file system")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


async def test_a_full_disk_is_filled_again_when_it_has_room(bench, small_disk):
    """A real ENOSPC: in memory meanwhile, and nothing is missing afterwards."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(100_000))
    bench.root = small_disk / "journals"
    files = bench.open()
    while files.is_durable:
        name = f"k{len(bench.live)}"
        bench.live.append(register(name, value=os.urandom(1_000)))
        files.put(bench.live[-1])
    reason = files.reason
    await bench.clock.advance(5.0)
    files.put(bench.live[-1])
    still = files.is_durable

    ballast.unlink()
    for entry in bench.live[20:]:
        files.drop(entry)
    del bench.live[20:]
    await bench.clock.advance(5.0)
    files.put(bench.live[0])
    is_durable = files.is_durable
    bench.crash(files)

    assert "ENOSPC" in reason
    assert (still, is_durable) == (False, True)
    assert states(bench.adopted()) == [state(entry) for entry in bench.live]


async def test_always_has_synchronised_when_it_returns(bench):
    """Whatever was put before has been synchronised, by its size, at each return."""
    safe: dict[int, int] = {}

    def sync(descriptor: int) -> None:
        os.fsync(descriptor)
        found = os.fstat(descriptor)
        safe[found.st_ino] = found.st_size

    files = bench.open(fsync="always", segment_bytes=2_000, sync=sync)
    for number in range(100):
        files.put(register(f"k{number}"))
        await files.committed()

        on_disk = {path.stat() for path in bench.segments()}
        assert {found.st_ino: found.st_size for found in on_disk}.items() <= (
            safe.items()
        )


def test_journals_survive_a_reader_that_is_killed(bench):
    """Adopted again by the next one: the old files went last."""
    names = [f"m{n}" for n in range(50)]
    bench.left(*(posting(name) for name in names))
    heir = start("adopt", bench.root)
    with heir:
        heir.stdin.write("go\n")
        heir.stdin.flush()
        wait_until_blocking(
            lambda: len(bench.folders()) == 1, "the old journal is removed"
        )
        heir.kill()

    assert [entry.id for entry in bench.adopted()] == names
