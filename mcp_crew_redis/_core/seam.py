"""Every private member of redis-py that we touch: here and in `seam_connection.py`.

redis-py's own `Connection` does DNS, TLS, AUTH, credential providers, HELLO, SELECT
and CLIENT SETINFO; afterwards its transport is handed to a lane. That hand-over has no
public name: `tests/integration/core/test_seam.py` fails loudly if one of these moves.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from redis._parsers.base import BaseParser
from redis._parsers.encoders import Encoder
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from mcp_crew_redis._core.seam_connection import (
    CrewConnection,
    CrewSSLConnection,
    crew_connection_class,
    parse_info,
)

__all__ = [
    "CrewConnection",
    "CrewSSLConnection",
    "Encoder",
    "Handover",
    "close_quietly",
    "crew_connection_class",
    "dialled",
    "hand_over",
    "is_stale",
    "never_retry",
    "parse_error",
    "parse_info",
]

parse_error = BaseParser.parse_error  # error text to redis-py's exception


def never_retry() -> Retry:
    """Return redis-py's retry switched off: its default executes a write 11 times."""
    return Retry(NoBackoff(), 0)


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
    if (
        reader is None
        or writer is None
        or reader.at_eof()
        or writer.transport.is_closing()
    ):
        raise ConnectionResetError("the connection ended during its handshake")
    transport: Any = writer.transport  # typed as the half that writes
    leftover = bytes(reader._buffer)  # type: ignore[attr-defined]  # noqa: SLF001
    transport.set_protocol(lane)
    # The connection forgets its streams: redis-py's disconnect() would wait for the
    # stream protocol's close waiter, which never fires after the hand-over.
    connection._reader = connection._writer = None  # noqa: SLF001
    client_id = getattr(connection, "client_id", None)
    return Handover(transport, writer, leftover, client_id)


def is_stale(connection: AbstractConnection) -> bool:
    """Whether the other side has closed a connection that looks alive to redis-py."""
    reader, writer = connection._reader, connection._writer  # noqa: SLF001
    if reader is None or writer is None:
        return False  # redis-py connects it at the first use
    return reader.at_eof() or writer.transport.is_closing()


def close_quietly(connection: AbstractConnection) -> None:
    """Close without waiting."""
    connection._close()  # noqa: SLF001
