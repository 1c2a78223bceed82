"""The embedded server's warden: a process of its own, run by path, stdlib only.

    python -I -S warden.py HOME RUNTIME STOP_SECONDS SERVER [ARGUMENT ...]

Each user of an embedded server holds a shared lock on HOME/users.lock. The kernel
drops it when the user ends, however it ends. The warden starts the server and then
waits for the exclusive lock: it gets it when the last user has gone, by `aclose`, by a
crash or by `kill -9`, without polling and without threads. Then it stops the server.

The server inherits the exclusive lock on HOME/server.lock, so that no second server can
write in the same folder while the first one still lives, whatever became of its warden.
If the warden itself is killed, the kernel sends the server SIGTERM (Linux).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import time

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1
_PREDECESSOR_SECONDS = 10.0
_TICK_SECONDS = 5.0
_TERM_SECONDS = 0.25
_INTERVAL = 0.005
_CANNOT_EXECUTE = 126


class _ServerEnded(Exception):  # noqa: N818 - an event, not an error
    """The server has ended by itself."""


class _Terminated(Exception):  # noqa: N818 - an event, not an error
    """Somebody wants the warden to end."""


def main(arguments: list[str]) -> int:
    """Run the server until nobody uses it; return the exit code."""
    home, runtime, stop_seconds, *command = arguments
    with contextlib.suppress(OSError):
        os.setsid()  # a Ctrl-C at the terminal is for the users, not for their server
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _raise_terminated)
    signal.signal(signal.SIGCHLD, _raise_server_ended)
    # A signal that comes just before flock blocks is noticed at the next tick.
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, _TICK_SECONDS, _TICK_SECONDS)
    users = os.open(f"{home}/users.lock", os.O_RDWR | os.O_CREAT, 0o600)
    if not _lock_folder(f"{home}/server.lock"):
        _say("another server is still writing in this folder")
        return 1
    pid = 0
    try:
        pid = _start(command)
        fcntl.flock(users, fcntl.LOCK_EX)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    except _ServerEnded:
        return _exit_code(pid)
    except _Terminated:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _stop(pid, float(stop_seconds))
    shutil.rmtree(runtime, ignore_errors=True)
    return 0


def _raise_terminated(*_: object) -> None:
    raise _Terminated


def _raise_server_ended(*_: object) -> None:
    raise _ServerEnded


def _lock_folder(path: str) -> bool:
    """Take the lock that the server will inherit; wait for a dying predecessor."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(lock, True)
    deadline = _now() + _PREDECESSOR_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if _now() >= deadline:
                return False
            time.sleep(_INTERVAL)
        else:
            return True


def _start(command: list[str]) -> int:
    warden = os.getpid()
    pid = os.fork()  # one thread only: nothing can be half-done in the child
    if pid:
        return pid
    try:
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        _die_with_parent()
        if os.getppid() == warden:  # it may have died before the line above
            os.execv(command[0], command)  # noqa: S606 - a list, no shell
    except BaseException as error:  # noqa: BLE001 - a forked child must not return
        _say(f"cannot execute {command[0]}: {error}")
    finally:
        os._exit(_CANNOT_EXECUTE)


def _die_with_parent() -> None:
    """Ask the kernel for SIGTERM at the warden's death, where it can do that."""
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop(pid: int, seconds: float) -> None:
    """SIGTERM, a deadline, SIGKILL."""
    _send(pid, signal.SIGCONT)  # a stopped process does not hear SIGTERM
    deadline = _now() + seconds
    next_term = _now()
    while not _has_ended(pid):
        if _now() >= deadline:
            _say("the server did not end in time and is killed")
            _send(pid, signal.SIGKILL)
            deadline = next_term = float("inf")
        elif _now() >= next_term:
            # Said again: a server forgets what it hears in the middle of its start.
            _send(pid, signal.SIGTERM)
            next_term += _TERM_SECONDS
        time.sleep(_INTERVAL)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _has_ended(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def _exit_code(pid: int) -> int:
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        return 1
    return os.waitstatus_to_exitcode(status) & 0xFF or 1


def _now() -> float:
    return time.monotonic()  # noqa: TID251 - a process of its own, without the package


def _say(text: str) -> None:
    """Write one line into the server's log."""
    os.write(2, f"warden: {text}\n".encode(errors="replace"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
