"""A server's process as its starter sees it: spawned, signalled, reaped."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from mcp_crew_redis.errors import LifecycleError
from mcp_crew_redis.testing import launcher

__all__ = ["ServerProcess"]

_INTERVAL = 0.005
_END_SECONDS = 5.0
_LOG_TAIL_LINES = 15


class ServerProcess:
    """One child of this process at a time, with its output in a log file.

    Spawned without asyncio, which on Python 3.11 takes a thread for each child. On
    Linux the kernel kills it when the thread that started it ends.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._pid: int | None = None

    @property
    def pid(self) -> int:
        """The process id.

        Raises:
            LifecycleError: It does not run.
        """
        if not self.is_running():
            raise LifecycleError("the server is not running")
        assert self._pid is not None
        return self._pid

    def is_running(self) -> bool:
        """Whether it lives, a stopped one included; reaps one that has ended."""
        if self._pid is not None and self._wait(os.WNOHANG) is not None:
            self._pid = None
        return self._pid is not None

    def start(self, command: Sequence[str]) -> None:
        """Spawn `command`; returns before it does anything."""
        python = sys.executable or shutil.which("python3") or "python3"
        script = [python, "-I", "-S", launcher.__file__, str(os.getpid())]
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._pid = os.posix_spawn(
            python,
            [*script, *command],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self._log), flags, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
        )

    async def pause(self) -> None:
        """SIGSTOP; return when it has stopped, or died."""
        os.kill(self.pid, signal.SIGSTOP)
        async with asyncio.timeout(_END_SECONDS):
            while (status := self._wait(os.WNOHANG | os.WUNTRACED)) is None:  # noqa: ASYNC110 - no event for it
                await asyncio.sleep(_INTERVAL)
        if not os.WIFSTOPPED(status):
            self._pid = None

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    async def kill(self) -> None:
        """SIGKILL; return when it is gone, even if cancelled meanwhile. Idempotent."""
        if not self.is_running():
            return
        os.kill(self.pid, signal.SIGKILL)  # a stopped process hears this one
        now = asyncio.get_running_loop().time
        deadline = now() + _END_SECONDS
        interruption: asyncio.CancelledError | None = None
        while self.is_running() and now() < deadline:
            try:
                await asyncio.sleep(_INTERVAL)
            except asyncio.CancelledError as error:
                interruption = error  # its end is a matter of milliseconds
        if interruption is not None:
            raise interruption

    def log_tail(self) -> str:
        """Return the last lines that it wrote."""
        try:
            text = self._log.read_text(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-_LOG_TAIL_LINES:])

    def _wait(self, options: int) -> int | None:
        """Return the status that waitpid has for us, None without any."""
        assert self._pid is not None
        try:
            pid, status = os.waitpid(self._pid, options)
        except ChildProcessError:  # reaped by another, or the child of a parent
            return 0
        return status if pid else None
