"""Every private member of redis-py that we touch, in one place.

redis-py's own `Connection` does DNS, TLS, AUTH, credential providers, HELLO, SELECT
and CLIENT SETINFO; afterwards its transport is handed to a lane. That hand-over has no
public name: `tests/integration/core/test_seam.py` fails loudly if one of these moves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from redis import exceptions as redis_errors
from redis._parsers.base import BaseParser
from redis._parsers.encoders import Encoder
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from mcp_crew_redis._core.wire_errors import WireOutcomeUnknownError, WireTimeoutError

__all__ = [
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

LOOPBACK = ("127.0.0.1", "::1")
INTRODUCTION = (("INFO", "server", "replication"), ("PING",))
LOST = "the connection ended before the reply: the command may have been executed"


def never_retry() -> Retry:
    """Return redis-py's retry switched off: its default executes a write 11 times."""
    return Retry(NoBackoff(), 0)


class _Accountable:
    """Knows its name in the server, and whether it still owes its caller a reply.

    A connection that is closed while it owes one is a stray: it tells `on_stray`.
    """

    hello: Mapping[bytes, Any] | None = None
    introduction: list[Any] | None = None  # replies to INTRODUCTION
    on_stray: Callable[[int | None, str], None] | None = None
    before_send: Callable[[], Awaitable[None]] | None = None
    run_id = ""
    _own_id: int | None = None
    _owed = 0
    _is_greeting = False

    async def on_connect_check_health(self, check_health: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's signature
        """Shake hands as redis-py does, then learn whom we are talking to."""
        self.hello, self.introduction, self.run_id, self._own_id = None, None, "", None
        due, self._is_greeting = self._owed, True  # of a command that is dialling
        try:
            await super().on_connect_check_health(check_health=check_health)  # type: ignore[misc] # mixin
            self.introduction = await self.ask(*INTRODUCTION)
            if self.hello is None:  # RESP2 has no HELLO
                (own_id,) = await self.ask(("CLIENT", "ID"))
                self._own_id = own_id if isinstance(own_id, int) else None
        finally:
            self._is_greeting = False
            self._owed = due
        info = self.introduction[0]
        if isinstance(info, bytes):
            self.run_id = parse_info(info).get("run_id", "")

    async def ask(self, *commands: tuple[str | int, ...]) -> list[Any]:
        """Send `commands` in one write; error replies are returned, not raised."""
        await self.send_packed_command(self.pack_commands(commands), check_health=False)
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(await self.read_response(disable_decoding=True))
            except redis_errors.ResponseError as error:
                replies.append(error)
        return replies

    def pack_commands(self, commands: Iterable[Any]) -> Any:
        """Pack, and count what will have to be answered."""
        counted = list(commands)
        self._owed += len(counted)
        return super().pack_commands(counted)  # type: ignore[misc] # mixin

    async def send_command(self, *args: Any, **kwargs: Any) -> None:
        """Send one command, and count it."""
        self._owed += 1
        await super().send_command(*args, **kwargs)  # type: ignore[misc] # mixin

    async def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
        """Send, but not before what was sent elsewhere can no longer overtake it."""
        if self.before_send is not None and not self._is_greeting:
            await self.before_send()
        with self._our_words():
            await super().send_packed_command(*args, **kwargs)  # type: ignore[misc] # mixin

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """Read one reply."""
        with self._our_words():
            try:
                reply = await super().read_response(*args, **kwargs)  # type: ignore[misc] # mixin
            except redis_errors.ResponseError:
                self._owed = max(0, self._owed - 1)
                raise
        self._owed = max(0, self._owed - 1)
        if self._is_greeting and isinstance(reply, dict) and self.hello is None:
            self.hello = {
                key.encode() if isinstance(key, str) else key: value
                for key, value in reply.items()
            }
        return reply

    @contextmanager
    def _our_words(self) -> Iterator[None]:
        """Say what redis-py raises for a lost reply in our words; not for a dial."""
        try:
            yield
        except redis_errors.TimeoutError:
            if self._is_greeting:
                raise
            raise WireTimeoutError(self.socket_timeout or 0.0, sent=True) from None  # type: ignore[attr-defined] # mixin
        except redis_errors.ConnectionError as error:
            if self._is_greeting or type(error) is not redis_errors.ConnectionError:
                raise
            raise WireOutcomeUnknownError(LOST) from error

    @property
    def client_id(self) -> int | None:
        """The server's number of this connection, None where it did not say."""
        number = self._own_id if self.hello is None else self.hello.get(b"id")
        return number if isinstance(number, int) else None

    def _close(self) -> None:
        self._confess()
        super()._close()  # type: ignore[misc] # mixin

    async def disconnect(self, *args: Any, **kwargs: Any) -> None:
        """Close; a connection that owes a reply becomes a stray."""
        self._confess()
        await super().disconnect(*args, **kwargs)  # type: ignore[misc] # mixin

    def _confess(self) -> None:
        owed, self._owed = self._owed, 0
        if owed and not self._is_greeting and self.on_stray is not None:
            self.on_stray(self.client_id, self.run_id)


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


class CrewConnection(_Localhost, _Accountable, Connection):
    """TCP."""


class CrewSSLConnection(_Localhost, _Accountable, SSLConnection):
    """TLS."""


class CrewUnixConnection(_Accountable, UnixDomainSocketConnection):
    """Unix socket."""

    async def _connect(self) -> None:
        # redis-py's shakes hands here and once more afterwards, and wraps its errors.
        async with asyncio.timeout(self.socket_connect_timeout):
            self._reader, self._writer = await asyncio.open_unix_connection(self.path)


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


def parse_info(info: bytes) -> dict[str, str]:
    """Return the fields of an INFO reply."""
    lines = info.decode("utf-8", "replace").splitlines()
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {name: value.strip() for name, _, value in pairs}


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
