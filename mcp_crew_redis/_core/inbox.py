"""What arrives on a lane: each reply to the oldest slot, pushes to their listener."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from mcp_crew_redis._core.resp import MORE, ODD, make_reader, reply_size
from mcp_crew_redis._core.wire_errors import refusal_code
from mcp_crew_redis.log import get_logger

__all__ = ["Inbox", "Slot"]

log = get_logger(__name__)

Slot = asyncio.Future[Any]


class Inbox:
    """Parses the input of one lane.

    Args:
        pending: The lane's slots, oldest first.
        bulk_bytes: Replies over this size are noted in `large`.
        decoding: Encoding and error handling of a client that decodes.
        on_push: Told of every RESP3 push.

    Attributes:
        large: Slots with a large reply, until their caller has run.
        raw: Slots whose reply is not to be decoded.
        refusals: Replies that said "not executed".
        pushes: Out-of-band messages received.
    """

    def __init__(
        self,
        pending: deque[Slot],
        bulk_bytes: int,
        decoding: tuple[str, str] | None,
        on_push: Callable[[list[Any]], None] | None,
    ) -> None:
        self.large: set[Slot] = set()
        self.raw: set[Slot] = set()
        self.refusals = self.pushes = 0
        self._pending = pending
        self._bulk_bytes = bulk_bytes
        self._on_push = on_push
        self._reader = make_reader(decoding)
        self._partial = 0  # bytes of a reply that is still arriving

    def receive(self, data: bytes) -> None:
        """Take in a piece of input.

        Raises:
            IndexError: A reply that nobody has asked for.
            ProtocolError: What came is not RESP.
        """
        self._reader.feed(data)
        is_simple = not (self._partial or self.raw or len(data) > self._bulk_bytes)
        while True:
            try:
                if is_simple:
                    self._take(len(data))
                else:
                    self._take_with_care(len(data))
            except UnicodeDecodeError as error:
                self._odd(error)  # of one caller; the next replies may follow
            else:
                return

    def _take(self, size: int) -> None:
        gets, pop = self._reader.gets, self._pending.popleft
        before = len(self._pending)
        while (reply := gets()) is not MORE:
            if type(reply) is not bytes and isinstance(reply, ODD):
                self._odd(reply)
                continue
            slot = pop()
            if not slot.done():
                slot.set_result(reply)
        if len(self._pending) == before:
            self._partial = size

    def _take_with_care(self, size: int) -> None:
        """As `_take`, where replies are large or must stay undecoded."""
        self._partial += size
        pending, reader = self._pending, self._reader
        while True:
            is_raw = bool(pending) and pending[0] in self.raw
            reply = reader.gets(False) if is_raw else reader.gets()
            if reply is MORE:
                return
            if isinstance(reply, ODD):
                self._odd(reply)
                continue
            slot = pending.popleft()
            self.raw.discard(slot)
            if not slot.done():
                slot.set_result(reply)
                # It is no larger than all that came since the last one that was whole.
                enough = self._bulk_bytes
                if self._partial > enough and reply_size(reply, enough) > enough:
                    self._note_large(slot)
            if not reader.has_data():
                self._partial = 0

    def _note_large(self, slot: Slot) -> None:
        self.large.add(slot)
        # Behind its caller's turn, which set_result has asked for already.
        slot.get_loop().call_soon(self.large.discard, slot)

    def _odd(self, reply: Exception | list[Any]) -> None:
        if not isinstance(reply, Exception):
            self.pushes += 1
            self._push(reply)
            return
        slot = self._pending.popleft()
        self.raw.discard(slot)
        if refusal_code(reply) is not None:
            self.refusals += 1
        if not slot.done():
            slot.set_exception(reply)
            slot.exception()  # its caller may be gone: asyncio need not say so

    def _push(self, message: list[Any]) -> None:
        if self._on_push is None:
            return
        try:
            self._on_push(message)
        except Exception as error:  # noqa: BLE001 - a listener's fault, not the lane's
            log.warning("wire.push_listener_failed", error=repr(error))
