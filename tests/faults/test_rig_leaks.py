"""The leak guard sees what it should see, and nothing else."""

import asyncio
import os
import socket
import subprocess
import threading

from tests.rig.leaks import Footprint, find_leaks


async def leaks_of(before):
    return " ".join(await find_leaks(before, patience=0.02))


async def test_a_task_left_running_is_a_leak():
    """A background task is named."""
    before = Footprint.take()
    task = asyncio.ensure_future(asyncio.sleep(60))  # noqa: TID251 - cancelled below

    assert "task" in await leaks_of(before)
    task.cancel()
    assert await leaks_of(before) == ""


async def test_an_open_socket_is_a_leak():
    """A descriptor is named with what it points to."""
    before = Footprint.take()
    with socket.socket():
        assert "socket:" in await leaks_of(before)

    assert await leaks_of(before) == ""


async def test_a_child_process_is_a_leak():
    """A living child, and one that nobody has reaped."""
    before = Footprint.take()
    process = subprocess.Popen(["sleep", "60"])  # noqa: ASYNC220 - for a moment only

    assert f"child {process.pid} (sleep 60" in await leaks_of(before)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - ms
    assert f"child {process.pid}" in await leaks_of(before)
    process.wait()
    assert await leaks_of(before) == ""


async def test_a_thread_is_a_leak():
    """The layer promises to start none."""
    before = Footprint.take()
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()

    assert "thread" in await leaks_of(before)
    stop.set()
    thread.join()
    assert await leaks_of(before) == ""


async def test_a_closing_transport_is_no_leak():
    """What is on its way out within the patience is fine."""
    before = Footprint.take()
    ours, theirs = socket.socketpair()
    with theirs:
        _, writer = await asyncio.open_unix_connection(sock=ours)
        writer.close()

    assert await find_leaks(before) == []


def test_the_guard_is_on_for_every_test(request):
    """No test has to ask for it."""
    assert "_nothing_leaks" in request.fixturenames
