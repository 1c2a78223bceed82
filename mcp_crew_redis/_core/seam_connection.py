"""Our forms of redis-py's connections: accountable, resolved, bounded, fork-proof.

With `seam.py`, which hands them over to lanes, this is all that touches private
members of redis-py's connections.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from redis import exceptions as redis_errors
from redis._defaults import get_default_socket_keepalive_options
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)

from mcp_crew_redis._core.addresses import Addresses, path_options, resolve
from mcp_crew_redis._core.forks import let_go
from mcp_crew_redis._core.wire_errors import (
    TurnedAwayError,
    WireOutcomeUnknownError,
    WireTimeoutError,
)

__all__ = [
    "CrewConnection",
    "CrewSSLConnection",
    "CrewUnixConnection",
    "crew_connection_class",
    "parse_info",
]

INTRODUCTION = (("INFO", "server", "replication"), ("PING",))
TURNED_AWAY = "the server closed the connection in its handshake (is it full?): "
LOST = "the connection ended before the reply: the command may have been executed"


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
    _pid = 0  # of the process that dialled

    async def connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        """Connect and shake hands, within `socket_connect_timeout` in all.

        redis-py bounds the connecting alone: a server that accepts and stays silent
        would cost `socket_timeout` more.
        """
        if self.is_connected:  # type: ignore[attr-defined] # mixin
            return
        self._pid = os.getpid()
        limit = self.socket_connect_timeout  # type: ignore[attr-defined] # mixin
        try:
            async with asyncio.timeout(limit):
                await super().connect_check_health(*args, **kwargs)  # type: ignore[misc] # mixin
        except TimeoutError:
            self._close()
            raise redis_errors.TimeoutError("no handshake in time") from None

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
        except BaseException as error:
            self._met(is_well=False)
            if type(error) is redis_errors.ConnectionError:
                raise TurnedAwayError(TURNED_AWAY + str(error)) from error
            raise
        finally:
            self._is_greeting = False
            self._owed = due
        self._met(is_well=True)
        info = self.introduction[0]
        if isinstance(info, bytes):
            self.run_id = parse_info(info).get("run_id", "")

    def _met(self, *, is_well: bool) -> None:
        """Learn whether the handshake went well."""

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
        if not self._is_foreign():
            self._confess()
        super()._close()  # type: ignore[misc] # mixin

    async def disconnect(self, *args: Any, **kwargs: Any) -> None:
        """Close; a connection that owes a reply becomes a stray."""
        if self._is_foreign():
            self._close()  # at once: the loop that could close it is the parent's
            return
        self._confess()
        await super().disconnect(*args, **kwargs)  # type: ignore[misc] # mixin

    def _is_foreign(self) -> bool:
        """Whether a fork has left it here; if so, this process lets go of it."""
        if self._pid in (0, os.getpid()):
            return False
        writer = self._writer  # type: ignore[attr-defined] # mixin
        if writer is not None:
            file = writer.transport.get_extra_info("socket")
            if file is not None and file.fileno() >= 0:
                let_go(file.fileno())
        return True

    def _confess(self) -> None:
        owed, self._owed = self._owed, 0
        if owed and not self._is_greeting and self.on_stray is not None:
            self.on_stray(self.client_id, self.run_id)


class _Resolved:
    """Resolves its host at each dial, and tries every address it has.

    Each gets its share of the time, so that one that swallows packets leaves some for
    the next; and `addresses` remembers which failed, so that the next dial begins with
    another.
    """

    addresses: Addresses | None = None  # shared by who dials the same node
    address = ""  # the one in use, or tried last

    async def _connect(self) -> None:
        if self.addresses is None:
            self.addresses = Addresses()
        loop, limit = asyncio.get_running_loop(), self.socket_connect_timeout  # type: ignore[attr-defined] # mixin
        end = None if limit is None else loop.time() + limit
        async with asyncio.timeout_at(end):
            found = await resolve(self.host, self.port)  # type: ignore[attr-defined] # mixin
        candidates = self.addresses.ordered(found)
        first: OSError | None = None
        for left in range(len(candidates), 0, -1):
            self.address = candidates[-left]
            share = None if end is None else (end - loop.time()) / left
            try:
                async with asyncio.timeout(share):
                    await super()._connect()  # type: ignore[misc] # mixin
            except OSError as error:  # a TimeoutError is one
                self.addresses.failed(self.address)
                first = first or error
            else:
                return
        try:
            raise first or OSError(f"{self.host} has no address")  # type: ignore[attr-defined] # mixin
        finally:
            del first  # its traceback holds this frame

    def _met(self, *, is_well: bool) -> None:
        assert self.addresses is not None
        if is_well:
            self.addresses.worked(self.address)
        else:
            self.addresses.failed(self.address)

    def _connection_arguments(self) -> Mapping[str, Any]:
        arguments = dict(super()._connection_arguments())  # type: ignore[misc] # mixin
        if arguments.get("host") == self.host != self.address:  # type: ignore[attr-defined] # mixin
            arguments["host"] = self.address
            if arguments.get("ssl") is not None:
                arguments["server_hostname"] = self.host  # type: ignore[attr-defined] # mixin
        return arguments


class _Watched:
    """Has the kernel watch its path, unless the user chose otherwise."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        mine: Any = self
        if mine.socket_keepalive_options == get_default_socket_keepalive_options():
            mine.socket_keepalive_options = path_options()


class CrewConnection(_Watched, _Resolved, _Accountable, Connection):
    """TCP."""


class CrewSSLConnection(_Watched, _Resolved, _Accountable, SSLConnection):
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
