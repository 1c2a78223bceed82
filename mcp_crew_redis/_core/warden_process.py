"""The embedded server's warden, socket and folder as their starter sees them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from mcp_crew_redis._core import warden
from mcp_crew_redis.errors import ConfigurationError

__all__ = ["WardenProcess", "make_runtime_folder", "probe_server"]

_PROBE_TIMEOUT = 1.0
_MAX_LOG_BYTES = 1024 * 1024
_LOG_TAIL_LINES = 15
#: sockaddr_un holds 108 bytes on Linux and 104 on macOS, with a closing zero.
_MAX_SOCKET_PATH = 103


#: Living wardens that this process has started, by their homes. A child belongs to the
#: process: it may outlive the object that started it, and must still be reaped.
_CHILDREN: dict[Path, int] = {}


class WardenProcess:
    """The warden of `home`. It needs no end from us: see warden.py.

    Started by posix_spawn and not through asyncio, which on Python 3.11 takes a thread
    for each child. posix_spawn does not copy this process, whatever its size.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self.was_started = False

    def start(self, runtime: Path, command: Sequence[str], stop_timeout: float) -> None:
        """Start the warden, which starts `command`; its log is HOME/server.log."""
        logfile = self._home / "server.log"
        with contextlib.suppress(OSError):
            if logfile.stat().st_size > _MAX_LOG_BYTES:
                logfile.unlink()
        python = sys.executable or shutil.which("python3") or "python3"
        script = [python, "-I", "-S", warden.__file__]
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        _CHILDREN[self._home] = os.posix_spawn(
            python,
            [*script, str(self._home), str(runtime), str(stop_timeout), *command],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(logfile), flags, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
        )
        self.was_started = True

    def has_ended(self) -> bool:
        """Whether this process has no warden for `home` (any more); reaps it."""
        if (pid := _CHILDREN.get(self._home)) is None:
            return True
        try:
            ended = os.waitpid(pid, os.WNOHANG)[0] != 0
        except ChildProcessError:
            ended = True  # reaped by another in this process, or the child of a parent
        if ended:
            del _CHILDREN[self._home]
        return ended

    def log_tail(self) -> str:
        """Return the end of the log as the end of an error's message."""
        with contextlib.suppress(OSError):
            text = (self._home / "server.log").read_text(errors="replace")
            return ":\n" + "\n".join(text.splitlines()[-_LOG_TAIL_LINES:])
        return ""


async def probe_server(path: Path) -> Literal["absent", "loading", "ready"]:
    """Ask a socket who is there. Silence means: somebody, not yet ready."""
    try:
        reader, writer = await asyncio.open_unix_connection(str(path))
    except OSError:
        return "absent"
    try:
        writer.write(b"*1\r\n$4\r\nPING\r\n")
        async with asyncio.timeout(_PROBE_TIMEOUT):
            answer = await reader.readline()
    except (OSError, TimeoutError):
        return "loading"
    finally:
        writer.transport.abort()
    return "ready" if answer.startswith((b"+PONG", b"-NOAUTH")) else "loading"


def make_runtime_folder() -> Path:
    """Make a private folder whose path leaves room for a socket's name."""
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp"):  # noqa: S108 - mkdtemp
        if len(os.fsencode(parent)) + len("/mcr-abcdefgh/s") > _MAX_SOCKET_PATH:
            continue
        with contextlib.suppress(OSError):
            return Path(tempfile.mkdtemp(prefix="mcr-", dir=parent))
    raise ConfigurationError("embedded server: no temporary folder with a short path")
