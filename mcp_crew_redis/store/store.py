"""The rooms of one store, made once and shared by the manager and every tenant."""

from __future__ import annotations

from uuid import uuid4

from mcp_crew_redis._wire.keys import TenantKeys
from mcp_crew_redis.errors import DataError
from mcp_crew_redis.store.batches import Batches
from mcp_crew_redis.store.context import StoreContext
from mcp_crew_redis.store.counters import Counters
from mcp_crew_redis.store.counting import check_amount
from mcp_crew_redis.store.gate import Gate
from mcp_crew_redis.store.kinds import check_keyed
from mcp_crew_redis.store.ordered import Order
from mcp_crew_redis.store.registry import TenantRegistry
from mcp_crew_redis.store.upkeep import OnProgress, Upkeep
from mcp_crew_redis.store.values import Values
from mcp_crew_redis.types import DataType

__all__ = ["Store"]


class Store:
    """Everything that can be done with the data of tenants, by their keys.

    Nothing below this takes a tenant's name: `keys.tenant(name)` validates it and is
    the only way in. One for each node and event loop. Construction is inert.

    Args:
        context: The parts.

    Attributes:
        context: The parts.
        keys: The only builder of keys.
        values: One value at a time.
        batches: Many at once.
        counters: Exact counters.
        upkeep: What concerns all of a tenant's keys.
        registry: Which tenants there are.
    """

    def __init__(self, context: StoreContext) -> None:
        registry = TenantRegistry(context)
        gate, order = Gate(context.port), Order(context, registry)
        self.context = context
        self.keys = context.keys
        # Another name for each store: the server remembers what a name has added.
        self.counters = Counters(context, uuid4().hex)
        self.values = Values(context, gate, order, self.counters.forget)
        self.batches = Batches(context, gate, order, self.values)
        self.upkeep = Upkeep(context, registry)
        self.registry = registry
        self._noted = order.noted
        self._prepared = self.values.prepared

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
        await self._prepared(keys)
        return await self.counters.increment(keys, identifier, amount, lives_ms)

    async def purge(self, tenant_id: str, on_progress: OnProgress | None) -> int:
        """Remove all that a tenant has; see `Upkeep.purge`."""
        self._noted.pop(tenant_id, None)  # the next write notes it again
        return await self.upkeep.purge(tenant_id, on_progress)

    async def aclose(self) -> None:
        """End what is under way in the background. Idempotent."""
        await self.context.stamps.aclose()
