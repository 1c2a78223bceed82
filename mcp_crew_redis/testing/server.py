"""A real server of a test's own, which the test may break."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio

from mcp_crew_redis._core.server_binary import find_server_binary
from mcp_crew_redis._core.warden_process import make_runtime_folder, probe_server
from mcp_crew_redis.errors import (
    ConfigurationError,
    ConnectionLostError,
    LifecycleError,
)
from mcp_crew_redis.settings import CrewSettings
from mcp_crew_redis.testing.given_settings import GivenSettings
from mcp_crew_redis.testing.server_faults import ServerFaults
from mcp_crew_redis.testing.server_process import ServerProcess
from mcp_crew_redis.testing.side_connection import Argument, Reply, SideConnection

__all__ = ["LocalServer"]

_INTERVAL = 0.005
_USER = "tester"


class LocalServer:
    """A Valkey or Redis process that a test may kill, pause, restart and break.

        async with LocalServer() as server, CrewRedis(server.settings()) as crew:
            await server.kill()

    It listens on a unix socket in a private folder and is gone with its block, also
    when that is cancelled; on Linux it dies with the thread that entered the block,
    however that ends. Faults that need a command are in `faults`. To be used on the
    event loop that entered it.

    Args:
        tcp: Listen on a free port of 127.0.0.1 too.
        append_only: Keep what was written, for `restart` and `truncate_aof`. Each
            write is in the file before it is answered, so a kill loses nothing.
        binary: Server to run; None: the `embedded` extra's, or one on PATH.
        options: Further command-line options, such as `("--maxmemory", "100mb")`.
        start_timeout: Seconds in which it must answer after each start.

    Attributes:
        faults: What the server itself can be made to do wrong.
    """

    def __init__(
        self,
        *,
        tcp: bool = False,
        append_only: bool = True,
        binary: Path | None = None,
        options: Sequence[str] = (),
        start_timeout: float = 15.0,
    ) -> None:
        self._is_tcp = tcp
        self._is_kept = append_only
        self._binary = binary
        self._options = tuple(options)
        self._start_timeout = start_timeout
        self._password = secrets.token_hex(16)
        self._port = 0
        self._place(Path())

    def _place(self, folder: Path) -> None:
        self._folder = folder
        self._process = ServerProcess(folder / "log")
        self._side = SideConnection(folder / "s", _USER, self._password)
        self.faults = ServerFaults(self._side, folder)

    def __repr__(self) -> str:
        state = f"pid {self.pid}" if self._process.is_running() else "down"
        return f"<LocalServer {state}>"

    async def __aenter__(self) -> Self:
        if sys.platform == "win32":
            raise ConfigurationError("LocalServer needs Linux or macOS")
        self._place(make_runtime_folder())
        self._port = _free_port() if self._is_tcp else 0
        try:
            await self.start()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._end()

    async def _end(self) -> None:
        with anyio.CancelScope(shield=True):
            try:
                await self.kill()
            finally:
                shutil.rmtree(self._folder, ignore_errors=True)
                faults = self.faults
                self._place(Path())
                await faults.aclose()
                await asyncio.sleep(0)  # a transport closes its socket one turn later

    # --- where to connect -----------------------------------------------------
    @property
    def unix_socket(self) -> str:
        """The path to connect to; the same after each restart.

        Raises:
            LifecycleError: Outside its block.
        """
        if self._folder == Path():
            raise LifecycleError("the server is not running: use `async with`")
        return str(self._folder / "s")

    @property
    def port(self) -> int:
        """The port on 127.0.0.1; only with `tcp=True`."""
        assert self._is_tcp, "made without tcp=True"
        return self._port

    @property
    def client_kwargs(self) -> dict[str, str | int]:
        """Keyword arguments for a client of redis-py or `PipelinedRedis`."""
        if self._is_tcp:
            return {"host": "127.0.0.1", "port": self._port, "protocol": 3}
        return {"unix_socket_path": self.unix_socket, "protocol": 3}

    def settings(self, **fields: Any) -> CrewSettings:
        """Return settings for `CrewRedis`; the environment is not read.

        Args:
            **fields: Further settings by their names, such as `command_timeout=0.2`.

        Raises:
            ConfigurationError: A field is wrong, as with `CrewSettings`.
        """
        if self._is_tcp:
            return GivenSettings(**{"host": "127.0.0.1", "port": self._port, **fields})
        return GivenSettings(**{"unix_socket": Path(self.unix_socket), **fields})

    async def execute(self, *command: Argument, deadline: float = 5.0) -> Reply:
        """Run one command beside the code under test, whatever the faults.

        Args:
            *command: The command and its arguments.
            deadline: Seconds.

        Returns:
            Bytes, a number, a list or None, as the server answers in RESP2.

        Raises:
            DataError: The server answered with an error.
            OperationTimeoutError: It did not answer in time: it is paused, or busy.
            ConnectionLostError: It does not run.
        """
        return await self._side.execute(*command, deadline=deadline)

    # --- life and death -------------------------------------------------------
    @property
    def pid(self) -> int:
        """The server's process id; another one after each restart.

        Raises:
            LifecycleError: It does not run.
        """
        return self._process.pid

    async def start(self) -> None:
        """Start it after `kill`; return when it answers and has loaded its data.

        Raises:
            LifecycleError: It runs.
            ConfigurationError: No binary.
            ConnectionLostError: It ended at its start or did not answer in time; the
                message ends with its log.
        """
        if self._process.is_running():
            raise LifecycleError("the server is already running")
        self._process.start(self._command())
        try:
            async with asyncio.timeout(self._start_timeout):
                await self._until_ready()
        except BaseException as error:
            await self.kill()
            if not isinstance(error, TimeoutError):
                raise
            tail = self._process.log_tail()
            raise ConnectionLostError(
                f"the server did not answer in {self._start_timeout:g} s:\n{tail}"
            ) from error

    async def _until_ready(self) -> None:
        while await probe_server(self._folder / "s") != "ready":
            if not self._process.is_running():
                tail = self._process.log_tail()
                raise ConnectionLostError(f"the server ended at its start:\n{tail}")
            await asyncio.sleep(_INTERVAL)

    async def kill(self) -> None:
        """SIGKILL, as an out-of-memory killer does; return when it is gone."""
        self._side.close()
        await self._process.kill()

    async def pause(self) -> None:
        """SIGSTOP: its connections stand and nothing is answered; see `resume`."""
        await self._process.pause()

    def resume(self) -> None:
        """SIGCONT: a paused server goes on, and executes what it was sent."""
        self._process.resume()

    async def restart(self, *, keep_data: bool = True) -> None:
        """Kill it and start it again at the same address; faults are gone.

        Args:
            keep_data: False: as after a lost disk, or without persistence.

        Raises:
            ConfigurationError: `keep_data` without `append_only`.
            ConnectionLostError: As `start`.
        """
        if keep_data and not self._is_kept:
            raise ConfigurationError("nothing is kept without append_only=True")
        await self.kill()
        await self.faults.aclose()
        if not keep_data:
            shutil.rmtree(self._aof_folder, ignore_errors=True)
        await self.start()

    # --- power cuts -----------------------------------------------------------
    @property
    def aof_size(self) -> int:
        """Bytes of the append-only file that were written since it began."""
        return self._aof().stat().st_size

    def truncate_aof(self, size: int) -> None:
        """Cut the file of a killed server to `size`: what followed never happened.

        A power cut does that to what Redis has answered and not yet synchronised.

        Raises:
            LifecycleError: The server runs.
            ConfigurationError: The file is shorter, or there is none.
        """
        if self._process.is_running():
            raise LifecycleError("kill the server before you cut its file")
        if not 0 <= size <= self.aof_size:
            raise ConfigurationError(
                f"size is {size}; give bytes from 0 to {self.aof_size}"
            )
        os.truncate(self._aof(), size)

    @property
    def _aof_folder(self) -> Path:
        return self._folder / "appendonlydir"

    def _aof(self) -> Path:
        for path in self._aof_folder.glob("*.incr.aof"):
            return path
        raise ConfigurationError("there is no append-only file: append_only=True?")

    def _command(self) -> list[str]:
        keep = "yes" if self._is_kept else "no"
        return [
            str(find_server_binary(self._binary)),
            *("--port", str(self._port), "--bind", "127.0.0.1", "--save", ""),
            *("--unixsocket", self.unix_socket, "--unixsocketperm", "700"),
            *("--dir", str(self._folder), "--daemonize", "no"),
            # Written before each answer: only a real power cut could lose it.
            *("--appendonly", keep, "--appendfsync", "no"),
            *("--auto-aof-rewrite-percentage", "0"),  # one file, so that sizes compare
            *("--enable-debug-command", "local"),
            # The tester's own user: no fault that is set for others locks it out.
            *("--user", _USER, "on", f">{self._password}", "~*", "&*", "+@all"),
            *self._options,
        ]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
