"""Real servers on unix sockets in short private folders, owned by the test run."""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import redis
from redis.exceptions import NoPermissionError

from tests.rig.binaries import find_binary
from tests.rig.waiting import wait_until_blocking

__all__ = ["OWNED_PIDS", "RealServer"]

#: Processes the leak guard must not mistake for a leak.
OWNED_PIDS: set[int] = set()

_PR_SET_PDEATHSIG = 1
_START_DEADLINE = 15.0
_LIBC = ctypes.CDLL(None)


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class RealServer:
    """One server process. Every method blocks for a few milliseconds at most.

    Attributes:
        name: valkey, redis8, debian or clustered.
        unix_socket: Where it listens.
        tcp_port: Its port on 127.0.0.1, or None.
        is_cluster: Whether it is a one-node cluster that owns every slot.
    """

    def __init__(
        self,
        name: str,
        *options: str,
        tcp: bool = False,
        username: str | None = None,
        password: str | None = None,
    ) -> None:
        self.name = name
        self.is_cluster = name == "clustered"
        self.folder = Path(tempfile.mkdtemp(prefix="rig-", dir="/tmp"))
        self.unix_socket = str(self.folder / "s")
        self.tcp_port = _free_port() if tcp else None
        self.version = ""
        self._options = options
        self._login = {"username": username, "password": password}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "down" if self._process is None else f"pid {self._process.pid}"
        return f"<RealServer {self.name} {self.version} {state}>"

    # --- what a client needs -------------------------------------------------
    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    @property
    def client_kwargs(self) -> dict[str, Any]:
        """Keyword arguments for redis.asyncio.Redis or a class derived from it."""
        login = {key: value for key, value in self._login.items() if value is not None}
        return {"unix_socket_path": self.unix_socket, "protocol": 3, **login}

    @property
    def tcp_kwargs(self) -> dict[str, Any]:
        """The same over TCP; only for a server made with `tcp=True`."""
        assert self.tcp_port is not None, "made without tcp=True"
        kwargs = self.client_kwargs
        del kwargs["unix_socket_path"]
        return {"host": "127.0.0.1", "port": self.tcp_port, **kwargs}

    @property
    def version_tuple(self) -> tuple[int, ...]:
        """The version as numbers, for comparisons."""
        return tuple(int(part) for part in self.version.split("."))

    def execute(self, *command: str | bytes | float, timeout: float = 5.0) -> Any:
        """Run one command over a connection of its own and return redis-py's reply."""
        with self._control(timeout) as client:
            return client.execute_command(*command)

    def info(self, section: str) -> dict[str, Any]:
        """Return one section of INFO."""
        with self._control(5.0) as client:
            return dict(client.info(section))

    @contextlib.contextmanager
    def _control(self, timeout: float) -> Iterator[redis.Redis]:
        client = redis.Redis(
            unix_socket_path=self.unix_socket,
            socket_timeout=timeout,
            retry=None,
            **{key: value for key, value in self._login.items() if value},
        )
        try:
            yield client
        finally:
            client.close()

    # --- life and death ------------------------------------------------------
    def start(self) -> None:
        """Start the process and wait until it answers (and its slots are served)."""
        assert self._process is None, "already running"
        binary = find_binary(self.name)
        assert binary is not None, f"no binary for {self.name}"
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [binary, *self._arguments()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,  # a Ctrl-C is for the tests, not for it
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - no threads here
            )
        OWNED_PIDS.add(self._process.pid)
        wait_until_blocking(self._answers, f"{self.name} answers", _START_DEADLINE)
        if self.is_cluster:
            self._own_all_slots()
        info = self.info("server")
        self.version = str(info.get("valkey_version") or info["redis_version"])

    def _arguments(self) -> list[str]:
        cluster = []
        if self.is_cluster:  # its bus would listen on port 10000, once on a machine
            bus = str(_free_port())
            cluster = ["--cluster-enabled", "yes", "--cluster-port", bus]
        return [
            *("--port", str(self.tcp_port or 0), "--bind", "127.0.0.1"),
            *("--unixsocket", self.unix_socket, "--unixsocketperm", "700"),
            *("--dir", str(self.folder), "--save", "", "--appendonly", "yes"),
            *("--appendfsync", "everysec", "--enable-debug-command", "local"),
            *cluster,
            *self._options,
        ]

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"{self.name} ended at its start:\n{self.log_tail()}")
        try:
            self.execute("PING")
        except (redis.AuthenticationError, NoPermissionError):
            return True
        except redis.RedisError:
            return False
        return True

    def _own_all_slots(self) -> None:
        if "cluster_slots_assigned:16384" not in self._cluster_info():
            self.execute("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        # A node refuses writes for its first two seconds; nothing shortens that.
        wait_until_blocking(
            lambda: "cluster_state:ok" in self._cluster_info(), "the cluster is up"
        )

    def _cluster_info(self) -> str:
        reply = self.execute("CLUSTER", "INFO")
        if isinstance(reply, dict):
            return "\n".join(f"{key}:{value}" for key, value in reply.items())
        return reply.decode() if isinstance(reply, bytes) else str(reply)

    def log_tail(self, lines: int = 20) -> str:
        """Return the end of the server's log."""
        text = (self.folder / "log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def stop(self) -> None:
        """End it by SIGTERM: it writes its append-only file."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it by SIGKILL, as an out-of-memory killer does."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        OWNED_PIDS.discard(process.pid)

    def pause(self) -> None:
        """Stop its clock (SIGSTOP): connections stand, nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused server go on."""
        self._signal(signal.SIGCONT)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Pause for the length of a block, whatever happens in it."""
        self.pause()
        try:
            yield
        finally:
            self.resume()

    def _signal(self, number: int) -> None:
        assert self._process is not None, "the server is not running"
        self._process.send_signal(number)

    def restart(self, *, keep_data: bool = True) -> None:
        """Kill it and start it again on the same socket (another pid and run_id)."""
        (self.stop if keep_data else self.kill)()
        if not keep_data:
            shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)
        self.start()

    def close(self) -> None:
        """End the process and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def reset(self) -> None:
        """Make it like new for the next test: no keys, no scripts, counters at zero."""
        if self._process is None or self._process.poll() is not None:
            self.kill()
            self.start()
        self.resume()
        with self._control(5.0) as client:
            client.execute_command("FLUSHALL", "SYNC")
            client.execute_command("SCRIPT", "FLUSH", "SYNC")
            client.execute_command("CONFIG", "RESETSTAT")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
