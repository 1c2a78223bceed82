"""Synchronisation: what waits in the journal is brought into Redis.

    circuit closed --> batch of 128, fair over tenants --> one round trip --> next

One task, and only while something waits. What a batch holds is given back to the
journal until Redis has answered for it, so it is lost neither by an error nor by a
cancellation; every script it uses may be sent twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random
from typing import Final

from mcp_crew_redis._core.backoff import DecorrelatedJitter
from mcp_crew_redis._core.breaker import CircuitState
from mcp_crew_redis._core.owner import TaskOwner
from mcp_crew_redis._core.port import Call
from mcp_crew_redis.errors import (
    ConfigurationError,
    CrewRedisError,
    UnavailableError,
)
from mcp_crew_redis.log import get_logger
from mcp_crew_redis.store.context import StoreContext, TenantNotes
from mcp_crew_redis.store.counting import may_have_happened
from mcp_crew_redis.store.journal.entries import Entry, Posting, Register
from mcp_crew_redis.store.journal.journal import Journal
from mcp_crew_redis.store.landing import Landing, Settled, landed

__all__ = ["Synchroniser"]

log = get_logger(__name__)

BATCH: Final = 128
"""Entries of one round trip."""
BATCH_BYTES: Final = 1024 * 1024
RATE: Final = 10_000.0
"""Entries a second of one process: what others send still finds its place."""
MAX_JITTER: Final = 0.5
"""Seconds within which the processes of a fleet begin after an outage."""
ADOPTION_PAUSE: Final = 30.0
"""Seconds between two looks at what others have left."""
FIRST_PAUSE: Final = 0.05
MAX_PAUSE: Final = 2.0


def _nothing() -> int:
    """Nobody leaves anything."""
    return 0


class Synchroniser:
    """Brings a journal into Redis whenever both have something to say.

    Args:
        context: The store's parts.
        journal: What waits.
        registry: Told of the tenants whose entries have landed.
        landing: Makes commands of entries and judges the answers.
        random: Jitter; tests may pin it.

    Attributes:
        reason: Why it does not get on; None while it does.
        adopt: Takes over what processes that have died left; returns how many entries.
    """

    def __init__(
        self,
        context: StoreContext,
        journal: Journal,
        registry: TenantNotes,
        landing: Landing,
        *,
        random: Random | None = None,
    ) -> None:
        self.reason: str | None = None
        self.adopt: Callable[[], int] = _nothing
        self._port, self._clock = context.port, context.clock
        self._stamps = context.stamps
        self._node = context.port.client.node
        self._journal = journal
        self._registry = registry
        self._landing = landing
        self._random = random or Random()  # noqa: S311 - jitter
        self._owner = TaskOwner("sync")
        self._is_closed = False
        self._unnoted: dict[str, None] = {}  # tenants, at most those of one batch more
        self._next_adoption = 0.0
        self._recovered = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._node.on_circuit.append(self._circuit_changed)
        journal.on_entry = self.kick

    def __repr__(self) -> str:
        return f"<Synchroniser {self._journal!r} {self.reason or 'well'}>"

    def kick(self) -> None:
        """See to it that what waits is synchronised; from a coroutine's loop."""
        is_idle = self._idle.is_set()
        if is_idle and not self._is_closed and self._journal.has_work:
            self._idle.clear()
            self._owner.start(self._run(), "journal")

    def _circuit_changed(self) -> None:
        if self._is_recovered:
            self._recovered.set()
        else:
            self._recovered.clear()

    @property
    def _is_recovered(self) -> bool:
        # Not `is_closed`: while the circuit ramps, some of what is sent gets through.
        return self._node.breaker.state is CircuitState.CLOSED

    # --- the task ---------------------------------------------------------------------

    async def settled(self) -> None:
        """Return when nothing waits but what waits for a decision; set a deadline."""
        while (self._journal.has_work or not self._idle.is_set()) and (
            not self._is_closed
        ):
            self.kick()
            await self._idle.wait()

    async def _run(self) -> None:
        try:
            await self._drain()
        finally:
            self._idle.set()
        if self._clock.monotonic() >= self._next_adoption:
            self._next_adoption = self._clock.monotonic() + ADOPTION_PAUSE
            self.adopt()  # what did not fit before, and whoever has died since
        if self._journal.has_work and not self._is_closed:
            self.kick()  # what came just now

    async def _drain(self) -> None:
        pauses = DecorrelatedJitter(self._random, base=FIRST_PAUSE, cap=MAX_PAUSE)
        count = 0
        while self._journal.has_work or self._unnoted:
            await self._until_closed()
            began = self._clock.monotonic()
            try:
                done = await self._round()
            except Exception as error:  # noqa: BLE001 - nothing may end this but its owner
                self._failed(error)
                await self._clock.sleep(next(pauses))
                continue
            pauses.reset()
            self.reason = None
            count += done
            await self._pace(done, began)
        if count:
            log.info("journal.drained", entry_count=count)

    async def _until_closed(self) -> None:
        """Wait for the circuit; after an outage, a little longer than the others."""
        if self._is_recovered:
            return
        self.reason = "the circuit is not closed"
        log.warning("journal.deferring", cause=self.reason)
        self._recovered.clear()
        await self._recovered.wait()
        await self._clock.sleep(self._random.uniform(0, MAX_JITTER))

    async def _pace(self, count: int, began: float) -> None:
        left = count / RATE - (self._clock.monotonic() - began)
        if left > 0 and self._journal.has_work:
            await self._clock.sleep(left)

    def _failed(self, error: Exception) -> None:
        if self.reason is None:
            is_ours = isinstance(error, CrewRedisError)
            told = None if is_ours else error  # a defect: with its traceback
            log.warning(
                "journal.sync_failed", cause=type(error).__name__, exc_info=told
            )
        self.reason = f"{type(error).__name__}: {error}"

    # --- one round trip ---------------------------------------------------------------

    async def _round(self) -> int:
        if not self._stamps.is_ready:
            await self._stamps.ready()
        await self._note()
        batch = self._journal.batch(BATCH, BATCH_BYTES)
        left = dict.fromkeys(batch)
        try:
            ready, calls = self._landing.prepare(batch)
            if not calls:
                await self._clock.sleep(FIRST_PAUSE)  # all of it is under way elsewhere
                return 0
            await self._exchange(ready, calls, left)
        finally:
            for entry in left:
                self._journal.again(entry)
            self._landing.release(batch)
        await self._note()
        return len(batch)

    async def _exchange(
        self, ready: Sequence[Entry], calls: Sequence[Call], left: dict[Entry, None]
    ) -> None:
        """Send, and judge each answer; what is settled is taken out of `left`.

        Raises:
            UnavailableError: Redis did not answer, or refuses to serve.
        """
        landing = self._landing
        doubtful = dict.fromkeys(ready)
        refusal: CrewRedisError | None = None
        conflicts: list[Register] = []
        try:
            replies = await self._send(calls, doubtful)
            # One tenant's keys may be denied; all of them are the server's mood.
            is_denied = all(isinstance(reply, ConfigurationError) for reply in replies)
            for entry, reply in zip(ready, replies, strict=True):
                del doubtful[entry]
                if isinstance(reply, UnavailableError) or (
                    is_denied and isinstance(reply, ConfigurationError)
                ):
                    refusal = reply  # not executed: later
                    continue
                if not isinstance(entry, Posting) and landed(reply):
                    self._unnoted[entry.tenant_id] = None
                settled = landing.settle(entry, reply)
                if settled is Settled.CONFLICT and isinstance(entry, Register):
                    conflicts.append(entry)
                else:
                    del left[entry]
        finally:
            landing.doubt(doubtful)
        landing.release(ready)  # nobody waits for somebody else's conflicts
        await self._resolve(conflicts, left)
        if refusal is not None:
            raise refusal

    async def _send(
        self, calls: Sequence[Call], doubtful: dict[Entry, None]
    ) -> Sequence[object]:
        try:
            return await self._port.run_many(calls)
        except UnavailableError as error:
            if not may_have_happened(error):
                doubtful.clear()
            raise

    async def _resolve(
        self, conflicts: Sequence[Register], left: dict[Entry, None]
    ) -> None:
        """See to conflicts side by side: a merge callback may take its time."""
        failures: list[UnavailableError] = []

        async def one(register: Register) -> None:
            try:
                await self._landing.resolve(register)
                del left[register]
            except UnavailableError as error:
                failures.append(error)
            except Exception as error:  # noqa: BLE001 - it must not stop the others
                self._journal.trouble(register, f"{type(error).__name__}: {error}")

        if conflicts:
            async with asyncio.TaskGroup() as group:
                for register in conflicts:
                    group.create_task(one(register))
        if failures:
            raise failures[0]

    async def _note(self) -> None:
        """Tell the registry of tenants that have something in Redis again."""
        for tenant_id in list(self._unnoted):
            await self._registry.note(tenant_id)
            del self._unnoted[tenant_id]

    # --- the end ----------------------------------------------------------------------

    async def aclose(self, deadline: float = 2.0) -> None:
        """Synchronise what still can be, for at most `deadline` seconds. Idempotent."""
        if not self._is_closed and self._is_recovered:
            with suppress(TimeoutError):
                async with asyncio.timeout(deadline):
                    await self.settled()
        self._is_closed = True
        await self._owner.aclose()
        if self._journal.depth:
            log.warning(
                "journal.left_behind",
                entry_count=self._journal.depth,
                is_durable=self._journal.keeper.is_durable,
            )
