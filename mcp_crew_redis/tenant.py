"""`Tenant`: the operations of the manager and of the events, bound to one tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, overload

from mcp_crew_redis._wire.keys import TenantKeys
from mcp_crew_redis.errors import LifecycleError
from mcp_crew_redis.events.bus import EventBus, TenantEvents
from mcp_crew_redis.events.transaction import Transaction
from mcp_crew_redis.store.entry import Entry
from mcp_crew_redis.store.store import Store
from mcp_crew_redis.store.upkeep import OnProgress
from mcp_crew_redis.store.usage import TenantUsage
from mcp_crew_redis.store.values import Values
from mcp_crew_redis.types import DataType, DeleteOutcome, WriteOutcome

__all__ = ["Tenant"]

T = TypeVar("T")
D = TypeVar("D")
#: What an `async def` without an `async` of its own returns: every layer of coroutines
#: costs each call 0.15 microseconds.
Waiting = Coroutine[Any, Any, T]


@dataclass(frozen=True, slots=True, repr=False)
class Tenant:
    """The state of one tenant: cheap to make, and it cannot reach another's.

    Errors, cancellation, arguments, and what goes on while Redis is away are those of
    `RedisManager`, whose methods these are without `tenant_id`.

    Attributes:
        id: The tenant's name.
    """

    id: str
    _keys: TenantKeys = field(compare=False)
    _store: Store
    _values: Values = field(compare=False)
    _events: TenantEvents | None = field(default=None, compare=False)

    @classmethod
    def of(cls, store: Store, tenant_id: str, bus: EventBus | None = None) -> Tenant:
        """Return the tenant of that name; no I/O. Without a bus it has no events.

        Raises:
            InvalidTenantError: The name is not one.
        """
        keys = store.keys.tenant(tenant_id)
        events = None if bus is None else bus.of(tenant_id)
        return cls(tenant_id, keys, store, store.values, events)

    def __repr__(self) -> str:
        return f"<Tenant {self.id}>"

    # --- one value --------------------------------------------------------------------

    def set(
        self,
        data_type: DataType,
        identifier: str,
        value: object,
        *,
        ttl: float | None = None,
        kind: str | None = None,
    ) -> Waiting[WriteOutcome]:
        """Store a value; `ttl` in seconds wins over the policy's row `kind`.

        Returns STORED, or DEFERRED: in the journal, while Redis is away.
        """
        return self._values.set(self._keys, data_type, identifier, value, ttl, kind)

    @overload
    def get(
        self, data_type: DataType, identifier: str, *, into: type[T]
    ) -> Waiting[T | None]: ...
    @overload
    def get(
        self, data_type: DataType, identifier: str, *, into: type[T], default: D
    ) -> Waiting[T | D]: ...
    @overload
    def get(
        self,
        data_type: DataType,
        identifier: str,
        *,
        into: None = None,
        default: object = None,
    ) -> Waiting[object]: ...
    def get(
        self,
        data_type: DataType,
        identifier: str,
        *,
        into: type[Any] | None = None,
        default: object = None,
    ) -> Waiting[Any]:
        """Return a value, validated as `into`, or `default` when there is none.

        While Redis is away: what waits in the journal; else UnavailableError, except
        for cache types, of which there is none then.
        """
        return self._values.get(self._keys, data_type, identifier, into, default)

    @overload
    def get_entry(
        self, data_type: DataType, identifier: str, *, into: type[T]
    ) -> Waiting[Entry[T] | None]: ...
    @overload
    def get_entry(
        self, data_type: DataType, identifier: str, *, into: None = None
    ) -> Waiting[Entry[object] | None]: ...
    def get_entry(
        self, data_type: DataType, identifier: str, *, into: type[Any] | None = None
    ) -> Waiting[Entry[Any] | None]:
        """Return a value or counter with its age, source and stamp; None for none.

        While Redis is away: what waits in the journal, as stale; else UnavailableError.
        """
        return self._values.get_entry(self._keys, data_type, identifier, into)

    def delete(self, data_type: DataType, identifier: str) -> Waiting[DeleteOutcome]:
        """Delete a value or a counter and say whether there was one.

        Returns DEFERRED for a value while Redis is away; for a counter that raises.
        """
        return self._values.delete(self._keys, data_type, identifier)

    def exists(self, data_type: DataType, identifier: str) -> Waiting[bool]:
        """Return whether there is such a value or counter."""
        return self._store.lifetimes.exists(self._keys, data_type, identifier)

    def ttl(self, data_type: DataType, identifier: str) -> Waiting[float | None]:
        """Return the seconds a value or counter has left; None when there is none."""
        return self._store.lifetimes.ttl(self._keys, data_type, identifier)

    def expire(self, data_type: DataType, identifier: str, ttl: float) -> Waiting[bool]:
        """Give what there is another time to live, in seconds; False for nothing."""
        return self._store.lifetimes.expire(self._keys, data_type, identifier, ttl)

    # --- many values ------------------------------------------------------------------

    @overload
    def get_many(
        self, data_type: DataType, identifiers: Iterable[str], *, into: type[T]
    ) -> Waiting[dict[str, T]]: ...
    @overload
    def get_many(
        self, data_type: DataType, identifiers: Iterable[str], *, into: None = None
    ) -> Waiting[dict[str, object]]: ...
    def get_many(
        self,
        data_type: DataType,
        identifiers: Iterable[str],
        *,
        into: type[Any] | None = None,
    ) -> Waiting[dict[str, Any]]:
        """Return the values that there are, by identifier, in one round trip.

        While Redis is away, as `get` for each; if one has to raise, all of them do.
        """
        return self._store.batches.get_many(self._keys, data_type, identifiers, into)

    def set_many(
        self,
        data_type: DataType,
        items: Mapping[str, object],
        *,
        ttl: float | None = None,
        kind: str | None = None,
    ) -> Waiting[WriteOutcome]:
        """Store values by identifier, in one round trip for each 128 or 1 MiB.

        Returns STORED, or DEFERRED if any of them is in the journal.
        """
        return self._store.batches.set_many(self._keys, data_type, items, ttl, kind)

    def delete_many(
        self, data_type: DataType, identifiers: Iterable[str]
    ) -> Waiting[int]:
        """Delete values and return how many there were.

        Those that the journal has to see to, while Redis is away, are counted.
        """
        return self._store.batches.delete_many(self._keys, data_type, identifiers)

    def scan(self, data_type: DataType, match: str = "*") -> AsyncIterator[str]:
        """Iterate over the identifiers of what there is."""
        return self._store.upkeep.scan(self._keys, data_type, match)

    # --- counters ---------------------------------------------------------------------

    def increment(
        self,
        data_type: DataType,
        identifier: str,
        amount: int = 1,
        *,
        ttl: float | None = None,
    ) -> Waiting[int]:
        """Add to a counter and return the value it then had.

        While Redis is away the amount waits in the journal, and the value is what is
        believed here: the last one seen and all that waits.
        """
        return self._store.increment(self._keys, data_type, identifier, amount, ttl)

    # --- events -----------------------------------------------------------------------

    @property
    def events(self) -> TenantEvents:
        """What happens to the tenant: published here, handled wherever.

        Raises:
            LifecycleError: It belongs to no running crew.
        """
        if self._events is None:
            raise LifecycleError("events need a running crew: use CrewRedis")
        return self._events

    def transaction(self) -> Transaction:
        """Return an empty transaction: state and events, all of it or nothing.

        Raises:
            LifecycleError: It belongs to no running crew.
        """
        return self.events.transaction()

    # --- all of it --------------------------------------------------------------------

    def purge(self, on_progress: OnProgress | None = None) -> Waiting[int]:
        """Remove all that the tenant has and return the number of keys."""
        return self._store.purge(self.id, on_progress)

    def usage(
        self, on_progress: OnProgress | None = None, *, within: float | None = None
    ) -> Waiting[TenantUsage]:
        """Return the tenant's keys and bytes by data type, counted for `within` s."""
        return self._store.upkeep.usage(self.id, on_progress, within=within)
