"""`RedisManager`: the state of every tenant, with the original names."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, TypeVar, overload

from mcp_crew_redis.store.entry import Entry
from mcp_crew_redis.store.store import Store
from mcp_crew_redis.store.upkeep import OnProgress
from mcp_crew_redis.store.usage import TenantUsage
from mcp_crew_redis.types import DataType, DeleteOutcome, WriteOutcome

__all__ = ["RedisManager"]

T = TypeVar("T")
D = TypeVar("D")


class RedisManager:
    """Typed, ordered values and counters of many tenants.

    Values of synchronised types (CONVERSATION, KNOWLEDGE, STATE) carry a stamp, and a
    write that is older than what stands is never stored over it; those of TOOLS and
    CACHE are written plainly. Every key expires.

    Each method raises, before anything is sent: `InvalidTenantError`,
    `InvalidIdentifierError`, `DataError` for a type or kind that does not exist or is
    not served here, `InvalidTtlError`, and for a value `CodecError` and
    `ValueTooLargeError`. And later: `UnavailableError` as below, `CodecError` when what
    stands is not ours or not what was asked for, `DataError` when a key holds another
    kind of thing, `ConflictError` when newer writes of others stood in the way time
    after time.

    While Redis is away the journal takes writes: `set`, `set_many` and `delete` return
    DEFERRED, `increment` what is believed here; `FallbackFullError` if there is no
    room. What waits is read from there. Of anything else `get` and `get_many` of TOOLS
    and CACHE find nothing; other reads, `expire`, `scan`, `usage`, `purge` and the
    delete of a counter raise `UnavailableError`.

    Cancelling a call leaves its write done or not done, and everything else intact.

    Args:
        store: The rooms.
    """

    def __init__(self, store: Store) -> None:
        self._store: Store | None = store

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._store!r}>"

    def _open(self) -> Store:
        assert self._store is not None
        return self._store

    # --- one value --------------------------------------------------------------------

    async def set(
        self,
        *,
        tenant_id: str,
        data_type: DataType,
        identifier: str,
        value: object,
        ttl: float | None = None,
        kind: str | None = None,
    ) -> WriteOutcome:
        """Store a value; return STORED (in Redis) or DEFERRED (in the journal).

        Args:
            tenant_id: Whose it is.
            data_type: What it is; decides how it is written and how long it lives.
            identifier: Its name.
            value: Anything the codec knows; None is a value too.
            ttl: Seconds to live, taken as they are; None for the policy's.
            kind: The policy's row: "mongodb", "product", "high", ...
        """
        store = self._open()
        keys = store.keys.tenant(tenant_id)
        return await store.values.set(keys, data_type, identifier, value, ttl, kind)

    @overload
    async def get(
        self, *, tenant_id: str, data_type: DataType, identifier: str, into: type[T]
    ) -> T | None: ...
    @overload
    async def get(
        self,
        *,
        tenant_id: str,
        data_type: DataType,
        identifier: str,
        into: type[T],
        default: D,
    ) -> T | D: ...
    @overload
    async def get(
        self,
        *,
        tenant_id: str,
        data_type: DataType,
        identifier: str,
        into: None = None,
        default: object = None,
    ) -> object: ...
    async def get(
        self,
        *,
        tenant_id: str,
        data_type: DataType,
        identifier: str,
        into: type[T] | None = None,
        default: object = None,
    ) -> object:
        """Return a value, or `default` when there is none.

        Args:
            tenant_id: Whose it is.
            data_type: What it is.
            identifier: Its name.
            into: The type to validate it as: a model, a dataclass, `list[int]`, ...
            default: What to return for no value; a stored None is returned as None.
        """
        store = self._open()
        keys = store.keys.tenant(tenant_id)
        return await store.values.get(keys, data_type, identifier, into, default)

    @overload
    async def get_entry(
        self, *, tenant_id: str, data_type: DataType, identifier: str, into: type[T]
    ) -> Entry[T] | None: ...
    @overload
    async def get_entry(
        self,
        *,
        tenant_id: str,
        data_type: DataType,
        identifier: str,
        into: None = None,
    ) -> Entry[object] | None: ...
    async def get_entry(
        self,
        *,
        tenant_id: str,
        data_type: DataType,
        identifier: str,
        into: type[Any] | None = None,
    ) -> Entry[Any] | None:
        """Return a value or counter with its age, source and stamp; None for none."""
        store = self._open()
        keys = store.keys.tenant(tenant_id)
        return await store.values.get_entry(keys, data_type, identifier, into)

    async def delete(
        self, *, tenant_id: str, data_type: DataType, identifier: str
    ) -> DeleteOutcome:
        """Delete a value or a counter and say whether there was one.

        A synchronised value leaves a tombstone, so that an older write which arrives
        later does not bring it back.
        """
        store = self._open()
        keys = store.keys.tenant(tenant_id)
        return await store.values.delete(keys, data_type, identifier)

    async def exists(
        self, *, tenant_id: str, data_type: DataType, identifier: str
    ) -> bool:
        """Return whether there is such a value or counter."""
        store = self._open()
        keys = store.keys.tenant(tenant_id)
        return await store.lifetimes.exists(keys, data_type, identifier)

    async def ttl(
        self, *, tenant_id: str, data_type: DataType, identifier: str
    ) -> float | None:
        """Return the seconds a value or counter has left; None when there is none."""
        store = self._open()
        keys = store.keys.tenant(tenant_id)
        return await store.lifetimes.ttl(keys, data_type, identifier)

    async def expire(
        self, *, tenant_id: str, data_type: DataType, identifier: str, ttl: float
    ) -> bool:
        """Give what there is another time to live, in seconds; False for nothing."""
        store = self._open()
        keys = store.keys.tenant(tenant_id)
        return await store.lifetimes.expire(keys, data_type, identifier, ttl)

    # --- many values ------------------------------------------------------------------

    @overload
    async def get_many(
        self,
        *,
        tenant_id: str,
        data_type: DataType,
        identifiers: Iterable[str],
        into: type[T],
    ) -> dict[str, T]: ...
    @overload
    async def get_many(
        self,
        *,
        tenant_id: str,
        data_type: DataType,
        identifiers: Iterable[str],
        into: None = None,
    ) -> dict[str, object]: ...
    async def get_many(
        self,
        *,
        tenant_id: str,
        data_type: DataType,
        identifiers: Iterable[str],
        into: type[Any] | None = None,
    ) -> dict[str, Any]:
        """Return the values that there are, by identifier, in one round trip.

        A key that holds another Redis type counts as absent: MGET does not tell.
        """
        store = self._open()
        keys = store.keys.tenant(tenant_id)
        return await store.batches.get_many(keys, data_type, identifiers, into)

    async def set_many(
        self,
        *,
        tenant_id: str,
        data_type: DataType,
        items: Mapping[str, object],
        ttl: float | None = None,
        kind: str | None = None,
    ) -> WriteOutcome:
        """Store values by identifier, in one round trip for each 128 or 1 MiB.

        All are checked before the first is sent. Not atomic: after an error some may
        have been stored. Returns DEFERRED if any of them is in the journal.
        """
        store = self._open()
        keys = store.keys.tenant(tenant_id)
        return await store.batches.set_many(keys, data_type, items, ttl, kind)

    async def delete_many(
        self, *, tenant_id: str, data_type: DataType, identifiers: Iterable[str]
    ) -> int:
        """Delete values; return how many there were, those deferred included."""
        store = self._open()
        keys = store.keys.tenant(tenant_id)
        return await store.batches.delete_many(keys, data_type, identifiers)

    def scan(
        self, *, tenant_id: str, data_type: DataType, match: str = "*"
    ) -> AsyncIterator[str]:
        """Iterate over the identifiers of what there is; see `Upkeep.scan`."""
        store = self._open()
        keys = store.keys.tenant(tenant_id)
        return store.upkeep.scan(keys, data_type, match)

    # --- counters ---------------------------------------------------------------------

    async def increment(
        self,
        *,
        tenant_id: str,
        data_type: DataType = DataType.COUNTER,
        identifier: str,
        amount: int = 1,
        ttl: float | None = None,
    ) -> int:
        """Add to a counter and return the value it then had; see `Counters`.

        While Redis is away: the last value seen and all that waits here.
        """
        store = self._open()
        keys = store.keys.tenant(tenant_id)
        return await store.increment(keys, data_type, identifier, amount, ttl)

    # --- a whole tenant ---------------------------------------------------------------

    async def purge(
        self, *, tenant_id: str, on_progress: OnProgress | None = None
    ) -> int:
        """Remove all that a tenant has and return the number of keys.

        What is older than the purge never comes back. See `Upkeep.purge`.
        """
        return await self._open().purge(tenant_id, on_progress)

    async def usage(
        self,
        *,
        tenant_id: str,
        on_progress: OnProgress | None = None,
        within: float | None = None,
    ) -> TenantUsage:
        """Return the keys and bytes of a tenant, by data type; see `Upkeep.usage`."""
        usage = self._open().upkeep.usage
        return await usage(tenant_id, on_progress, within=within)
