"""A lane: one multiplexed connection that many callers share.

Commands leave in the order they were submitted and replies return in that order, so a
reply needs no name: the oldest slot takes it. A slot is a plain future. A caller who is
cancelled cancels the future and nothing else; the reply still arrives, finds a finished
future and is dropped, so nobody ever gets the reply of somebody else.
"""

from __future__ import annotations

import asyncio
import os
from asyncio import get_running_loop
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from mcp_crew_redis._core.forks import let_go
from mcp_crew_redis._core.inbox import Inbox, Slot
from mcp_crew_redis._core.lane_keeper import LaneKeeper
from mcp_crew_redis._core.lane_queue import Barriers, Turnstile
from mcp_crew_redis._core.lane_watch import LaneWatch
from mcp_crew_redis._core.resp import ProtocolError, pack_command
from mcp_crew_redis._core.seam import Handover
from mcp_crew_redis._core.statistics import LaneStatistics
from mcp_crew_redis._core.wire_errors import LaneLostError
from mcp_crew_redis._core.wire_settings import WireSettings

__all__ = ["PING", "Lane", "Slot"]

PING = pack_command(("PING",))


class Lane(asyncio.Protocol):
    """One multiplexed connection, dead until `attach` gives it a transport.

    Attributes:
        pending: Slots without a reply, oldest first.
        buffer: Packed commands of this tick.
        limit: A caller may submit at once only while `len(pending) < limit`.
        large: Slots whose reply was over `bulk_bytes`, until their caller has run.
        token: The circuit's generation, under which commands are written now.
        raw: Slots whose reply is not to be decoded.
        chunks: Pieces of input received.
    """

    def __init__(
        self,
        name: str,
        settings: WireSettings,
        keeper: LaneKeeper,
        *,
        is_bulk: bool = False,
        slow_after: float = 0.1,
        on_push: Callable[[list[Any]], None] | None = None,
        decoding: tuple[str, str] | None = None,
    ) -> None:
        self.name = name
        self.is_bulk = is_bulk
        self.client_id: int | None = None
        self.run_id = ""  # of the server process at the other end
        self.is_alive = False
        self.pending: deque[Slot] = deque()
        self.buffer: list[bytes] = []
        self.limit = 0
        self.token = 0
        self.chunks = 0
        self.on_progress: Callable[[], None] | None = None
        self._settings = settings
        self._keeper = keeper
        self._transport: asyncio.Transport | None = None
        self._handover: Handover | None = None
        self._watch = LaneWatch(self, keeper, settings, slow_after)
        self._turnstile = Turnstile(
            self._space, self._refresh_limit, burst=1 if is_bulk else settings.burst
        )
        self._barriers = Barriers()
        self._inbox = Inbox(self.pending, settings.bulk_bytes, decoding, on_push)
        self.large, self.raw = self._inbox.large, self._inbox.raw
        self._sent = 0
        self._flush_at = 1 if is_bulk else settings.flush_commands
        # The last write was alone on the lane: one caller at a time, who gains by a
        # write at once what many would lose.
        self._is_sequential = False
        self._is_paused = self._is_gated = False

    # --- life ---------------------------------------------------------------------

    def attach(self, connect: Callable[[asyncio.Protocol], Handover]) -> None:
        """Take over a connection: `connect` switches its transport to this lane.

        Raises:
            ConnectionError: The connection ended meanwhile.
        """
        self._pid = os.getpid()
        self._loop = loop = get_running_loop()
        self._new_slot: Callable[[], Slot] = partial(asyncio.Future, loop=loop)
        self._call_soon = loop.call_soon
        self._handover = handover = connect(self)
        self._transport = handover.transport
        high = self._settings.max_queued_bytes
        self._transport.set_write_buffer_limits(high=high, low=high // 2)
        self.client_id = handover.client_id
        self.is_alive = True
        self._watch.start()
        self._refresh_limit()
        if handover.leftover:
            self.data_received(handover.leftover)

    def gate(self, *, is_gated: bool, token: int) -> None:
        """Close the direct way: while gated every caller must ask the node first."""
        self._is_gated = is_gated
        self.token = token
        self._refresh_limit()

    def end(self, cause: str) -> None:
        """End the lane now; whoever waits gets an error. Idempotent."""
        if not self.is_alive:
            return
        self.is_alive = False
        self.limit = 0
        token = self._watch.stop()
        unanswered = self._sent - self.answered
        if os.getpid() != self._pid and self.fileno is not None:
            let_go(self.fileno)  # a fork has left it here: it is the parent's
        if self._transport is not None:
            # abort, not close: close() would first send what is still queued, and
            # what was given up must not leave any more.
            self._transport.abort()
        slots = tuple(self.pending)
        self.pending.clear()
        self.buffer.clear()
        for position, slot in enumerate(slots):
            if not slot.done():
                slot.set_exception(LaneLostError(cause, sent=position < unanswered))
                slot.exception()  # its caller may be gone: asyncio need not say so
        self.large.clear()
        self.raw.clear()
        self._turnstile.open()
        self._barriers.passed(float("inf"))
        self._keeper.lane_ended(self, cause, unanswered, token=token)

    # --- sending ------------------------------------------------------------------

    def submit(self, packed: bytes) -> Slot:
        """Append one packed command; the caller has made sure that there is room.

        Raises:
            RuntimeError: Called from another event loop; nothing was sent.
        """
        if get_running_loop() is not self._loop:
            raise RuntimeError("used from another one")
        slot = self._new_slot()
        self.pending.append(slot)
        buffer = self.buffer
        buffer.append(packed)
        count = len(buffer)
        if count >= self._flush_at or (self._is_sequential and len(self.pending) == 1):
            self.flush()
        elif count == 1:
            self._call_soon(self.flush)
        if self._turnstile.waiters:
            self._turnstile.wake()
        return slot

    def ping(self) -> None:
        """Send a PING whose reply nobody waits for: an abandoned slot."""
        self.submit(PING).cancel()
        self.flush()

    def flush(self) -> None:
        """Write what is buffered. Also called by the loop at the end of a tick."""
        buffer = self.buffer
        if not buffer or self._transport is None:
            return
        self._sent += len(buffer)
        self._watch.wrote(self._sent)
        self._is_sequential = len(self.pending) == 1
        data = buffer[0] if len(buffer) == 1 else b"".join(buffer)
        buffer.clear()
        self._transport.write(data)

    def pause_writing(self) -> None:
        """Stop submissions: the transport holds more than its high-water mark."""
        self._is_paused = True
        self._refresh_limit()

    def resume_writing(self) -> None:
        """Go on."""
        self._is_paused = False
        self._turnstile.wake()

    async def room(self) -> None:
        """Wait in turn until one command may be submitted; the caller's deadline.

        Afterwards the caller checks `is_alive` and submits without an await between.
        """
        await self._turnstile.passage()

    def give_back(self) -> None:
        """Hand on a turn that `room` gave and that is not used."""
        self._turnstile.wake()

    async def reached(self) -> None:
        """Wait until all submitted so far is answered; the caller's deadline."""
        if self.pending:
            await self._barriers.reached(self.submitted)

    @property
    def has_room(self) -> bool:
        """Whether a command may be submitted without waiting for a turn."""
        return self._turnstile.is_free

    def _space(self) -> int:
        if not self.is_alive or self._is_paused:
            return 0
        return self._settings.max_pending - len(self.pending)

    def _refresh_limit(self) -> None:
        turnstile = self._turnstile
        is_open = self.is_alive and not (
            self._is_paused or self._is_gated or turnstile.waiters
        )
        self.limit = self._settings.max_pending - turnstile.heirs if is_open else 0

    # --- receiving ----------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Hand every complete reply to the oldest slot."""
        self.chunks += 1
        try:
            self._inbox.receive(data)
        except (IndexError, ProtocolError):  # a reply without a slot, or no reply
            self.end("protocol")
            return
        answered = self._sent + len(self.buffer) - len(self.pending)
        marks = self._watch.marks
        if marks and marks[0][0] <= answered:
            self._watch.passed(answered)
        if self._turnstile.waiters:
            self._turnstile.wake()
        if self._barriers.waiting:
            self._barriers.passed(answered)
        if self.on_progress is not None:
            self.on_progress()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail everything pending."""
        self.end("closed by the server" if exc is None else type(exc).__name__)

    # --- what others read ---------------------------------------------------------

    @property
    def refusals(self) -> int:
        """Replies that said "not executed"."""
        return self._inbox.refusals

    @property
    def fileno(self) -> int | None:
        """The file descriptor of the connection; None when there is none."""
        transport = self._transport
        file = None if transport is None else transport.get_extra_info("socket")
        number = -1 if file is None else file.fileno()
        return None if number < 0 else number

    @property
    def peer(self) -> str:
        """The address at the other end; empty on a unix socket."""
        transport = self._transport
        name = None if transport is None else transport.get_extra_info("peername")
        return str(name[0]) if isinstance(name, tuple) else ""

    @property
    def submitted(self) -> int:
        """Commands submitted so far, which is the number of the latest."""
        return self._sent + len(self.buffer)

    @property
    def answered(self) -> int:
        """Replies received so far."""
        return self._sent + len(self.buffer) - len(self.pending)

    @property
    def heard(self) -> float:
        """Loop seconds of the last answer; 0 before the first."""
        return self._watch.heard

    def statistics(self) -> LaneStatistics:
        """Return the figures of this moment."""
        return LaneStatistics(
            sent=self._sent,
            answered=self.answered,
            pending=len(self.pending),
            waiting=len(self._turnstile.waiters),
            pushes=self._inbox.pushes,
        )

    def __repr__(self) -> str:
        return f"<Lane {self.name} {self.is_alive=} pending={len(self.pending)}>"
