"""A server that answers what a test tells it, where no real one can be made to."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from typing import Any, Self

import hiredis

__all__ = ["HELLO", "INFO", "FakeServer", "bulk"]


def bulk(text: str) -> bytes:
    """Return `text` as a bulk string."""
    return b"$%d\r\n%s\r\n" % (len(text), text.encode())


HELLO = (
    b"%4\r\n+server\r\n+redis\r\n+version\r\n+7.4.0\r\n+proto\r\n:3\r\n+id\r\n:7\r\n"
)
INFO = bulk("redis_version:7.4.0\r\nrun_id:abc\r\nrole:master\r\n")


class Wire(asyncio.Protocol):
    """One connection: commands in, canned replies out."""

    def __init__(self, server: FakeServer) -> None:
        self._server = server
        self._reader = hiredis.Reader()
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._server.wires.append(self)

    def data_received(self, data: bytes) -> None:
        if self._server.is_deaf:
            self.transport.write(self._server.banner)
            return
        self._reader.feed(data)
        while (command := self._reader.gets()) is not False:
            self._server.commands.append(command)
            self.transport.write(self._server.reply(command))


class FakeServer:
    """Listens on a unix socket; `replies` maps an upper-case name to an answer.

    Attributes:
        commands: Everything received, in order.
        replies: Bytes, or a function of the command that returns bytes.
        banner: What a `is_deaf` server says to whatever it gets.
    """

    def __init__(self, **replies: bytes | Callable[[list[bytes]], bytes]) -> None:
        self.replies = {
            "HELLO": HELLO, "INFO": INFO, "PING": b"+PONG\r\n", **replies
        }  # fmt: skip
        self.commands: list[list[bytes]] = []
        self.wires: list[Wire] = []
        self.is_deaf = False
        self.banner = b""

    def reply(self, command: list[bytes]) -> bytes:
        """Return the canned reply; +OK for what is not mentioned."""
        answer = self.replies.get(command[0].decode().upper(), b"+OK\r\n")
        return answer(command) if callable(answer) else answer

    def count(self, name: bytes) -> int:
        """Return how often the command `name` came."""
        return sum(command[0].upper() == name for command in self.commands)

    def send(self, data: bytes) -> None:
        """Say something unasked on every connection."""
        for wire in self.wires:
            wire.transport.write(data)

    @property
    def client_kwargs(self) -> dict[str, Any]:
        """Keyword arguments for a client."""
        return {"unix_socket_path": f"{self._folder}/s", "protocol": 3}

    async def __aenter__(self) -> Self:
        self._folder = tempfile.mkdtemp(prefix="fake-")
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_unix_server(
            lambda: Wire(self), f"{self._folder}/s"
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for wire in self.wires:
            wire.transport.abort()
        await asyncio.sleep(0)
        shutil.rmtree(self._folder, ignore_errors=True)
