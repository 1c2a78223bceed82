"""Counters that are exact although replies get lost.

Every process numbers what it adds, and the server keeps the last number of each with
the value that came of it (lua/counter_add.lua). So a batch whose reply was lost is sent
again under its number: it is added once, and its callers get their values.

No task runs here. One of the callers sends for all that wait with it; when it has its
own value, or is cancelled, the next one takes over.
"""

from __future__ import annotations

import asyncio
import os
from itertools import count
from typing import Final

from mcp_crew_redis._core.courier import Passage
from mcp_crew_redis._wire.keys import MetaKey, TenantKeys
from mcp_crew_redis.errors import (
    InvalidTtlError,
    OutcomeUnknownError,
    UnavailableError,
)
from mcp_crew_redis.log import get_logger
from mcp_crew_redis.store.context import StoreContext
from mcp_crew_redis.store.counting import (
    DONE,
    Added,
    check_amount,
    check_writer,
    is_too_old,
    may_have_happened,
    no_counter,
    settle,
    settle_all,
    settle_failed,
)
from mcp_crew_redis.store.tally import NOBODY, Batch, Call, Tally
from mcp_crew_redis.types import DataType

__all__ = ["Counters"]

log = get_logger(__name__)

SCRIPT: Final = "counter_add"
MEMORY: Final = 12 * 3_600.0
"""Seconds that a batch may wait to be asked for again. The server forgets a writer
after 24 h; twice as long, so that no clock can bring the two together."""
MAX_UNCERTAIN: Final = 10_000
"""Counters remembered only because their last batch is uncertain."""
Command = tuple[str, tuple[bytes, bytes], tuple[str | int, ...]]


class Counters:
    """The counters of all tenants, as one process adds to them.

    One per node and event loop. Exact for up to 64 processes that add to the same
    counter at a time: the server remembers no more of them.

    Args:
        context: The store's parts.
        writer_id: 1 to 64 of `A-Z a-z 0-9 . _ -`, unique to this object: a second one
            under the same name would be taken for a repetition of the first. A forked
            child appends its process id.

    Raises:
        DataError: `writer_id` is not one.
    """

    def __init__(self, context: StoreContext, writer_id: str) -> None:
        check_writer(writer_id)
        self._run = context.port.run
        self._send_command = context.port.send
        self._clock = context.clock
        self._now_us = context.stamps.hybrid.now_us
        self._name = writer_id
        self._writer = writer_id
        self._pid = os.getpid()
        self._number = count(1).__next__
        self._tallies: dict[bytes, Tally] = {}
        self._uncertain: dict[bytes, None] = {}

    def __repr__(self) -> str:
        figures = f"{len(self._tallies)} at work, {len(self._uncertain)} uncertain"
        return f"<Counters {self._writer}: {figures}>"

    @property
    def uncertain_count(self) -> int:
        """Counters whose last batch is neither known as added nor as lost."""
        return len(self._uncertain)

    # --- operations -------------------------------------------------------------------

    async def increment(
        self, keys: TenantKeys, identifier: str, amount: int, ttl_ms: int
    ) -> int:
        """Add `amount` and return the value that the counter then had.

        Callers of one process that come while an increment of the same counter is
        under way share the next one; each gets its own value, in order of arrival.

        Cancelled before its batch was sent, nothing is added; afterwards it stays.

        Args:
            keys: The tenant's.
            identifier: The counter's name.
            amount: A signed 64-bit integer; 0 reads and refreshes the time to live.
            ttl_ms: Time to live in milliseconds from this increment on.

        Raises:
            UnavailableError: Redis did not answer. Nothing was added, except after
                OutcomeUnknownError and a timeout that had sent: then the amount may
                have been added, and is added at last by the next increment of this
                counter. Do not repeat it yourself.
            DataError: No 64-bit integer, the value would leave 64 bits, or the key
                holds something else; nothing was added.
            ConflictError: The tenant was purged while this was under way.
        """
        check_amount(amount)
        if ttl_ms < 1:
            raise InvalidTtlError("ttl_ms must be at least 1")
        tally = self._tally(keys, identifier)
        call = Call(amount, ttl_ms)
        tally.waiting[call] = None
        try:
            if tally.driver is not None:
                call.wake = asyncio.get_running_loop().create_future()
                await call.wake
            if call.outcome is None:
                tally.driver = call
                await self._drive(tally, call)
        finally:
            call.is_gone = True
            tally.waiting.pop(call, None)
            if tally.driver is call:
                self._leave(tally)
        outcome = call.outcome
        if isinstance(outcome, Exception):
            raise outcome
        assert outcome is not None
        if call.is_deferred:
            await self._committed()
        return outcome

    async def read(self, keys: TenantKeys, identifier: str) -> int | None:
        """Return the counter's value, None if there is none.

        Raises:
            UnavailableError: Redis did not answer.
            DataError: The key holds something else.
        """
        key = keys.key(DataType.COUNTER, identifier)
        value = await self._send_command("HGET", key, "v")
        try:
            return None if value is None else int(value)
        except ValueError:
            raise no_counter() from None

    def forget(self, key: bytes) -> None:
        """Drop an uncertain batch: its counter was deleted, and its number with it.

        One that somebody waits for is kept: it was under way beside the delete.
        """
        if key in self._uncertain:
            del self._uncertain[key], self._tallies[key]

    # What a fallback may do otherwise.
    def _added(self, tally: Tally, batch: Batch, value: int) -> None:
        """Take note that a batch was added, and of the value after it."""

    def _keeps(self, tally: Tally, batch: Batch, error: UnavailableError) -> bool:  # noqa: ARG002 - for overriders
        """Settle a batch that Redis did not answer for; False to tell its callers."""
        return False

    async def _committed(self) -> None:
        """Return when what was kept is as safe as was asked for."""

    # --- who sends --------------------------------------------------------------------

    def _tally(self, keys: TenantKeys, identifier: str) -> Tally:
        if self._pid != os.getpid():  # a forked child: what is under way is not its own
            self._pid = os.getpid()
            self._writer = f"{self._name}.{self._pid}"
            self._tallies.clear()
            self._uncertain.clear()
        key = keys.key(DataType.COUNTER, identifier)
        tally = self._tallies.get(key)
        if tally is None:
            floor = keys.meta(MetaKey.FLOOR)
            tally = self._tallies[key] = Tally(key, floor, keys.tenant_id)
        elif self._uncertain:
            self._uncertain.pop(key, None)
        return tally

    def _leave(self, tally: Tally) -> None:
        """Hand over; after a shared batch, when those that it served had their turn.

        They often come back at once: then all of them fit into the next batch.
        Otherwise the first to come would be sent alone, every other time.
        """
        if not tally.is_shared:
            self._hand_over(tally)
            return
        tally.is_shared = False
        tally.driver = NOBODY
        asyncio.get_running_loop().call_soon(self._hand_over, tally)

    def _hand_over(self, tally: Tally) -> None:
        """Let the next one send; without one, keep only what is uncertain."""
        tally.driver = heir = tally.heir()
        if heir is not None:
            heir.rouse()
        elif tally.batch is None:
            self._tallies.pop(tally.key, None)
        else:
            tally.batch.calls = ()
            self._uncertain[tally.key] = None
            if len(self._uncertain) > MAX_UNCERTAIN:
                key = next(iter(self._uncertain))
                del self._uncertain[key], self._tallies[key]
                log.warning("counter.batch_abandoned", cause="too many uncertain")

    async def _drive(self, tally: Tally, call: Call) -> None:
        """Send batches until `call` has its outcome."""
        while call.outcome is None:
            if is_too_old(tally.batch, self._clock.monotonic()):
                log.warning("counter.batch_abandoned", cause="too old to ask for")
                tally.batch = None
            if tally.batch is None:
                tally.batch = self._freeze(tally)
            batch = tally.batch
            try:
                reply = await self._send(tally, batch)
            except UnavailableError as error:
                self._fail(tally, batch, error)
            except Exception as error:  # noqa: BLE001 - every caller has to know it
                tally.batch = None
                settle_all(batch, error)
            else:
                tally.batch = None
                settle(tally, batch, reply)
                if reply[0] in DONE:
                    self._added(tally, batch, int(reply[1]))
            tally.is_shared = tally.is_shared or len(batch.calls) > 1

    # --- batches ----------------------------------------------------------------------

    def _freeze(self, tally: Tally) -> Batch:
        calls = tally.take()
        ttl_ms = calls[-1].ttl_ms
        return Batch(
            sequence=self._number(),
            calls=calls,
            delta=sum(call.amount for call in calls),
            ttl_ms=ttl_ms,
            made_us=self._now_us(),
            expires_at=self._clock.monotonic() + min(ttl_ms / 1_000, MEMORY),
        )

    async def _send(self, tally: Tally, batch: Batch) -> list[int | bytes]:
        """Send a batch; one whose reply was lost is sent again, once."""
        if not batch.is_uncertain:
            batch.is_uncertain = True  # a cancelled await leaves it so
            passage = Passage()
            try:
                # Not repeatable: the error then tells whether this one was sent.
                return await self._send_first(tally, batch, passage)
            except OutcomeUnknownError:
                pass
            except UnavailableError as error:
                batch.is_uncertain = may_have_happened(error)
                raise
            except asyncio.CancelledError:
                if passage.is_waiting:  # never sent: only its own caller leaves
                    tally.batch = None
                    tally.put_back(batch.calls)
                raise
        again = self._command(tally, batch)
        return list(await self._run(*again, is_repeatable=True))

    async def _send_first(
        self, tally: Tally, batch: Batch, passage: Passage
    ) -> list[int | bytes]:
        reply = list(await self._run(*self._command(tally, batch), passage=passage))
        if reply[0] == Added.PURGED:
            # Its callers are alive: it comes after the purge. The clock is behind.
            batch.made_us = max(self._now_us(), int(reply[1]) + 1)
            reply = list(await self._run(*self._command(tally, batch), passage=passage))
        return reply

    def _command(self, tally: Tally, batch: Batch) -> Command:
        numbers = batch.sequence, batch.delta, batch.ttl_ms, batch.made_us
        return SCRIPT, (tally.key, tally.floor), (self._writer, *numbers)

    def _fail(self, tally: Tally, batch: Batch, error: UnavailableError) -> None:
        if self._keeps(tally, batch, error):
            tally.batch = None
        else:
            settle_failed(tally, batch, error)
