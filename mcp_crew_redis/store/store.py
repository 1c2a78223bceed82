"""The rooms of one store, made once and shared by the manager and every tenant."""

from __future__ import annotations

from random import Random
from typing import Final
from uuid import uuid4

from mcp_crew_redis._core.backoff import DecorrelatedJitter
from mcp_crew_redis._core.owner import TaskOwner
from mcp_crew_redis._core.restoring import Restorer
from mcp_crew_redis._wire.keys import TenantKeys
from mcp_crew_redis.errors import CrewRedisError, DataError, UnavailableError
from mcp_crew_redis.log import get_logger
from mcp_crew_redis.store.batches import Batches
from mcp_crew_redis.store.conflicts import MergeConflict
from mcp_crew_redis.store.context import StoreContext
from mcp_crew_redis.store.counter_ledger import CounterLedger
from mcp_crew_redis.store.counting import check_amount
from mcp_crew_redis.store.deferring import DeferringCounters
from mcp_crew_redis.store.fallback import Fallback
from mcp_crew_redis.store.gate import Gate
from mcp_crew_redis.store.journal.journal import Journal
from mcp_crew_redis.store.kinds import check_keyed
from mcp_crew_redis.store.landing import Landing
from mcp_crew_redis.store.lifetimes import Lifetimes
from mcp_crew_redis.store.ordered import Order
from mcp_crew_redis.store.registry import TenantRegistry
from mcp_crew_redis.store.sync import Synchroniser
from mcp_crew_redis.store.upkeep import OnProgress, Upkeep
from mcp_crew_redis.store.values import Values
from mcp_crew_redis.store.window import ReplayWindow
from mcp_crew_redis.types import DataType

__all__ = ["Store"]

log = get_logger(__name__)

MAX_PAUSE: Final = 2.0
"""Seconds between two attempts to repeat a purge that the server had lost."""


class Store:
    """Everything that can be done with the data of tenants, by their keys.

    Nothing below this takes a tenant's name: `keys.tenant(name)` validates it and is
    the only way in. One for each node and event loop. Construction is inert.

    Args:
        context: The parts.
        journal: What waits for Redis; None for an empty one, in memory.
        replay_window: Seconds of acknowledged writes that are put back on a server
            which is another one than before; 0 for none.
        merge: Decides conflicts; None keeps what stands in Redis.

    Attributes:
        context: The parts.
        keys: The only builder of keys.
        values: One value at a time.
        lifetimes: Whether there is one, and for how long.
        batches: Many at once.
        counters: Exact counters.
        upkeep: What concerns all of a tenant's keys.
        registry: Which tenants there are.
        fallback: The way into the journal.
        journal: What was accepted and waits for Redis.
        window: What was acknowledged and may still be lost.
        landing: What became of entries.
        sync: Brings the journal into Redis.
    """

    def __init__(
        self,
        context: StoreContext,
        *,
        journal: Journal | None = None,
        replay_window: float = 3.0,
        merge: MergeConflict | None = None,
    ) -> None:
        registry = TenantRegistry(context)
        gate, order = Gate(context.port), Order(context, registry)
        self.context, self.keys = context, context.keys
        self.journal = Journal() if journal is None else journal
        self.window = ReplayWindow(
            context.clock,
            context.stamps,
            context.keys,
            self.journal,
            seconds=replay_window,
            memory_us=round(context.tombstone_ttl * 1e6),
        )
        fallback = Fallback(self.journal, context.stamps, self.window)
        self._ledger = CounterLedger(fallback, self.window, context.stamps)
        # Another name for each store: the server remembers what a name has added.
        self.counters = DeferringCounters(context, uuid4().hex, self._ledger)
        self.values = Values(context, gate, order, fallback, self.counters)
        self.lifetimes = Lifetimes(gate, order, fallback, self.values)
        self.batches = Batches(context, gate, order, fallback, self.values)
        self.upkeep = Upkeep(context, registry, on_floor=self._purged)
        self.registry = registry
        self.fallback = fallback
        self.landing = Landing(context, fallback, self.counters, merge)
        self.sync = Synchroniser(context, self.journal, registry, self.landing)
        self._noted = order.noted
        self._prepared = order.prepared
        self._owner = TaskOwner("store")
        context.stamps.on_first = self.journal.shift
        self.window.on_floor = self._sweep_again
        if replay_window > 0:
            port = context.port
            port.client.node.restorer = Restorer(self.window, port.scripts)

    def __repr__(self) -> str:
        return f"<Store {self.keys.prefix} {self.context.stamps!r}>"

    async def increment(
        self,
        keys: TenantKeys,
        data_type: DataType,
        identifier: str,
        amount: int,
        ttl: float | None,
    ) -> int:
        """Add to a counter; see `Counters.increment`."""
        if data_type is not DataType.COUNTER:
            check_keyed(data_type)
            raise DataError("counters are of DataType.COUNTER, values of other types")
        keys.key(data_type, identifier)  # refused now, if it is to be refused
        check_amount(amount)
        lives_ms = self.values.lifetime_ms(data_type, ttl, None)
        try:
            await self._prepared(keys)
        except UnavailableError as error:
            if not self.fallback.takes(error):
                raise
            return await self.counters.defer(keys, identifier, amount, lives_ms)
        return await self.counters.increment(keys, identifier, amount, lives_ms)

    async def purge(self, tenant_id: str, on_progress: OnProgress | None) -> int:
        """Remove all that a tenant has; see `Upkeep.purge`."""
        self._noted.pop(tenant_id, None)  # the next write notes it again
        return await self.upkeep.purge(tenant_id, on_progress)

    def _purged(self, tenant_id: str, floor: int) -> None:
        """Forget what was accepted or acknowledged before a purge."""
        self.journal.forget(tenant_id, floor)
        self.window.note_floor(tenant_id, floor)
        self._ledger.forget_tenant(tenant_id)

    def _sweep_again(self, tenant_id: str, floor: int) -> None:
        self._owner.start(self._sweep(tenant_id, floor), "sweep")

    async def _sweep(self, tenant_id: str, floor: int) -> None:
        """Sweep until it is done: what was purged stands there to be read."""
        pauses = DecorrelatedJitter(Random(), cap=MAX_PAUSE)  # noqa: S311 - jitter
        is_told = False
        while True:
            try:
                await self.upkeep.sweep(tenant_id, floor)
            except CrewRedisError as error:
                if not is_told:
                    log.warning("tenant.sweep_failed", cause=type(error).__name__)
            else:
                return
            is_told = True
            await self.context.clock.sleep(next(pauses))

    async def aclose(self) -> None:
        """Synchronise what can be, end what is under way. Idempotent."""
        self.fallback.is_closing = True
        await self._owner.aclose()
        await self.sync.aclose()
        await self.context.stamps.aclose()
