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
    ConnectionLostError,
    FallbackFullError,
    InvalidTtlError,
    OutcomeUnknownError,
    UnavailableError,
)
from mcp_crew_redis.log import get_logger
from mcp_crew_redis.store.context import StoreContext
from mcp_crew_redis.store.counter_ledger import CounterLedger
from mcp_crew_redis.store.counting import (
    DONE,
    Added,
    check_amount,
    check_writer,
    fresh,
    is_too_old,
    may_have_happened,
    no_counter,
    settle,
    settle_all,
)
from mcp_crew_redis.store.entry import Entry
from mcp_crew_redis.store.fallback import is_away
from mcp_crew_redis.store.journal.entries import Delta
from mcp_crew_redis.store.tally import NOBODY, SYNC, Batch, Call, Tally
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
        ledger: Takes what Redis does not answer for; None to raise instead.

    Raises:
        DataError: `writer_id` is not one.
    """

    def __init__(
        self,
        context: StoreContext,
        writer_id: str,
        ledger: CounterLedger | None = None,
    ) -> None:
        check_writer(writer_id)
        self._ledger = ledger
        self._run = context.port.run
        self._send_command = context.port.send
        self._clock = context.clock
        self._now_us = context.stamps.hybrid.now_us
        self._name = writer_id
        self._writer = writer_id
        self._pid = os.getpid()
        self._number = count(1).__next__
        self._keys = context.keys
        self._tallies: dict[bytes, Tally] = {}
        self._uncertain: dict[bytes, None] = {}

    def __repr__(self) -> str:
        return (
            f"<Counters {self._writer}: {len(self._tallies)} at work, "
            f"{len(self._uncertain)} uncertain>"
        )

    @property
    def uncertain_count(self) -> int:
        """Counters whose last batch is neither known to be added nor to be lost."""
        return len(self._uncertain)

    # --- operations -------------------------------------------------------------------

    async def increment(
        self, keys: TenantKeys, identifier: str, amount: int, ttl_ms: int
    ) -> int:
        """Add `amount` and return the value that the counter then had.

        Callers of one process that come while an increment of the same counter is
        under way share the next one; each gets its own value, in order of arrival.

        Cancellation: before its batch was sent, nothing is added; afterwards it stays
        added. The other callers are not affected.

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
        if self._is_waiting(tally):
            return await self.defer(keys, identifier, amount, ttl_ms)
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
        if call.is_deferred and self._ledger is not None:
            await self._ledger.committed()
        return outcome

    async def defer(
        self, keys: TenantKeys, identifier: str, amount: int, ttl_ms: int
    ) -> int:
        """Have the journal add `amount` when it can, and return the value as believed.

        Raises:
            FallbackFullError: The journal is full.
            UnavailableError: Nothing is to be added and nothing is known.
        """
        assert self._ledger is not None
        tally = self._tally(keys, identifier)
        call = Call(amount, ttl_ms)
        if not amount and self._ledger.estimate(tally.key) is None:
            raise ConnectionLostError(
                "Redis is away, and the counter is not known here"
            )
        self._ledger.keep_call(tally, call, self._writer, self._number)
        if tally.driver is None and not tally.waiting and tally.batch is None:
            self._tallies.pop(tally.key, None)
        await self._ledger.committed()
        assert isinstance(call.outcome, int)
        return call.outcome

    async def entry(self, keys: TenantKeys, identifier: str) -> Entry[object] | None:
        """Return the counter's value and where it was read; None if there is none.

        Raises:
            UnavailableError: Redis did not answer, and nothing waits for it here.
        """
        key = keys.key(DataType.COUNTER, identifier)
        if self._ledger is not None and key in self._ledger.deltas:
            return self._ledger.entry(key)
        value = await self.read(keys, identifier)
        if value is None:
            return None
        return Entry(
            value=value,
            source="redis",
            age=0.0,
            is_stale=False,
            stamp=self._now_us(),
            expires_at=None,
        )

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
        if self._ledger is not None:
            self._ledger.forget(key)

    # --- synchronisation --------------------------------------------------------------

    def hold(self, key: bytes) -> bool:
        """Have callers of a counter wait: what the journal holds of it is being sent.

        Returns:
            Whether they do, until `release`; not while a batch of theirs is under way.
        """
        tally = self._tallies.get(key)
        if tally is None:
            parsed = self._keys.parse(key)
            assert parsed is not None, "a key that this layer did not build"
            tally = self._tally(self._keys.tenant(parsed.tenant), parsed.identifier)
        elif tally.driver is not None or tally.batch is not None:
            return False
        tally.driver = SYNC
        return True

    def release(self, key: bytes) -> None:
        """Let callers of a counter go on, or into the journal if it still holds any."""
        tally = self._tallies.get(key)
        if tally is None or tally.driver is not SYNC:
            return
        tally.driver = None
        if self._is_waiting(tally):
            self._defer_waiting(tally)
        self._hand_over(tally)

    def call(self, delta: Delta, floor: bytes) -> Command:
        """Return the script that adds a delta, once however often it is run."""
        numbers = (delta.sequence, delta.amount, delta.ttl_ms, delta.made_us)
        return SCRIPT, (delta.key, floor), (delta.writer, *numbers)

    def landed(self, delta: Delta, value: int, floor: bytes) -> None:
        """Take note that a delta was added and what came of it."""
        assert self._ledger is not None
        self._ledger.added(delta.key, value, self.call(delta, floor))

    def _is_waiting(self, tally: Tally) -> bool:
        """Whether callers have to go behind what the journal holds."""
        ledger = self._ledger
        return (
            ledger is not None
            and tally.key in ledger.deltas
            and tally.driver is not SYNC
        )

    def _defer_waiting(self, tally: Tally) -> None:
        """Send all who wait into the journal."""
        assert self._ledger is not None
        waiting, tally.waiting = tally.waiting, {}
        for call in waiting:
            try:
                self._ledger.keep_call(tally, call, self._writer, self._number)
            except UnavailableError as error:
                call.settle(fresh(error))

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
                if self._ledger is not None and reply[0] in DONE:
                    command = self._command(tally, batch)
                    self._ledger.added(tally.key, int(reply[1]), command)
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
        numbers = (batch.sequence, batch.delta, batch.ttl_ms, batch.made_us)
        return SCRIPT, (tally.key, tally.floor), (self._writer, *numbers)

    def _fail(self, tally: Tally, batch: Batch, error: UnavailableError) -> None:
        """Tell everybody; nobody waits for a second timeout."""
        if self._ledger is not None and is_away(error):
            try:
                self._ledger.keep_batch(tally, batch, self._writer)
            except FallbackFullError as full:
                if not batch.is_uncertain:
                    error = full
            else:
                tally.batch = None
                self._defer_waiting(tally)
                return
        unsent = error
        if batch.is_uncertain:
            if not may_have_happened(error):
                unknown = OutcomeUnknownError("an increment was sent and not answered")
                unknown.__cause__ = error
                settle_all(batch, unknown)
            else:
                settle_all(batch, error)
                unsent = ConnectionLostError("Redis did not answer; nothing was sent")
                unsent.__cause__ = error
        else:
            tally.batch = None
            settle_all(batch, error)
        waiting, tally.waiting = tally.waiting, {}
        for call in waiting:
            call.settle(fresh(unsent))
