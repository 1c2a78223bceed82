"""Every private member of redis-py that we touch, in one place.

redis-py's own `Connection` does DNS, TLS, AUTH, credential providers, HELLO, SELECT
and CLIENT SETINFO; afterwards its transport is handed to a lane. That hand-over has no
public name: `tests/integration/core/test_seam.py` fails loudly if one of these moves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

__all__ = [
    "Handover",
    "close_quietly",
    "crew_connection_class",
    "dialled",
    "hand_over",
    "never_retry",
]

LOOPBACK = ("127.0.0.1", "::1")


def never_retry() -> Retry:
    """Return redis-py's retry switched off: its default executes a write 11 times."""
    return Retry(NoBackoff(), 0)


class _Hello:
    """Remembers the answer to HELLO, which names this connection in the server."""

    hello: Mapping[bytes, Any] | None = None

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        reply = await super().read_response(*args, **kwargs)  # type: ignore[misc] # mixin
        if isinstance(reply, dict) and self.hello is None:
            fields = {
                key.encode() if isinstance(key, str) else key: value
                for key, value in reply.items()
            }
            if b"proto" in fields:
                self.hello = fields
        return reply

    @property
    def client_id(self) -> int | None:
        """The server's number of this connection, None before HELLO (RESP2)."""
        number = None if self.hello is None else self.hello.get(b"id")
        return number if isinstance(number, int) else None


class _Localhost:
    """Dials `localhost` itself: the loop's resolver would start a thread for it."""

    _loopback = LOOPBACK[0]

    async def _connect(self) -> None:
        self._loopback = LOOPBACK[0]
        try:
            await super()._connect()  # type: ignore[misc] # mixin
        except TimeoutError:
            raise
        except OSError as first:
            if self.host != "localhost":  # type: ignore[attr-defined] # mixin
                raise
            self._loopback = LOOPBACK[1]
            try:
                await super()._connect()  # type: ignore[misc] # mixin
            except OSError:
                raise first from None

    def _connection_arguments(self) -> Mapping[str, Any]:
        arguments = dict(super()._connection_arguments())  # type: ignore[misc] # mixin
        if arguments.get("host") == "localhost":
            arguments["host"] = self._loopback
            if arguments.get("ssl") is not None:
                arguments["server_hostname"] = "localhost"
        return arguments


class CrewConnection(_Localhost, _Hello, Connection):
    """TCP."""


class CrewSSLConnection(_Localhost, _Hello, SSLConnection):
    """TLS."""


class CrewUnixConnection(_Hello, UnixDomainSocketConnection):
    """Unix socket."""


_CLASSES: dict[type[AbstractConnection], type[AbstractConnection]] = {
    Connection: CrewConnection,
    SSLConnection: CrewSSLConnection,
    UnixDomainSocketConnection: CrewUnixConnection,
}


def crew_connection_class(
    original: type[AbstractConnection],
) -> type[AbstractConnection]:
    """Return our form of redis-py's connection class; a user's own class stays."""
    return _CLASSES.get(original, original)


@dataclass(frozen=True, slots=True)
class Handover:
    """What a lane receives.

    Attributes:
        transport: The live transport, already switched to the lane.
        writer: Its former owner, which would close the transport when collected.
        leftover: Bytes that had arrived behind the handshake.
        client_id: The server's number of this connection, None if it did not say.
    """

    transport: asyncio.Transport
    writer: asyncio.StreamWriter
    leftover: bytes
    client_id: int | None


async def dialled(connection: AbstractConnection) -> AbstractConnection:
    """Connect `connection` with its handshake; on failure it is closed again."""
    try:
        await connection.connect()
    except BaseException:
        connection._close()  # noqa: SLF001 - synchronous, so nothing to cancel
        raise
    return connection


def hand_over(connection: AbstractConnection, lane: asyncio.Protocol) -> Handover:
    """Move the transport of a connected `connection` to `lane`.

    Raises:
        ConnectionError: The connection ended meanwhile.
    """
    reader, writer = connection._reader, connection._writer  # noqa: SLF001
    if reader is None or writer is None or writer.transport.is_closing():
        raise ConnectionResetError("the connection ended during its handshake")
    transport: Any = writer.transport  # typed as the half that writes
    leftover = bytes(reader._buffer)  # type: ignore[attr-defined]  # noqa: SLF001
    transport.set_protocol(lane)
    # The connection forgets its streams: redis-py's disconnect() would wait for the
    # stream protocol's close waiter, which never fires after the hand-over.
    connection._reader = connection._writer = None  # noqa: SLF001
    client_id = getattr(connection, "client_id", None)
    return Handover(transport, writer, leftover, client_id)


def close_quietly(connection: AbstractConnection) -> None:
    """Close without waiting."""
    connection._close()  # noqa: SLF001
