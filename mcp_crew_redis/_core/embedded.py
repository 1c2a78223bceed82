"""A Redis server of our own: started on entry, shared per data folder, never left over.

Who holds what (see `warden.py` for the other side):

    start.lock    exclusive, by whoever is starting, joining or leaving: one at a time
    users.lock    shared, by each user as long as it uses the server
    server.lock   exclusive, by the server itself: one writer per folder

The first user starts the server through its warden. Others on the same machine that
name the same `data_dir` join it. It ends when its last user has left or died, whoever
started it: the first one may leave first.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import Awaitable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import anyio

from mcp_crew_redis._core.file_lock import FileLock
from mcp_crew_redis._core.server_binary import find_server_binary
from mcp_crew_redis._core.warden_process import (
    WardenProcess,
    make_runtime_folder,
    probe_server,
)
from mcp_crew_redis.errors import (
    ConfigurationError,
    ConnectionLostError,
    LifecycleError,
)
from mcp_crew_redis.log import get_logger

__all__ = ["EmbeddedServer"]

log = get_logger(__name__)

_INTERVAL = 0.005
#: Rounds without a sign of a warden after which a leaving user tidies up itself.
_SILENT_ROUNDS = 20


class EmbeddedServer:
    """A server process as an async context manager; may be entered again after exit.

    It holds nothing of the event loop, so it may be started on one loop and stopped on
    another. Cancelling the start or the stop leaves no process behind.

    Args:
        data_dir: Folder of the append-only file; processes that name the same one share
            one server. None: nothing is kept, the server is this object's own.
        binary: Server to run; None: the `embedded` extra's, or one on PATH.
        options: Further command-line options, such as `("--maxmemory", "100mb")`. Used
            by whoever starts the server, ignored when joining one that runs.
        start_timeout: Seconds until it must answer, the loading of its data included.
        stop_timeout: Seconds from SIGTERM to SIGKILL.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        *,
        binary: Path | None = None,
        options: Sequence[str] = (),
        start_timeout: float = 30.0,
        stop_timeout: float = 10.0,
    ) -> None:
        self._data_dir = data_dir.absolute() if data_dir is not None else None
        self._binary = binary
        self._options = tuple(options)
        self._start_timeout = start_timeout
        self._stop_timeout = stop_timeout
        self._home = Path()
        self._runtime = Path()
        self._users: FileLock | None = None
        self._warden = WardenProcess(Path())

    def __repr__(self) -> str:
        state = f"pid {self.pid}" if self.is_running else "stopped"
        return f"<EmbeddedServer {state}, data_dir={self._data_dir}>"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    # --- what its user asks ----------------------------------------------------
    @property
    def is_running(self) -> bool:
        """Whether this object uses the server now."""
        return self._users is not None

    @property
    def unix_socket(self) -> str:
        """Path of the socket to connect to.

        Raises:
            LifecycleError: Not started.
        """
        if self._users is None:
            raise LifecycleError("the embedded server is not running")
        return str(self._runtime / "s")

    @property
    def pid(self) -> int | None:
        """Process id of the living server, whoever started it; None without one."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self._runtime / "pid").read_text())
            os.kill(pid, 0)  # a killed server leaves its pid file
            return pid
        return None

    async def start(self) -> None:
        """Join the folder's running server, or start one; return when it answers.

        Raises:
            LifecycleError: Already started.
            ConfigurationError: No binary, or a `data_dir` that cannot be used.
            ConnectionLostError: It ended at its start or did not answer in time; the
                message ends with the server's own log.
        """
        if self._users is not None:
            raise LifecycleError("the embedded server is already running")
        try:
            await self._bounded(self._join_or_start())
        except BaseException:
            await self._leave()
            raise
        log.info("embedded.started", pid=self.pid, is_owner=self._warden.was_started)

    async def revive(self) -> None:
        """Start the server again if it has died; return when it answers.

        The socket's path stays. What was written survives with a `data_dir` only.

        Raises:
            LifecycleError: Not started.
            ConnectionLostError: As `start`; the object still has to be stopped.
        """
        if self._users is None:
            raise LifecycleError("the embedded server is not running")
        await self._bounded(self._restart())

    async def stop(self) -> None:
        """Leave the server; the last user waits until it has ended. Idempotent."""
        if self._users is not None:
            await self._leave()
            log.info("embedded.left")

    # --- arriving ---------------------------------------------------------------
    async def _bounded(self, work: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self._start_timeout):
                await work
        except TimeoutError as error:
            tail = self._warden.log_tail()
            raise ConnectionLostError(
                f"the embedded server did not answer in {self._start_timeout:g} s{tail}"
            ) from error

    async def _join_or_start(self) -> None:
        self._prepare_home()
        with await FileLock.acquire(self._home / "start.lock", exclusive=True):
            # Held from before the server starts: its warden never sees us missing.
            users = self._home / "users.lock"
            self._users = await FileLock.acquire(users, exclusive=False)
            self._runtime = self._choose_runtime()
            await self._until_ready()

    async def _restart(self) -> None:
        with await FileLock.acquire(self._home / "start.lock", exclusive=True):
            await self._until_ready()

    async def _until_ready(self) -> None:
        self._warden = WardenProcess(self._home)
        while (state := await probe_server(self._runtime / "s")) != "ready":
            if state == "absent":
                self._start_once()
            await asyncio.sleep(_INTERVAL)

    def _start_once(self) -> None:
        """Start the warden, or tell why the one that we started has ended."""
        if not self._warden.was_started:
            if not self._warden.has_ended():
                return  # a crashed server's warden is still on its way out
            binary = find_server_binary(self._binary)
            self._warden.start(self._runtime, self._command(binary), self._stop_timeout)
        elif self._warden.has_ended():
            tail = self._warden.log_tail()
            raise ConnectionLostError(f"the embedded server ended at its start{tail}")

    def _prepare_home(self) -> None:
        if sys.platform == "win32":
            raise ConfigurationError("the embedded server needs Linux or macOS")
        if self._data_dir is None:
            self._home = make_runtime_folder()
            return
        self._home = self._data_dir
        try:
            self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"data_dir: cannot create the folder {self._home}: {error.strerror}"
            ) from error

    def _choose_runtime(self) -> Path:
        """Return the folder of socket and pid: the recorded one, or a new one."""
        if self._data_dir is None:
            return self._home
        record = self._home / "runtime"
        with contextlib.suppress(OSError, ValueError):
            recorded = Path(record.read_text())
            facts = recorded.lstat()
            # Another user may own a folder of that name after a reboot.
            if facts.st_uid == os.getuid() and not facts.st_mode & 0o077:
                return recorded
        runtime = make_runtime_folder()
        record.write_text(str(runtime))
        return runtime

    def _command(self, binary: Path) -> list[str]:
        keep = "no" if self._data_dir is None else "yes"
        return [
            str(binary),
            *("--port", "0", "--daemonize", "no", "--save", ""),
            *("--unixsocket", str(self._runtime / "s"), "--unixsocketperm", "700"),
            *("--pidfile", str(self._runtime / "pid"), "--dir", str(self._home)),
            *("--appendonly", keep, "--appendfsync", "everysec"),
            *self._options,
        ]

    # --- leaving -------------------------------------------------------------------
    async def _leave(self) -> None:
        """Give up the server. Its end is certain after the first line; we await it."""
        users, self._users = self._users, None
        if users is None:
            return
        users.release()
        with anyio.CancelScope(shield=True):
            try:
                async with asyncio.timeout(self._stop_timeout + 2.0):
                    await self._await_end()
            except TimeoutError:
                log.warning("embedded.stop_timed_out", stop_timeout=self._stop_timeout)

    async def _await_end(self) -> None:
        """Return when the server has ended, or at once when others still use it."""
        if self._data_dir is None:
            while not self._warden.has_ended():  # noqa: ASYNC110 - no event for it
                await asyncio.sleep(_INTERVAL)
        else:
            with await FileLock.acquire(self._home / "start.lock", exclusive=True):
                if not await self._is_last():
                    return
        shutil.rmtree(self._runtime, ignore_errors=True)

    async def _is_last(self) -> bool:
        """Wait until the server has ended; False at once when others still use it."""
        silent = 0
        while (use := self._use()) != "shared":
            gone = self._warden.has_ended()
            silent = silent + 1 if use == "free" and gone else 0
            # Our own warden's end is seen at once, another's by its long silence.
            if silent and (not self._runtime.exists() or silent > _SILENT_ROUNDS):
                return True
            await asyncio.sleep(_INTERVAL)
        return False

    def _use(self) -> Literal["free", "shared", "stopping"]:
        """Who holds users.lock: nobody, other users, or the warden at its work."""
        path = self._home / "users.lock"
        if (lock := FileLock.try_acquire(path, exclusive=True)) is not None:
            lock.release()
            return "free"
        if (lock := FileLock.try_acquire(path, exclusive=False)) is not None:
            lock.release()
            return "shared"
        return "stopping"
