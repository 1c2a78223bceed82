"""The bell's connection: asks for tracking once, then hears pushes and sends PINGs.

Pushes and PONGs share one ordered stream, so a PONG proves that nothing rung before
its PING was missed. The connection writes nothing to the data: ended at any moment, it
leaves nothing behind that could still happen.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from mcp_crew_redis._core.resp import MORE, ProtocolError, make_reader, pack_command
from mcp_crew_redis._core.seam import Handover
from mcp_crew_redis._core.wire_errors import refusal_code

__all__ = ["BellLine", "LineEndedError", "TrackingRefusedError"]

PING = pack_command(("PING",))
NAME = "crew-bell"


class LineEndedError(Exception):
    """Inside the bell only: the connection ended, or the server is not ready yet."""


class TrackingRefusedError(Exception):
    """Inside the bell only: this server or user gets no tracking."""


class BellLine(asyncio.Protocol):
    """One connection with tracking; `on_ended` is told its end, once.

    Args:
        timeout: Seconds a reply may take; up to twice as long while bytes arrive.
        interval: Seconds between a PONG and the next PING.
        on_keys: Told the changed keys of each piece of input, in order.
        on_flushed: Told that a database was emptied.
        on_proven: Told every PONG.
        on_ended: Told the cause.

    Attributes:
        is_alive: Between `attach` and the end.
        prefixes: What the server was asked for.
        run_id: Of the server process at the other end, if it said.
        pushes: Messages received.
    """

    def __init__(
        self,
        *,
        timeout: float,
        interval: float,
        on_keys: Callable[[Sequence[bytes]], None],
        on_flushed: Callable[[], None],
        on_proven: Callable[[BellLine], None],
        on_ended: Callable[[BellLine, str], None],
    ) -> None:
        self.is_alive = False
        self.prefixes: frozenset[bytes] = frozenset()
        self.run_id = ""
        self.pushes = 0
        self._timeout = timeout
        self._interval = interval
        self._on_keys = on_keys
        self._on_flushed = on_flushed
        self._on_proven = on_proven
        self._on_ended = on_ended
        self._reader = make_reader(None)
        self._pending: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._handover: Handover | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._heard = self._next_ping = 0.0

    # --- life ---------------------------------------------------------------------

    def attach(self, connect: Callable[[asyncio.Protocol], Handover]) -> None:
        """Take over a connection: `connect` switches its transport to this line.

        Raises:
            ConnectionError: The connection ended meanwhile.
        """
        self._loop = asyncio.get_running_loop()
        self._handover = handover = connect(self)
        self.is_alive = True
        self._heard = self._loop.time()
        self._next_ping = self._heard + self._interval
        self._arm()
        if handover.leftover:
            self.data_received(handover.leftover)

    async def track(self, prefixes: frozenset[bytes]) -> None:
        """Ask for tracking; returns with the first PONG behind its confirmation.

        HELLO again, because on a RESP2 connection the server would confirm and then
        never push.

        Raises:
            TrackingRefusedError: Forbidden, unknown here, or no RESP3.
            LineEndedError: The connection ended, or the server is still loading.
        """
        asked = [part for each in sorted(prefixes) for part in ("PREFIX", each)]
        hello, _, confirmed, pong = self._ask(
            pack_command(("HELLO", "3")),
            pack_command(("CLIENT", "SETNAME", NAME)),
            pack_command(("CLIENT", "TRACKING", "ON", "BCAST", *asked)),
            PING,
        )
        self.prefixes = prefixes
        for reply in (await hello, await confirmed):
            if isinstance(reply, Exception):
                raise _sorted_out(reply)
        proof = await pong
        if isinstance(proof, Exception) and refusal_code(proof) is not None:
            raise LineEndedError(str(proof))

    async def prove(self) -> None:
        """Send a PING and wait for its PONG: all that was rung before it is told.

        Raises:
            LineEndedError: The line ended first, and `on_ended` was told.
        """
        (pong,) = self._ask(PING)
        await pong

    def set_interval(self, seconds: float) -> None:
        """Send PINGs at another pace; the next one never later for it."""
        self._interval = seconds
        if self.is_alive:
            self._next_ping = min(self._next_ping, self._loop.time() + seconds)
            self._arm()

    def end(self, cause: str) -> None:
        """End the line now. Idempotent."""
        if not self.is_alive:
            return
        self.is_alive = False
        if self._timer is not None:
            self._timer.cancel()
        if self._handover is not None:
            self._handover.transport.abort()
        while self._pending:
            future, _ = self._pending.popleft()
            if not future.done():
                future.set_exception(LineEndedError(cause))
                future.exception()  # nobody may be waiting: asyncio need not say so
        self._on_ended(self, cause)

    # --- sending ------------------------------------------------------------------

    def _ask(self, *packed: bytes) -> list[asyncio.Future[Any]]:
        """Send commands in one write; error replies are results, not raised."""
        if not self.is_alive or self._handover is None:
            raise LineEndedError("ended")
        now = self._loop.time()
        futures = [self._loop.create_future() for _ in packed]
        self._pending.extend((future, now) for future in futures)
        self._handover.transport.write(b"".join(packed))
        self._arm()
        return futures

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        due = self._deadline() if self._pending else self._next_ping
        self._timer = self._loop.call_at(due, self._on_timer)

    def _deadline(self) -> float:
        # Bytes that arrive show a long queue, such as after a stall of our own loop,
        # not a dead path: the PONG stands behind them and gets as long again.
        _, sent = self._pending[0]
        return min(max(sent, self._heard) + self._timeout, sent + 2 * self._timeout)

    def _on_timer(self) -> None:
        if not self._pending:
            self._ask(PING)
        elif self._loop.time() >= self._deadline():
            self.end("no answer")
        else:
            self._arm()

    # --- receiving ----------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Tell the pushes of this piece of input, and take the replies."""
        self._heard = self._loop.time()
        keys: list[bytes] = []
        try:
            self._reader.feed(data)
            while (message := self._reader.gets()) is not MORE:
                if isinstance(message, list) and message[:1] == [b"invalidate"]:
                    self.pushes += 1
                    if isinstance(message[1], list):
                        keys += message[1]
                        continue
                    keys = self._told(keys)
                    self._on_flushed()
                elif not isinstance(message, list):  # other pushes concern nobody
                    self._replied(message)
        except (IndexError, ProtocolError):  # nobody asked, or not RESP
            self._told(keys)
            self.end("protocol")
        else:
            self._told(keys)

    def _told(self, keys: list[bytes]) -> list[bytes]:
        if keys and self.is_alive:
            self._on_keys(keys)
        return []

    def _replied(self, reply: object) -> None:
        if not self.is_alive:
            return
        future, _ = self._pending.popleft()
        if not future.done():
            future.set_result(reply)
        if not self._pending:
            self._next_ping = self._loop.time() + self._interval
            self._on_proven(self)
        if self.is_alive:
            self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """End: the other side, or the path, is gone."""
        self.end("closed by the server" if exc is None else type(exc).__name__)


def _sorted_out(reply: Exception) -> Exception:
    """Tell "not now" from "never"."""
    if refusal_code(reply) is not None:
        return LineEndedError(str(reply))
    return TrackingRefusedError(str(reply))
