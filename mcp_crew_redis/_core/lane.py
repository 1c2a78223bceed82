"""A lane: one multiplexed connection that many callers share.

Commands leave in the order they were submitted and replies return in that order, so a
reply needs no name: the oldest slot takes it. A slot is a plain future. A caller who is
cancelled cancels the future and nothing else; the reply still arrives, finds a finished
future and is dropped, so nobody ever gets the reply of somebody else.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Protocol

import hiredis
from redis._parsers.base import BaseParser

from mcp_crew_redis._core.seam import Handover
from mcp_crew_redis._core.wire_errors import LaneLostError, WireTimeoutError
from mcp_crew_redis._core.wire_settings import WireSettings

__all__ = ["Lane", "LaneKeeper", "LaneStatistics", "Slot"]

Slot = asyncio.Future[Any]

MORE = object()  # hiredis: no complete reply yet; False is a RESP3 boolean
ODD = (Exception, hiredis.PushNotification)  # what is not simply a result
PING = hiredis.pack_command(("PING",))


class LaneKeeper(Protocol):
    """Who is told what happens on a lane. Every call is synchronous."""

    def lane_silent(self, lane: Lane, count: int) -> None:
        """`count` commands timed out and no byte has come since they were sent."""

    def lane_late(self, lane: Lane, count: int) -> None:
        """`count` commands timed out while other replies still arrive."""

    def lane_ended(self, lane: Lane, cause: str, unanswered: int) -> None:
        """The lane is over; every slot has its error."""

    def lane_measured(self, lane: Lane, answered: int, slow: int) -> None:
        """`answered` replies since the last report, of which `slow` were slow."""


@dataclass(slots=True)
class _Mark:
    """The commands up to number `end` had left by time `at`."""

    end: int
    at: float
    chunks: int  # chunks received by then: equal later means silence since


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneStatistics:
    """Figures of one lane.

    Attributes:
        sent: Commands handed to the transport.
        answered: Replies received.
        pending: Commands whose reply is outstanding, buffered ones included.
        waiting: Callers waiting for room.
        pushes: Out-of-band messages received.
    """

    sent: int
    answered: int
    pending: int
    waiting: int
    pushes: int


class Lane(asyncio.Protocol):
    """One multiplexed connection. Born dead; `attach` gives it a transport."""

    def __init__(
        self,
        name: str,
        settings: WireSettings,
        keeper: LaneKeeper,
        *,
        slow_after: float = 0.1,
        on_push: Callable[[list[Any]], None] | None = None,
        decoding: tuple[str, str] | None = None,
    ) -> None:
        self.name = name
        self.client_id: int | None = None
        self.run_id = ""  # of the server process at the other end
        # The hot path of the client reads and fills these itself.
        self.pending: deque[Slot] = deque()
        self.buffer: list[bytes] = []
        self.limit = 0  # submit at once only while len(pending) < limit
        self.large: set[Slot] = set()  # slots whose reply was over bulk_bytes
        self.raw: set[Slot] = set()  # slots whose reply is not decoded
        self.new_slot: Callable[[], Slot]
        self.call_soon: Callable[..., asyncio.Handle]
        self.is_alive = False
        self._settings = settings
        self._keeper = keeper
        self._slow_after = slow_after
        self._on_push = on_push
        self._decoding = decoding
        self._transport: asyncio.Transport | None = None
        self._handover: Handover | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._marks: deque[_Mark] = deque()
        self._sent = 0  # commands handed to the transport
        self._expired = 0  # commands up to this number have had their timeout
        self._reported = 0  # replies reported to the keeper
        self._measured = 0  # commands up to this number have been measured
        self._slow = 0
        self._chunks = 0
        self._idle_chunks = -1
        self._due = float("inf")  # when the timer fires
        self._partial = 0  # bytes of a reply that is still arriving
        self._pushes = 0
        self._paused = False
        self._gated = False
        self._heirs = 0  # woken waiters that have not submitted yet
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._barriers: list[tuple[int, asyncio.Future[None]]] = []
        self.on_progress: Callable[[], None] | None = None

    # --- life ---------------------------------------------------------------------

    def attach(self, connect: Callable[[asyncio.Protocol], Handover]) -> None:
        """Take over a connection: `connect` switches its transport to this lane.

        Raises:
            ConnectionError: The connection ended meanwhile.
        """
        self._loop = asyncio.get_running_loop()
        self.new_slot = partial(asyncio.Future, loop=self._loop)
        self.call_soon = self._loop.call_soon
        encoding = {}
        if self._decoding is not None:
            encoding = {"encoding": self._decoding[0], "errors": self._decoding[1]}
        self._reader = hiredis.Reader(
            replyError=BaseParser.parse_error, notEnoughData=MORE, **encoding
        )
        self._handover = connect(self)
        self._transport = self._handover.transport
        high = self._settings.max_queued_bytes
        self._transport.set_write_buffer_limits(high=high, low=high // 2)
        self.client_id = self._handover.client_id
        self.is_alive = True
        self._arm(self._loop.time() + self._settings.idle_ping)
        self._refresh_limit()
        if self._handover.leftover:
            self.data_received(self._handover.leftover)

    def set_gate(self, *, is_gated: bool) -> None:
        """Close the direct way: while gated every caller must ask the node first."""
        self._gated = is_gated
        self._refresh_limit()

    def close(self, cause: str = "closed") -> None:
        """End the lane now; whoever waits gets an error."""
        self._end(cause)

    def _end(self, cause: str) -> None:
        if not self.is_alive:
            return
        self.is_alive = False
        self.limit = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._report()
        unanswered = self._sent - self.answered
        # abort, not close: close() would first send what is still buffered, and what
        # was given up must not leave any more.
        if self._transport is not None:
            self._transport.abort()
        self._fail_all(cause, unanswered)
        self._keeper.lane_ended(self, cause, unanswered)

    def _fail_all(self, cause: str, sent: int) -> None:
        slots, self.pending = self.pending, deque()
        self.buffer.clear()
        for position, slot in enumerate(slots):
            if not slot.done():
                slot.set_exception(LaneLostError(cause, sent=position < sent))
        self._marks.clear()
        self.large.clear()
        self.raw.clear()
        for waiter in (*self._waiters, *(future for _, future in self._barriers)):
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()
        self._barriers.clear()

    # --- sending ------------------------------------------------------------------

    def submit(self, packed: bytes) -> Slot:
        """Append one packed command; the caller has made sure that there is room."""
        slot = self.new_slot()
        self.pending.append(slot)
        buffer = self.buffer
        if not buffer:
            self.call_soon(self.flush)
        buffer.append(packed)
        settings = self._settings
        if len(buffer) >= settings.flush_commands or len(packed) > settings.bulk_bytes:
            self.flush()
        return slot

    def flush(self) -> None:
        """Write what is buffered. Also called by the loop at the end of a tick."""
        buffer = self.buffer
        if not buffer or self._transport is None:
            return
        now = self._loop.time()
        self._sent += len(buffer)
        self._marks.append(_Mark(self._sent, now, self._chunks))
        data = buffer[0] if len(buffer) == 1 else b"".join(buffer)
        buffer.clear()
        if self._due > now + self._settings.command_timeout:
            self._arm(now + self._settings.command_timeout)
        self._transport.write(data)

    def pause_writing(self) -> None:
        """Stop submissions: the transport holds more than its high-water mark."""
        self._paused = True
        self._refresh_limit()

    def resume_writing(self) -> None:
        """Go on."""
        self._paused = False
        self._wake_waiters()

    async def room(self) -> None:
        """Wait in turn until one command may be submitted.

        The caller holds the deadline. After return the caller must submit at once,
        without an await between, or check `is_alive` and give up.
        """
        if self.has_room:
            return
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append(waiter)
        self._refresh_limit()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            elif self.is_alive and not waiter.cancelled():
                self._heirs -= 1  # it was given a place and does not use it
            self._wake_waiters()
            raise
        if self.is_alive:
            self._heirs -= 1
            self._refresh_limit()

    async def reached(self) -> None:
        """Wait until everything submitted so far is answered; the caller's deadline."""
        if not self.pending:
            return
        future: asyncio.Future[None] = self._loop.create_future()
        self._barriers.append((self._sent + len(self.buffer), future))
        await future

    @property
    def has_room(self) -> bool:
        """Whether a command may be submitted without waiting for a turn."""
        return not self._waiters and self._space() > 0

    def _space(self) -> int:
        if not self.is_alive or self._paused:
            return 0
        return self._settings.max_pending - len(self.pending) - self._heirs

    def _refresh_limit(self) -> None:
        is_open = (
            self.is_alive and not self._paused and not self._gated and not self._waiters
        )
        self.limit = self._settings.max_pending - self._heirs if is_open else 0

    def _wake_waiters(self) -> None:
        while self._waiters and self._space() > 0:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._heirs += 1
                waiter.set_result(None)
        self._refresh_limit()

    # --- receiving ----------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Hand every complete reply to the oldest slot."""
        self._chunks += 1
        reader = self._reader
        reader.feed(data)
        if self._partial or self.raw or len(data) > self._settings.bulk_bytes:
            self._receive_carefully(len(data))
        else:
            gets, pop = reader.gets, self.pending.popleft
            before = len(self.pending)
            try:
                while (reply := gets()) is not MORE:
                    if type(reply) is not bytes and isinstance(reply, ODD):
                        self._odd(reply)
                        continue
                    slot = pop()
                    if not slot.done():
                        slot.set_result(reply)
            except (IndexError, hiredis.ProtocolError):
                self._end("protocol")
                return
            if len(self.pending) == before:
                self._partial = len(data)
        marks = self._marks
        if marks and marks[0].end <= self._sent + len(self.buffer) - len(self.pending):
            self._measure()
        if self._waiters:
            self._wake_waiters()
        if self._barriers:
            self._pass_barriers()
        if self.on_progress is not None:
            self.on_progress()

    def _receive_carefully(self, size: int) -> None:
        """As above, for chunks with large replies and for replies kept undecoded."""
        self._partial += size
        pending = self.pending
        try:
            while True:
                is_raw = bool(pending) and pending[0] in self.raw
                reply = self._reader.gets(False) if is_raw else self._reader.gets()  # noqa: FBT003
                if reply is MORE:
                    return
                if isinstance(reply, ODD):
                    self._odd(reply)
                    continue
                slot = pending.popleft()
                self.raw.discard(slot)
                if self._partial > self._settings.bulk_bytes and not slot.done():
                    weight = reply_size(reply, self._settings.bulk_bytes)
                    if weight > self._settings.bulk_bytes:
                        self.large.add(slot)
                if not self._reader.has_data():
                    self._partial = 0
                if not slot.done():
                    slot.set_result(reply)
        except (IndexError, hiredis.ProtocolError):
            self._end("protocol")

    def _odd(self, reply: Exception | list[Any]) -> None:
        if not isinstance(reply, Exception):
            self._pushes += 1
            if self._on_push is not None:
                self._on_push(reply)
            return
        slot = self.pending.popleft()
        self.raw.discard(slot)
        if not slot.done():
            slot.set_exception(reply)

    def _pass_barriers(self) -> None:
        answered = self.answered
        still = []
        for end, future in self._barriers:
            if end > answered:
                still.append((end, future))
            elif not future.done():
                future.set_result(None)
        self._barriers = still

    def eof_received(self) -> None:
        """The other side closed; the transport then reports the loss."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail everything pending."""
        self._end("closed by the server" if exc is None else type(exc).__name__)

    # --- time ---------------------------------------------------------------------

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = when
        self._timer = self._loop.call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        """Time out what is due. One timer a lane, armed for the oldest mark."""
        now = self._loop.time()
        timeout = self._settings.command_timeout
        marks = self._marks
        self._report()
        if not marks:
            self._idle(now)
            return
        if now >= marks[0].at + 2 * timeout:
            self._end("no answer")
            return
        due = [mark for mark in marks if mark.at + timeout <= now]
        if due and due[-1].end > self._expired:
            self._expire(due[-1].end, is_silent=due[0].chunks == self._chunks)
        if not self.is_alive:
            return
        undue = (m.at + timeout for m in marks if m.end > self._expired)
        self._arm(min(next(undue, now + timeout), marks[0].at + 2 * timeout))

    def _expire(self, end: int, *, is_silent: bool) -> None:
        """Give the commands up to number `end` their timeout; their slots stay."""
        answered = self.answered
        start = max(self._expired, answered) - answered
        late = [s for s in islice(self.pending, start, end - answered) if not s.done()]
        self._expired = end
        for slot in late:
            slot.set_exception(
                WireTimeoutError(self._settings.command_timeout, sent=True)
            )
        if is_silent:
            self._keeper.lane_silent(self, len(late))
        else:
            self._keeper.lane_late(self, len(late))

    def _idle(self, now: float) -> None:
        """Prove with a PING, once in a while, that a silent connection is alive."""
        if self._chunks == self._idle_chunks:
            # An abandoned slot: nobody waits, and silence is noticed all the same.
            self.submit(PING).cancel()
            self._due = float("inf")
            self.flush()
        else:
            self._idle_chunks = self._chunks
            self._arm(now + self._settings.idle_ping)

    def _measure(self) -> None:
        """Drop the marks that are answered and count those that took too long."""
        answered, marks, now = self.answered, self._marks, self._loop.time()
        while marks and marks[0].end <= answered:
            mark = marks.popleft()
            if now - mark.at > self._slow_after:
                self._slow += mark.end - self._measured
            self._measured = mark.end

    def _report(self) -> None:
        answered = self.answered
        if answered > self._reported:
            count, self._reported = answered - self._reported, answered
            slow, self._slow = min(self._slow, count), 0
            self._keeper.lane_measured(self, count, slow)

    # --- what others read -----------------------------------------------------------

    @property
    def answered(self) -> int:
        """Replies received so far."""
        return self._sent + len(self.buffer) - len(self.pending)

    @property
    def submitted(self) -> int:
        """Commands submitted so far, which is the number of the latest."""
        return self._sent + len(self.buffer)

    @property
    def queued_bytes(self) -> int:
        """Bytes that have not left this process."""
        waiting = 0 if self._transport is None else _unsent(self._transport)
        return waiting + sum(map(len, self.buffer))

    def statistics(self) -> LaneStatistics:
        """Return the figures of this moment."""
        return LaneStatistics(
            sent=self._sent,
            answered=self.answered,
            pending=len(self.pending),
            waiting=len(self._waiters),
            pushes=self._pushes,
        )

    def __repr__(self) -> str:
        state = "alive" if self.is_alive else "dead"
        return f"<Lane {self.name} {state} pending={len(self.pending)}>"


def _unsent(transport: asyncio.Transport) -> int:
    return transport.get_write_buffer_size()


def reply_size(reply: object, enough: int) -> int:
    """Return about how many bytes `reply` holds, counting no further than `enough`."""
    if isinstance(reply, (bytes, str)):
        return len(reply)
    if isinstance(reply, dict):
        parts = [part for item in reply.items() for part in item]
    elif isinstance(reply, (list, set)):
        parts = list(reply)
    else:
        return 8
    total = 0
    for part in parts:
        total += reply_size(part, enough - total)
        if total > enough:
            break
    return total
