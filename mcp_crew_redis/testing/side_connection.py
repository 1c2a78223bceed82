"""A tester's own connection to a server, beside those of the code under test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

from mcp_crew_redis.errors import (
    ConnectionLostError,
    DataError,
    OperationTimeoutError,
)

__all__ = ["Argument", "Reply", "SideConnection"]

Argument: TypeAlias = str | bytes | int | float
#: In a list, an error is an element like any other.
Reply: TypeAlias = "bytes | int | DataError | list[Reply] | None"


class SideConnection:
    """One command at a time over a unix socket, as a user of its own.

    It stands while it is used: a server that refuses new clients still hears it. A
    command that fails or is cancelled closes it, and the next one opens it again.
    """

    def __init__(self, path: Path, username: str, password: str) -> None:
        self._path = path
        self._login = ("AUTH", username, password)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._lock = asyncio.Lock()

    def another(self) -> SideConnection:
        """Return a second one, not yet open."""
        return SideConnection(self._path, *self._login[1:])

    async def execute(self, *command: Argument, deadline: float = 5.0) -> Reply:
        """Run one command and return its reply: bytes, a number, a list or None.

        Args:
            *command: The command and its arguments.
            deadline: Seconds, the wait for an earlier command included.

        Raises:
            DataError: The server answered with an error.
            OperationTimeoutError: It did not answer in time.
            ConnectionLostError: It is not there.
        """
        async with self._turn(deadline):
            reader, writer = await self._opened()
            writer.write(_packed(command))
            reply = await _read(reader)
        if isinstance(reply, DataError):
            raise reply
        return reply

    async def send(self, *command: Argument, deadline: float = 5.0) -> None:
        """Send one command without awaiting its reply; raises as `execute`.

        For commands that occupy the server: close the connection instead of sending
        another one.
        """
        async with self._turn(deadline):
            _, writer = await self._opened()
            writer.write(_packed(command))
            await writer.drain()

    def close(self) -> None:
        """Close it at once; the next command opens another. Idempotent."""
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].transport.abort()

    @asynccontextmanager
    async def _turn(self, deadline: float) -> AsyncGenerator[None, None]:
        """Have the connection for one command; close it if that is interrupted."""
        try:
            async with asyncio.timeout(deadline), self._lock:
                try:
                    yield
                except BaseException:
                    self.close()  # its reply would be the next command's
                    raise
        except TimeoutError:
            raise OperationTimeoutError(deadline, sent=True) from None
        except (OSError, EOFError) as error:
            raise ConnectionLostError("the server is not there") from error

    async def _opened(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await asyncio.open_unix_connection(str(self._path))
            reader, writer = self._streams
            writer.write(_packed(self._login))
            if isinstance(refusal := await _read(reader), DataError):
                raise refusal
        return self._streams


def _packed(command: tuple[Argument, ...]) -> bytes:
    parts = [
        each if isinstance(each, bytes) else str(each).encode() for each in command
    ]
    head = b"*%d\r\n" % len(parts)
    return head + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


async def _read(reader: asyncio.StreamReader) -> Reply:
    """Read one reply of RESP2.

    Raises:
        EOFError: The connection has ended.
    """
    line = await reader.readuntil(b"\r\n")
    kind, text = line[:1], line[1:-2]
    if kind == b"+":
        return text
    if kind == b"-":
        return DataError(f"the server answered: {text.decode(errors='replace')}")
    size = int(text)
    if kind == b":":
        return size
    if size < 0:
        return None
    if kind == b"*":
        return [await _read(reader) for _ in range(size)]
    return (await reader.readexactly(size + 2))[:-2]
