"""The public server for tests: it breaks as it says, heals, and leaves nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from mcp_crew_redis import CrewRedis
from mcp_crew_redis.errors import (
    ConfigurationError,
    ConnectionLostError,
    DataError,
    LifecycleError,
    OperationTimeoutError,
)
from mcp_crew_redis.testing import LocalServer
from tests.integration.core.bench import outcome, wire
from tests.rig.binaries import find_binary
from tests.rig.waiting import wait_until

KINDS = ("valkey", "redis8", "debian")


@pytest.fixture
async def local():
    async with LocalServer() as server:
        yield server


@pytest.fixture(params=KINDS)
async def every_local(request):
    if (binary := find_binary(request.param)) is None:
        pytest.skip(f"no {request.param} server on this machine")
    async with LocalServer(binary=binary) as server:
        yield server


def is_alive(pid):
    """Whether a process of that id runs; one that nobody has reaped does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def folder_of(server):
    return Path(server.unix_socket).parent


# --- life ---------------------------------------------------------------------
async def test_a_server_serves_and_is_gone_with_its_block(every_local):
    """Every kind of server is started, found ready, and ended."""
    async with LocalServer() as server:
        await server.execute("SET", "k", "v")
        assert await server.execute("GET", "k") == b"v"
        pid, folder = server.pid, folder_of(server)

    assert not is_alive(pid)
    assert not folder.exists()
    assert await every_local.execute("PING") == b"PONG"


async def test_a_crew_runs_on_its_settings(local, monkeypatch):
    """What the environment names is another server."""
    monkeypatch.setenv("REDIS_CREW_PORT", "1")
    monkeypatch.setenv("REDIS_CREW_URL", "redis://elsewhere.invalid:1")

    async with CrewRedis(local.settings(prefix="mine:")) as crew:
        await crew.redis.set("k", "v")

    assert await local.execute("GET", "k") == b"v"


async def test_outside_its_block_there_is_no_address():
    """Not a path in the current folder."""
    server = LocalServer()

    for ask in (lambda: server.unix_socket, server.settings, lambda: server.pid):
        with pytest.raises(LifecycleError):
            ask()


async def test_a_server_on_tcp_is_reached_by_port():
    """Settings and keyword arguments lead to the same port after a restart too."""
    async with LocalServer(tcp=True) as server:
        await server.restart()
        async with wire(server.client_kwargs) as client:
            assert await client.set("k", "v")
        async with CrewRedis(server.settings()) as crew:
            assert await crew.redis.get("k") == b"v"


async def test_a_killed_server_starts_again_with_what_it_answered(local):
    """Nothing that was answered is lost by SIGKILL."""
    pid = local.pid
    for number in range(50):
        await local.execute("SET", f"k{number}", number)
    await local.kill()
    assert not is_alive(pid)
    assert isinstance(await outcome(local.execute("PING")), ConnectionLostError)

    await local.start()

    assert await local.execute("DBSIZE") == 50
    assert local.pid != pid


async def test_a_restart_without_data_is_empty(local):
    """As after a lost disk."""
    await local.execute("SET", "k", "v")

    await local.restart(keep_data=False)

    assert await local.execute("DBSIZE") == 0


async def test_a_server_without_a_file_cannot_keep_data():
    """Asking for it is a mistake of the test, and said."""
    async with LocalServer(append_only=False) as server:
        with pytest.raises(ConfigurationError, match="append_only"):
            await server.restart()
        with pytest.raises(ConfigurationError, match="append_only"):
            _ = server.aof_size
        await server.execute("SET", "k", "v")
        await server.restart(keep_data=False)
        assert await server.execute("DBSIZE") == 0


async def test_a_power_cut_loses_the_end_of_the_file(every_local):
    """What was answered after the mark never happened."""
    await every_local.execute("SET", "kept", 1)
    mark = every_local.aof_size
    await every_local.execute("SET", "lost", 1)
    with pytest.raises(LifecycleError):
        every_local.truncate_aof(mark)
    await every_local.kill()

    with pytest.raises(ConfigurationError):
        every_local.truncate_aof(every_local.aof_size + 1)
    every_local.truncate_aof(mark)
    await every_local.start()

    assert await every_local.execute("EXISTS", "kept") == 1
    assert await every_local.execute("EXISTS", "lost") == 0


async def test_a_cut_in_the_middle_of_a_command_loses_that_command(local):
    """Redis takes a torn tail for what it is."""
    await local.execute("SET", "kept", 1)
    await local.execute("SET", "torn", "x" * 100)
    await local.kill()

    local.truncate_aof(local.aof_size - 50)
    await local.start()

    assert await local.execute("EXISTS", "kept", "torn") == 1


async def test_a_paused_server_is_silent_and_then_goes_on(local):
    """SIGSTOP: its connections stand; what was sent is executed at its waking."""
    async with wire(local.client_kwargs, command_timeout=30.0) as client:
        await client.ping()
        await local.pause()
        silence = await outcome(local.execute("PING", deadline=0.05))
        async with asyncio.TaskGroup() as group:
            late = group.create_task(outcome(client.incr("n")))
            lane = client.node.interactive
            await wait_until(lambda: len(lane.pending) == 1, "it is sent")
            local.resume()

        assert isinstance(silence, OperationTimeoutError)
        assert late.result() == 1


async def test_a_paused_server_can_be_killed_and_left(local):
    """SIGKILL is heard by a stopped process; so a test may end while it is paused."""
    await local.pause()
    await local.restart()
    assert await local.execute("PING") == b"PONG"
    await local.pause()


async def test_signals_to_a_dead_server_say_so(local):
    """Not a signal to whoever has its process id now."""
    await local.kill()
    await local.kill()

    for act in (local.resume, lambda: local.pid):
        with pytest.raises(LifecycleError):
            act()
    with pytest.raises(LifecycleError):
        await local.pause()


async def test_a_running_server_is_not_started_twice(local):
    """LifecycleError, and the first one stays."""
    pid = local.pid
    with pytest.raises(LifecycleError):
        await local.start()

    assert local.pid == pid


async def test_a_server_that_ends_at_its_start_tells_its_log():
    """An option that it does not know is named, and nothing is left."""
    with pytest.raises(ConnectionLostError, match=r"(?s)ended at its start.*no-such"):
        async with LocalServer(options=("--no-such-option", "1")):
            pass


async def test_a_start_that_takes_too_long_leaves_nothing():
    """ConnectionLostError after the start timeout; the guard sees no child."""
    with pytest.raises(ConnectionLostError, match="did not answer"):
        async with LocalServer(start_timeout=0.001):
            pass


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.03, 0.06, 0.1])
async def test_a_cancelled_start_leaves_nothing(delay):
    """Wherever it was cut; the guard sees no child."""

    async def use():
        async with asyncio.timeout(delay), LocalServer():
            await asyncio.sleep(10)

    assert isinstance(await outcome(use()), TimeoutError)


@pytest.mark.parametrize("turns", range(1, 8))
async def test_an_end_that_is_cancelled_too_leaves_nothing(turns):
    """However impatient its caller; the guard sees no child."""
    server = LocalServer()
    await server.__aenter__()
    folder = folder_of(server)
    await server.faults.busy(60.0)
    async with asyncio.TaskGroup() as group:
        leaving = group.create_task(server.__aexit__(None, None, None))
        for _ in range(turns):
            await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.sleep(0)
        leaving.cancel()

    assert not folder.exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs prctl")
async def test_a_server_dies_with_its_tests():
    """A kill -9 of the test run leaves no server."""
    read, write = os.pipe()
    starter = spawn_starter(write)
    os.close(write)
    try:
        with os.fdopen(read) as lines:
            pid = int(lines.readline())
            folder = Path(lines.readline().strip()).parent
            assert lines.readline() == "paused\n"
        assert is_alive(pid)
    finally:
        os.kill(starter, signal.SIGKILL)
    await wait_until(lambda: os.waitpid(starter, os.WNOHANG)[0] != 0, "it is dead")

    await wait_until(lambda: not is_alive(pid), "the server has died too")
    shutil.rmtree(folder)  # nobody was left to do it


def spawn_starter(output):
    """Start a process that pauses a server and says so."""
    program = (
        "import asyncio\n"
        "from mcp_crew_redis.testing import LocalServer\n"
        "async def main():\n"
        "    async with LocalServer() as server:\n"
        "        print(server.pid, server.unix_socket, sep='\\n', flush=True)\n"
        "        await server.pause()\n"
        "        print('paused', flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-c", program],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, output, 1)],
    )


# --- faults -------------------------------------------------------------------
REFUSALS = [
    ("busy", (30.0,), "GET", "BUSY"),
    ("load", (1.0,), "GET", "LOADING"),
    ("fill_memory", (), "SET", "OOM"),
    ("make_read_only", (), "SET", "READONLY"),
    ("fail_saving", (), "SET", "MISCONF"),
    ("deny", ("set",), "SET", "NOPERM"),
    ("deny", ("@write",), "SET", "NOPERM"),
    ("configure", ("min-replicas-to-write", "1"), "SET", "NOREPLICAS"),
]


@pytest.mark.parametrize("fault", REFUSALS, ids=lambda each: f"{each[0]}-{each[3]}")
async def test_a_fault_is_answered_until_it_is_healed(every_local, fault):
    """The word that the table promises, from a server of each kind."""
    name, arguments, command, code = fault
    parts = {"GET": ("GET", "k"), "SET": ("SET", "k", "v")}[command]
    faults = every_local.faults
    await getattr(faults, name)(*arguments)

    assert code in await said(every_local, *parts)
    await faults.heal()

    assert await said(every_local, *parts) in ("+OK", "$-1")
    assert await every_local.execute("DBSIZE") == int(command == "SET")


async def test_a_replica_of_nowhere_serves_no_reads_if_told_so(every_local):
    """MASTERDOWN for reads too."""
    await every_local.faults.make_read_only(serves_reads=False)

    assert "MASTERDOWN" in await said(every_local, "GET", "k")
    await every_local.faults.heal()
    assert await said(every_local, "SET", "k", "v") == "+OK"


async def test_refused_clients_leave_those_that_stand(every_local):
    """New ones hear why; the tester's own connection goes on."""
    async with wire(every_local.client_kwargs) as client:
        await client.ping()
        await every_local.faults.refuse_clients()

        assert "max number of clients" in await said(every_local)
        assert await client.ping()
        await every_local.faults.heal()
        assert await said(every_local, "PING") == "+PONG"


async def test_a_required_password_is_asked_of_new_connections(every_local):
    """NOAUTH, until it is healed; the tester needs none."""
    await every_local.faults.require_password("secret")

    assert "NOAUTH" in await said(every_local, "PING")
    assert await every_local.execute("PING") == b"PONG"
    await every_local.faults.heal()
    assert await said(every_local, "PING") == "+PONG"


async def test_flushed_scripts_are_unknown(every_local):
    """NOSCRIPT once."""
    sha = await every_local.execute("SCRIPT", "LOAD", "return 1")
    await every_local.faults.flush_scripts()

    with pytest.raises(DataError, match="NOSCRIPT"):
        await every_local.execute("EVALSHA", sha, 0)


async def test_paused_clients_are_answered_late(every_local):
    """CLIENT PAUSE ends by itself, and `heal` waits for its end."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    await every_local.faults.pause_clients(0.1)

    assert await said(every_local, "PING") == "+PONG"
    assert loop.time() - start >= 0.09
    await every_local.faults.pause_clients(0.1)
    await every_local.faults.heal()
    assert loop.time() - start >= 0.19


async def test_a_pause_of_writes_is_healed_at_once(every_local):
    """Reads go on meanwhile."""
    await every_local.faults.pause_clients(60.0, writes_only=True)

    assert await said(every_local, "GET", "k") == "$-1"
    await every_local.faults.heal()
    assert await said(every_local, "SET", "k", "v") == "+OK"


async def test_a_busy_script_ends_after_its_time(every_local):
    """Nobody has to heal it."""
    await every_local.faults.busy(0.05)

    await wait_until(lambda: serves(every_local), "the script has been killed")


async def test_loading_ends_by_itself_and_keeps_the_keys(every_local):
    """The data are the same when it is over."""
    await every_local.execute("SET", "k", "v")
    await every_local.faults.load(0.2)

    await wait_until(lambda: serves(every_local), "it has loaded")
    assert await every_local.execute("GET", "k") == b"v"


@pytest.mark.parametrize("fault", ["busy", "load", "pause_clients"])
async def test_a_server_in_trouble_ends_with_its_block(local, fault):
    """What still runs in it is no reason to wait."""
    await getattr(local.faults, fault)(60.0)


@pytest.mark.parametrize("fault", REFUSALS, ids=lambda each: f"{each[0]}-{each[3]}")
async def test_a_restart_takes_faults_away(local, fault):
    """The server's own words after it: ready, and nothing to heal."""
    await getattr(local.faults, fault[0])(*fault[1])

    await local.restart()

    assert await said(local, "SET", "k", "v") == "+OK"
    await local.faults.heal()
    assert await said(local, "SET", "k", "v") == "+OK"


async def test_an_unknown_option_is_refused(local):
    """DataError, and healing has nothing to put back."""
    with pytest.raises(DataError):
        await local.faults.configure("no-such-option", "1")
    await local.faults.heal()


async def test_a_cancelled_command_does_not_shift_replies(local):
    """The next command gets its own reply."""
    await local.pause()
    assert isinstance(
        await outcome(local.execute("ECHO", "old", deadline=0.02)),
        OperationTimeoutError,
    )
    local.resume()

    assert await local.execute("ECHO", "new") == b"new"


async def serves(server):
    return await said(server, "PING") == "+PONG"


async def said(server, *command):
    """Return the first line that the server answers to a client of its own."""
    reader, writer = await asyncio.open_unix_connection(server.unix_socket)
    try:
        if command:
            writer.write((" ".join(command) + "\r\n").encode())
        async with asyncio.timeout(5):
            return (await reader.readline()).decode().rstrip()
    finally:
        writer.transport.abort()
