"""One master, its replicas and their sentinels: real processes on loopback."""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import redis

from tests.rig.binaries import find_binary
from tests.rig.servers import OWNED_PIDS, RealServer
from tests.rig.waiting import wait_until_blocking

__all__ = ["MASTER", "Sentinel", "SentinelSet", "free_ports"]

MASTER = "mymaster"
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
_PATIENCE = 20.0  # seconds for what sentinels do at their own pace


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Sentinel:
    """One sentinel process: the server's own binary, started with `--sentinel`.

    Args:
        kind: Of which server the binary is.
        port: Where to listen.
        monitored: The port of the master.
        quorum: How many must agree that it is down.
        epoch: The number of its first configuration.
        down_after: Milliseconds of silence after which a server is down for it.
        lines: More of its configuration.
    """

    def __init__(
        self,
        kind: str,
        port: int,
        monitored: int,
        *,
        quorum: int = 1,
        epoch: int = 0,
        down_after: int = 600,
        lines: Sequence[str] = (),
    ) -> None:
        self.kind = kind
        self.port = port
        self.folder = Path(tempfile.mkdtemp(prefix="rig-", dir="/tmp"))
        self.unix_socket = str(self.folder / "s")
        self._process: subprocess.Popen[bytes] | None = None
        # It writes what it learns into its own configuration, so that is in a file.
        (self.folder / "conf").write_text(
            f"port {port}\nbind 127.0.0.1\ndir {self.folder}\n"
            f"sentinel monitor {MASTER} 127.0.0.1 {monitored} {quorum}\n"
            f"sentinel down-after-milliseconds {MASTER} {down_after}\n"
            f"sentinel failover-timeout {MASTER} 2000\n"
            f"sentinel parallel-syncs {MASTER} 2\n"
            f"sentinel config-epoch {MASTER} {epoch}\n"
            f"unixsocket {self.unix_socket}\n" + "\n".join(lines) + "\n"
        )

    @property
    def is_running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None

    def start(self) -> None:
        """Start it and wait until it answers."""
        binary = find_binary(self.kind)
        assert binary is not None, f"no binary for {self.kind}"
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [binary, str(self.folder / "conf"), "--sentinel"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - no threads here
            )
        OWNED_PIDS.add(self._process.pid)
        wait_until_blocking(self._answers, "the sentinel answers", _PATIENCE)

    def _answers(self) -> bool:
        try:
            return bool(self.execute("PING"))
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False

    def execute(self, *command: str | bytes | float) -> Any:
        """Run one command over a connection of its own; the reply comes as it is."""
        client = redis.Redis(port=self.port, socket_timeout=2.0, retry=None, protocol=2)
        client.response_callbacks.clear()
        try:
            return client.execute_command(*command)
        finally:
            client.close()

    def details(self) -> dict[str, str]:
        """Return what it says of the master."""
        flat = [part.decode() for part in self.execute("SENTINEL", "MASTER", MASTER)]
        return dict(zip(flat[::2], flat[1::2], strict=True))

    def master_port(self) -> int:
        """Return the port of the server that it holds for the master."""
        _, port = self.execute("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
        return int(port)

    def pause(self) -> None:
        """Stop its clock: it accepts connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it by SIGKILL. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        OWNED_PIDS.discard(process.pid)

    def close(self) -> None:
        """End it and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class SentinelSet:
    """A master, replicas and sentinels, ready for a failover when entered.

    Attributes:
        servers: The first one starts as the master.
        sentinels: Three, of which two must agree.
    """

    def __init__(
        self,
        kind: str = "valkey",
        *,
        replicas: int = 1,
        password: str | None = None,
    ) -> None:
        self.kind = kind
        self._lines: list[str] = []
        options: list[str] = []
        if password is not None:  # of the servers; the sentinels themselves have none
            options = ["--requirepass", password, "--masterauth", password]
            self._lines = [f"sentinel auth-pass {MASTER} {password}"]
        # Ports are taken while the servers are made: none may get that of another.
        self.servers = [
            RealServer(
                kind,
                *("--repl-diskless-sync-delay", "0", *options),
                tcp=True,
                password=password,
            )
            for _ in range(1 + replicas)
        ]
        self.sentinels: list[Sentinel] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        for server in self.servers:
            self._stack.enter_context(server)
        first = self.servers[0]
        assert first.tcp_port is not None
        for server in self.servers[1:]:
            server.execute("REPLICAOF", "127.0.0.1", first.tcp_port)
        for server in self.servers[1:]:
            wait_until_blocking(lambda s=server: self._is_linked(s), "replicas", 10.0)  # type: ignore[misc] # bound now
        with free_ports(3) as ports:
            numbers = list(ports)
        for port in numbers:
            sentinel = Sentinel(
                self.kind, port, first.tcp_port, quorum=2, lines=self._lines
            )
            self._stack.callback(sentinel.close)
            self.sentinels.append(sentinel)
            sentinel.start()
        wait_until_blocking(self._is_ready, "the sentinels know all", _PATIENCE)

    @staticmethod
    def _is_linked(server: RealServer) -> bool:
        return server.info("replication").get("master_link_status") == "up"

    def _is_ready(self) -> bool:
        """Whether each sentinel knows the replicas and the other sentinels."""
        replicas, others = len(self.servers) - 1, len(self.sentinels) - 1
        return all(
            int(known["num-slaves"]) == replicas
            and int(known["num-other-sentinels"]) == others
            and known["flags"] == "master"
            for known in (sentinel.details() for sentinel in self.sentinels)
        )

    # --- what a client needs ----------------------------------------------------------

    @property
    def places(self) -> tuple[tuple[str, int], ...]:
        """Host and port of each sentinel."""
        return tuple(("127.0.0.1", sentinel.port) for sentinel in self.sentinels)

    @property
    def setting(self) -> str:
        """The same as REDIS_CREW_SENTINELS wants it."""
        return ",".join(f"{host}:{port}" for host, port in self.places)

    # --- who is who -------------------------------------------------------------------

    def named(self) -> RealServer:
        """Return the server that most sentinels hold for the master."""
        ports = [each.master_port() for each in self.sentinels if each.is_running]
        return self.at(max(ports, key=ports.count))

    def at(self, port: int) -> RealServer:
        """Return the server that listens at `port`."""
        return next(each for each in self.servers if each.tcp_port == port)

    def others(self, server: RealServer) -> list[RealServer]:
        """Return the servers beside this one."""
        return [each for each in self.servers if each is not server]

    def fail_over(self) -> None:
        """Ask a sentinel for a failover, the master being well."""
        self.sentinels[0].execute("SENTINEL", "FAILOVER", MASTER)


@contextlib.contextmanager
def free_ports(count: int) -> Iterator[list[int]]:
    """Give ports that differ; they are free again at the end of the block."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        yield [int(probe.getsockname()[1]) for probe in probes]
