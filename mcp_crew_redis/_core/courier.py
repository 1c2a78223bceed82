"""The careful way of a command: bulk, waiting, retries, dedicated connections.

The retry rule: what the server refused before executing it, and what was never sent,
may be sent again within the deadline; what was sent and not answered only if it reads.
Everything else is `OutcomeUnknownError`. A budget stops retry storms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from redis import exceptions as redis_errors
from redis.client import EMPTY_RESPONSE, NEVER_DECODE

from mcp_crew_redis._core.admission import running_loop
from mcp_crew_redis._core.commands import block_seconds, is_read
from mcp_crew_redis._core.dedicated import DedicatedPool
from mcp_crew_redis._core.lane import Lane, Slot
from mcp_crew_redis._core.node import Node
from mcp_crew_redis._core.resp import pack_command
from mcp_crew_redis._core.seam import Encoder, close_quietly
from mcp_crew_redis._core.translation import translate
from mcp_crew_redis._core.wire_errors import (
    LaneLostError,
    WireTimeoutError,
    refusal_code,
    serves_nobody,
)
from mcp_crew_redis._core.wire_settings import PATIENCE
from mcp_crew_redis.errors import UnavailableError

__all__ = ["PASSAGE", "REPEATABLE", "Courier", "Passage"]

REPEATABLE = "crew_repeatable"  # an option: sending the command twice is harmless
PASSAGE = "crew_passage"  # an option: a Passage, for whoever has to know
FIRST_PAUSE = 0.02  # seconds before the first retry of a refused command; then doubled


class _Parser(Protocol):
    """What the courier needs of redis-py's client: reading a dedicated reply."""

    async def parse_response(
        self, connection: Any, command_name: str | bytes, **options: Any
    ) -> Any: ...


class Passage:
    """Where a command is whose caller may be cancelled.

    Attributes:
        is_waiting: It waits for its place on a lane: cancelled now, it is never sent.
    """

    __slots__ = ("is_waiting",)

    def __init__(self) -> None:
        self.is_waiting = False


class Courier:
    """Carries commands that the hot path may not send, or whose sending failed."""

    def __init__(
        self, client: _Parser, node: Node, pool: DedicatedPool, encoder: Encoder
    ) -> None:
        self._client = client
        self._node = node
        self._pool = pool
        self._encoder = encoder
        self._decodes = bool(encoder.decode_responses)
        self.bulk_bytes = node.settings.bulk_bytes
        self.is_utf8 = encoder.encoding.lower().replace("_", "-") in ("utf-8", "utf8")

    # --- lanes ----------------------------------------------------------------------

    def pack(self, args: Sequence[Any]) -> bytes:
        """Pack a command as redis-py does: `"SCRIPT LOAD"` is two words on the wire.

        Raises:
            redis.exceptions.DataError: An argument has no form on the wire.
        """
        name = args[0]
        words = name.encode().split() if isinstance(name, str) else name.split()
        parts = (*words, *args[1:])
        if self.is_utf8:
            try:
                return pack_command(parts)
            except TypeError:
                pass  # the encoder knows more types, and the words for what it refuses
        # bytes(): what it returns may be a bytearray or a memoryview.
        return pack_command(tuple(bytes(self._encoder.encode(p)) for p in parts))

    async def deliver(self, args: Sequence[Any], options: dict[str, Any]) -> Any:
        """Send over the right lane, again if that is safe, and return the raw reply."""
        packed = self.pack(args)
        deadline = self._now() + PATIENCE * self._node.settings.command_timeout
        try:
            return await self._send_by(deadline, args, packed, options)
        except Exception as error:  # noqa: BLE001 - sorted there
            return await self.recover(error, args, options, deadline)

    async def submit(
        self,
        args: Sequence[Any],
        packed: bytes,
        *,
        is_raw: bool = False,
        is_bulk: bool = False,
        is_going: bool = False,
    ) -> tuple[Lane, Slot]:
        """Wait for room on the right lane and submit; the reply is not awaited.

        Args:
            args: The command, for its keys.
            packed: It, packed.
            is_raw: Keep the reply undecoded.
            is_bulk: Take the bulk lane in any case.
            is_going: See `admit`.
        """
        node, routing = self._node, self._node.routing
        while not is_bulk:
            is_bulk = len(packed) > node.settings.bulk_bytes or (
                routing.is_active and routing.takes_bulk(args)
            )
            if is_bulk:
                break
            lane = await node.admission.acquire(is_going=is_going)
            if routing.is_active and routing.takes_bulk(args):
                lane.give_back()  # the key went to the bulk lane while we waited
                continue
            return lane, self._place(lane, packed, is_raw=is_raw)
        pin = routing.pin(args)  # whatever has one of these keys follows from here on
        try:
            await self._interactive_reached()
            lane = await node.admission.acquire(is_bulk=True, is_going=is_going)
        except BaseException:
            routing.unpin(pin)
            raise
        slot = self._place(lane, packed, is_raw=is_raw)
        routing.flies(pin, lane.submitted)
        return lane, slot

    @staticmethod
    def _place(lane: Lane, packed: bytes, *, is_raw: bool) -> Slot:
        slot = lane.submit(packed)
        if is_raw:
            lane.raw.add(slot)
        return slot

    async def _send_by(
        self,
        deadline: float,
        args: Sequence[Any],
        packed: bytes,
        options: dict[str, Any],
    ) -> Any:
        """Send once; every wait on the way ends by `deadline`, on the loop's clock."""
        passage = options.get(PASSAGE) or Passage()
        is_raw = self._decodes and NEVER_DECODE in options
        try:
            async with asyncio.timeout_at(deadline):
                return await self._send(args, packed, passage, is_raw=is_raw)
        except TimeoutError as error:
            if isinstance(error, WireTimeoutError):
                raise
            timeout = PATIENCE * self._node.settings.command_timeout
            raise WireTimeoutError(timeout, sent=not passage.is_waiting) from None

    async def _send(
        self, args: Sequence[Any], packed: bytes, passage: Passage, *, is_raw: bool
    ) -> Any:
        passage.is_waiting = True
        lane, slot = await self.submit(args, packed, is_raw=is_raw)
        passage.is_waiting = False
        reply = await slot
        if lane.large and slot in lane.large:
            self.learn(args)
        return reply

    async def _interactive_reached(self) -> None:
        lane = self._node.interactive
        timeout = self._node.settings.command_timeout
        try:
            async with asyncio.timeout(timeout):
                await lane.reached()
        except TimeoutError:
            raise WireTimeoutError(timeout, sent=False) from None

    def learn(self, args: Sequence[Any]) -> None:
        """Send the next command of this kind over the bulk lane."""
        self._node.routing.learn(args)

    # --- failures -------------------------------------------------------------------

    async def recover(
        self,
        error: Exception,
        args: Sequence[Any],
        options: dict[str, Any],
        deadline: float | None = None,
    ) -> Any:
        """Send again if that is safe and there is time; otherwise raise.

        Args:
            error: What the first attempt ended with.
            args: The command.
            options: Its options.
            deadline: On the loop's clock; None where the first attempt may have taken
                one timeout and no more, so that half of one is left.

        Returns:
            The reply of a later attempt.
        """
        if deadline is None:
            rest = (PATIENCE - 1.0) * self._node.settings.command_timeout
            deadline = self._now() + rest
        pause, was_sent = FIRST_PAUSE, False
        try:
            while True:
                if isinstance(error, LaneLostError):
                    was_sent = was_sent or (error.sent and not is_read(args))
                if EMPTY_RESPONSE in options and isinstance(
                    error, redis_errors.ResponseError
                ):
                    return options[EMPTY_RESPONSE]
                wait = self._wait_before_repeating(error, args, options, pause)
                if (
                    wait is None
                    or self._now() + wait >= deadline
                    or not self._node.budget.withdraw()
                ):
                    raise translate(error, was_sent=was_sent)
                await asyncio.sleep(wait)
                pause *= 2
                try:
                    packed = self.pack(args)
                    return await self._send_by(deadline, args, packed, options)
                except Exception as again:  # noqa: BLE001 - the loop sorts it
                    error = again
        finally:
            del error  # its traceback holds this frame: a cycle for each failure

    @staticmethod
    def _now() -> float:
        return running_loop().time()

    def _wait_before_repeating(
        self,
        error: Exception,
        args: Sequence[Any],
        options: dict[str, Any],
        pause: float,
    ) -> float | None:
        """Return the seconds to wait; None if the command must not be sent again."""
        if isinstance(error, LaneLostError):
            is_safe = not error.sent or REPEATABLE in options or is_read(args)
            return 0.0 if is_safe else None
        if isinstance(error, UnavailableError) or not isinstance(
            error, redis_errors.RedisError
        ):
            return None
        if (code := refusal_code(error)) is None:
            return None
        if code == "READONLY":
            # A replica now: this address may lead to another server already.
            self._node.retire(code)
        if serves_nobody(error):
            self._node.breaker.record_refusal(self._node.breaker.generation, code)
        return pause

    # --- dedicated connections --------------------------------------------------------

    async def run_dedicated(self, args: Sequence[Any], options: dict[str, Any]) -> Any:
        """Run one command on a connection of its own, for as long as it may block."""
        connection = await self._pool.get_connection()
        usual = connection.socket_timeout
        connection.socket_timeout = self._patience(args)
        is_answered = False
        try:
            await connection.send_command(*args)
            reply = await self._client.parse_response(connection, args[0], **options)
            is_answered = True
        except redis_errors.ResponseError:
            is_answered = True
            raise
        finally:
            connection.socket_timeout = usual
            if not is_answered:
                close_quietly(connection)
            await self._pool.put_back(connection)
        return reply

    def _patience(self, args: Sequence[Any]) -> float | None:
        """Seconds until the answer must have come; None for ever, if so asked."""
        block = block_seconds(args)
        if block == 0.0:
            return None
        return (block or 0.0) + self._node.settings.dedicated_timeout
