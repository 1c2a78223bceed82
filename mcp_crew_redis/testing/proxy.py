"""A proxy between a client and its server that can do what networks do."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import tempfile
from functools import partial
from types import TracebackType
from typing import Self

from mcp_crew_redis._core.owner import TaskOwner
from mcp_crew_redis.errors import ConfigurationError
from mcp_crew_redis.testing.connection import ProxiedConnection, Side
from mcp_crew_redis.testing.path import Path

__all__ = ["Address", "FaultProxy"]

#: A unix socket's path, or host and port.
Address = str | os.PathLike[str] | tuple[str, int]


class FaultProxy:
    """Stands between clients and one server, and breaks on command.

        async with FaultProxy(server.unix_socket) as proxy:
            client = Redis(**proxy.client_kwargs)
            proxy.replies.stall()

    Faults apply to every connection, present and future. Everything the proxy starts
    ends with its block. It may be entered and left in different tasks, as fixtures do.

    Args:
        upstream: Where the server listens: a unix socket's path or `(host, port)`.
        tcp: Listen on 127.0.0.1 instead of on a unix socket; RST needs it.
        tls: Speak TLS to the clients with this server context; needs `tcp`. The
            server behind is spoken to in plain: servers from wheels have no TLS.

    Attributes:
        requests: The path from the clients to the server.
        replies: The path back.
        connection_count: Connections accepted so far.
    """

    def __init__(
        self,
        upstream: Address,
        *,
        tcp: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if tls is not None and not tcp:
            raise ConfigurationError("TLS to the clients needs tcp=True")
        self.requests = Path()
        self.replies = Path()
        self.connection_count = 0
        self._upstream = upstream
        self._is_tcp = tcp
        self._tls = tls
        self._port = 0
        self._folder = ""
        self._listener: asyncio.AbstractServer | None = None
        self._connections: set[ProxiedConnection] = set()
        self._waiting: set[Side] = set()
        self._owner = TaskOwner("fault_proxy")
        self._dropped = asyncio.Event()
        self._dropped_pattern = b""

    def __repr__(self) -> str:
        state = "refusing" if self._listener is None else "accepting"
        return (
            f"<FaultProxy {state}, {self.open_count} open of {self.connection_count}, "
            f"requests {self.requests!r}, replies {self.replies!r}>"
        )

    async def __aenter__(self) -> Self:
        if not self._is_tcp:
            self._folder = tempfile.mkdtemp(prefix="proxy-")
        await self.accept()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.refuse()
        self.cut()
        await self._owner.aclose()
        self.cut()  # what the last dial may have added
        await asyncio.sleep(0)  # a transport closes its socket one turn later
        shutil.rmtree(self._folder, ignore_errors=True)

    # --- where to connect ----------------------------------------------------
    @property
    def unix_socket(self) -> str:
        """The path to connect to."""
        assert not self._is_tcp, "this proxy listens on TCP"
        return f"{self._folder}/s"

    @property
    def port(self) -> int:
        """The port to connect to on 127.0.0.1; it stays the same when reopened."""
        assert self._is_tcp, "this proxy listens on a unix socket"
        return self._port

    @property
    def client_kwargs(self) -> dict[str, str | int]:
        """Keyword arguments for a redis-py client that goes through the proxy.

        With TLS, add `ssl_ca_certs` of your certificates' issuer.
        """
        if self._is_tcp:
            tls = {} if self._tls is None else {"ssl": True}
            return {"host": "127.0.0.1", "port": self._port, "protocol": 3, **tls}
        return {"unix_socket_path": self.unix_socket, "protocol": 3}

    @property
    def open_count(self) -> int:
        """Connections that stand now."""
        self._prune()
        return len(self._connections) + len(self._waiting)

    # --- faults of whole connections -----------------------------------------
    async def accept(self) -> None:
        """Listen (again) on the same address."""
        if self._listener is not None:
            return
        loop = asyncio.get_running_loop()
        if self._is_tcp:
            self._listener = server = await loop.create_server(
                partial(Side, self._arrived), "127.0.0.1", self._port, ssl=self._tls
            )
            self._port = server.sockets[0].getsockname()[1]
        else:
            self._listener = await loop.create_unix_server(
                partial(Side, self._arrived), self.unix_socket
            )

    def refuse(self) -> None:
        """Refuse new connections; the present ones stay."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def cut(self, *, with_reset: bool = False) -> None:
        """End every connection at once, losing what is on its way.

        Args:
            with_reset: Send RST instead of FIN; over TCP only.
        """
        for connection in self._connections:
            connection.cut(with_reset=with_reset)
        for side in tuple(self._waiting):
            side.abort(with_reset=with_reset)
        self._waiting.clear()

    def reset(self) -> None:
        """End every connection with RST; the proxy must listen on TCP."""
        assert self._is_tcp, "a unix socket has no RST: use FaultProxy(..., tcp=True)"
        self.cut(with_reset=True)

    def drop_reply_to(self, pattern: bytes) -> None:
        """Lose the reply to the next request that holds `pattern`, and cut.

        The server executes the request; the first bytes that come back on that
        connection are thrown away and both its sockets closed, once.
        """
        self._dropped.clear()
        self._dropped_pattern = pattern
        for connection in self._connections:
            connection.drop_reply_to(pattern, self._reply_dropped)

    def heal(self) -> None:
        """Take away the faults of both paths and let go what was held.

        A refusing listener stays closed until `accept()`.
        """
        self._disarm()
        self.requests.heal()
        self.replies.heal()

    # --- signals -------------------------------------------------------------
    async def wait_for_request(self, pattern: bytes, count: int = 1) -> None:
        """Return once requests have held `pattern` `count` times; see `Path`."""
        await self.requests.wait_for(pattern, count)

    async def wait_for_reply(self, pattern: bytes, count: int = 1) -> None:
        """Return once replies have held `pattern` `count` times; see `Path`."""
        await self.replies.wait_for(pattern, count)

    async def wait_for_dropped_reply(self) -> None:
        """Return once `drop_reply_to` has done its work."""
        await self._dropped.wait()

    # --- connections ---------------------------------------------------------
    def _arrived(self, client: Side) -> None:
        self.connection_count += 1
        client.read(wanted=False)
        self._waiting.add(client)
        self._owner.start(self._connect(client), "connect")

    async def _connect(self, client: Side) -> None:
        try:
            server = await self._dial()
        except OSError:
            self._waiting.discard(client)
            client.abort(with_reset=True)  # the server is down: so is the path to it
            return
        if client not in self._waiting:  # cut in the meantime
            server.abort()
            return
        self._waiting.discard(client)
        self._prune()
        connection = ProxiedConnection(client, server, self.requests, self.replies)
        self._connections.add(connection)
        if self._dropped_pattern:
            connection.drop_reply_to(self._dropped_pattern, self._reply_dropped)

    async def _dial(self) -> Side:
        loop = asyncio.get_running_loop()
        if isinstance(self._upstream, tuple):
            host, port = self._upstream
            _, server = await loop.create_connection(Side, host, port)
        else:
            path = os.fspath(self._upstream)
            _, server = await loop.create_unix_connection(Side, path)
        return server

    def _reply_dropped(self) -> None:
        self._disarm()
        self._dropped.set()

    def _disarm(self) -> None:
        self._dropped_pattern = b""
        for connection in self._connections:
            connection.drop_reply_to(b"", lambda: None)

    def _prune(self) -> None:
        self._connections = {one for one in self._connections if one.is_open}
