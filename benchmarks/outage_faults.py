"""Servers that are about to suffer, for `outage.py`: stopped, killed, or cut off."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from rig import Address, cores
from rig import _free_port as free_port
from rig import _wait_until_listening as wait_until_listening

from mcp_crew_redis.testing import FaultProxy

__all__ = ["FAULTS", "Fault", "fault"]

FAULTS = ("hung", "refused", "cut off")


class Victim:
    """A server without persistence that can be stopped, killed and started again."""

    def __init__(self, binary: Path, folder: str, *, is_tcp: bool) -> None:
        self._binary, self._folder = binary, folder
        path = None if is_tcp else f"{folder}/server.sock"
        self.address = Address(path=path, port=free_port() if is_tcp else None)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it and wait for its PONG."""
        listen = ["--port", str(self.address.port or 0), "--bind", "127.0.0.1"]
        if self.address.path:
            listen += ["--unixsocket", self.address.path]
        options = ["--save", "", "--appendonly", "no", "--dir", self._folder]
        self._process = subprocess.Popen(
            [self._binary, *listen, *options], stdout=subprocess.DEVNULL
        )
        if server_cores := cores()[1]:
            os.sched_setaffinity(self._process.pid, server_cores)
        wait_until_listening(self._process, self.address)

    def send(self, number: int) -> None:
        """Send it a signal."""
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it, also when it is stopped."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Fault:
    """One kind of outage: how it begins and how it ends."""

    def __init__(self, kind: str, victim: Victim, proxy: FaultProxy | None) -> None:
        self.kind, self._victim, self._proxy = kind, victim, proxy

    @property
    def address(self) -> Address:
        """Where the client connects."""
        if self._proxy is None:
            return self._victim.address
        return Address(port=self._proxy.port)

    def begin(self) -> None:
        """Break it."""
        if self._proxy is not None:
            self._proxy.requests.stall()
            self._proxy.replies.stall()
        elif self.kind == "hung":
            self._victim.send(signal.SIGSTOP)
        else:
            self._victim.kill()

    def end(self) -> None:
        """Mend it; a killed server answers PING when this returns."""
        if self._proxy is not None:
            self._proxy.heal()
        elif self.kind == "hung":
            self._victim.send(signal.SIGCONT)
        else:
            self._victim.start()


@contextlib.asynccontextmanager
async def fault(kind: str, binary: Path, *, is_tcp: bool) -> AsyncIterator[Fault]:
    """Give a server that is about to suffer."""
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="outage-"))
        victim = Victim(binary, folder, is_tcp=is_tcp)
        stack.callback(victim.kill)
        proxy = None
        if kind == "cut off":
            port = victim.address.port
            proxy = FaultProxy(("127.0.0.1", port or 0), tcp=True)
            await stack.enter_async_context(proxy)
        yield Fault(kind, victim, proxy)
