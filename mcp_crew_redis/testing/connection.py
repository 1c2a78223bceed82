"""One proxied connection: two sockets and the pipes between them."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

from mcp_crew_redis.testing.path import Path, Pipe

__all__ = ["ProxiedConnection", "Side"]

_RESET_AT_CLOSE = struct.pack("ii", 1, 0)


class Side(asyncio.Protocol):
    """One socket of a proxied connection."""

    def __init__(self, on_made: Callable[[Side], None] | None = None) -> None:
        self._on_made = on_made
        self._transport: asyncio.Transport | None = None
        self.on_data: Callable[[bytes], None] = lambda _: None
        self.on_end: Callable[[], None] = lambda: None
        self.on_flow: Callable[[], None] = lambda: None
        self.is_writable = True
        self._is_reading = True

    @property
    def is_open(self) -> bool:
        """Whether the socket is still there."""
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._on_made is not None:
            self._on_made(self)

    def data_received(self, data: bytes) -> None:
        """Hand the bytes to the pipe."""
        self.on_data(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Let the other side learn of it in its turn."""
        self._transport = None
        self.on_end()

    def pause_writing(self) -> None:
        """The peer is slow: its sender has to wait."""
        self.is_writable = False
        self.on_flow()

    def resume_writing(self) -> None:
        """The peer has caught up."""
        self.is_writable = True
        self.on_flow()

    def read(self, wanted: bool) -> None:  # noqa: FBT001 - a state, not an option
        """Start or stop reading."""
        if self._transport is None or self._transport.is_closing():
            return
        if wanted != self._is_reading:
            self._is_reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def write(self, data: bytes) -> None:
        """Send, unless the socket is gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Send what is buffered, then FIN."""
        if self._transport is not None:
            self._transport.close()

    def abort(self, *, with_reset: bool = False) -> None:
        """Close at once; over TCP with RST if asked."""
        if self._transport is None:
            return
        peer = self._transport.get_extra_info("socket")
        if with_reset and peer is not None and peer.family != socket.AF_UNIX:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        self._transport.abort()


class ProxiedConnection:
    """A client's socket, the server's socket, and a pipe in each direction."""

    def __init__(
        self, client: Side, server: Side, requests: Path, replies: Path
    ) -> None:
        self._client = client
        self._server = server
        self._requests = Pipe(requests, server.write, server.close)
        self._replies = Pipe(replies, client.write, client.close)
        self._dropped_pattern = b""
        self._on_dropped: Callable[[], None] = lambda: None
        self._is_dropping = False
        self._tail = b""
        client.on_data, server.on_data = self._request, self._reply
        client.on_end, server.on_end = self._requests.end, self._replies.end
        client.on_flow = server.on_flow = self._balance
        self._requests.on_flow = self._replies.on_flow = self._balance
        client.read(wanted=True)

    def drop_reply_to(self, pattern: bytes, on_dropped: Callable[[], None]) -> None:
        """Cut when the first bytes come back after a request with `pattern`."""
        self._dropped_pattern, self._on_dropped = pattern, on_dropped
        self._is_dropping = False
        self._tail = b""

    def _request(self, data: bytes) -> None:
        if self._dropped_pattern:
            window = self._tail + data
            self._is_dropping |= self._dropped_pattern in window
            self._tail = window[max(0, len(window) - len(self._dropped_pattern) + 1) :]
        self._requests.feed(data)
        self._balance()

    def _reply(self, data: bytes) -> None:
        if self._is_dropping:
            self._on_dropped()
            self.cut()
            return
        self._replies.feed(data)
        self._balance()

    def _balance(self) -> None:
        """Let each sender wait while its receiver or its pipe is full."""
        self._client.read(self._server.is_writable and not self._requests.is_full)
        self._server.read(self._client.is_writable and not self._replies.is_full)

    @property
    def is_open(self) -> bool:
        """Whether the client's or the server's socket is still there."""
        return self._client.is_open or self._server.is_open

    def cut(self, *, with_reset: bool = False) -> None:
        """End both sockets and lose what was on its way."""
        self._requests.discard()
        self._replies.discard()
        self._client.abort(with_reset=with_reset)
        self._server.abort()
