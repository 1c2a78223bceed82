"""`Subscriptions`: which handler wants which events, declared as data."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, TypeAlias, TypeVar, overload

from mcp_crew_redis._core.backoff import Backoff
from mcp_crew_redis._wire.identifiers import validate_tenant
from mcp_crew_redis.errors import ConfigurationError
from mcp_crew_redis.events.event import Event
from mcp_crew_redis.events.kinds import Pattern, check_group
from mcp_crew_redis.events.outcomes import BatchOutcome

__all__ = ["ALL_TENANTS", "AllTenants", "Subscription", "Subscriptions"]

One = TypeVar("One", bound=Callable[[Event[Any]], Coroutine[Any, Any, None]])
Many = TypeVar(
    "Many", bound=Callable[[list[Event[Any]]], Coroutine[Any, Any, BatchOutcome]]
)
Ordering: TypeAlias = Literal["key"] | None
Start: TypeAlias = Literal["earliest", "latest"]

MAX_DELIVERIES: Final = 1_000_000
MAX_CONCURRENCY: Final = 10_000
MAX_BATCH: Final = 10_000
MAX_SECONDS: Final = 86_400.0


class AllTenants:
    """Every tenant there is, those that come later too."""

    def __repr__(self) -> str:
        return "ALL_TENANTS"


ALL_TENANTS: Final = AllTenants()
"""For `Subscriptions.on(tenants=...)`: every tenant, those that come later too."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subscription:
    """One handler and the events it wants; see `Subscriptions.on` for the attributes.

    `concurrency` is that of calls: a batch handler holds up to `batch_size` events in
    each.
    """

    handler: Callable[[Any], Awaitable[Any]]
    pattern: Pattern
    group: str
    tenants: frozenset[str] | AllTenants
    payload: Any
    batch_size: int  # 0 for a handler of single events
    concurrency: int
    max_deliveries: int
    claim_after: float
    timeout: float | None
    backoff: Backoff
    ordering: Ordering
    start: Start
    dedup: bool

    @property
    def is_batch(self) -> bool:
        """Whether the handler takes lists."""
        return self.batch_size > 0

    def wants(self, tenant_id: str, event_type: str) -> bool:
        """Whether it is meant for the events of a type of a tenant."""
        tenants = self.tenants
        is_theirs = isinstance(tenants, AllTenants) or tenant_id in tenants
        return is_theirs and self.pattern.matches(event_type)

    def __repr__(self) -> str:
        return f"<Subscription {self.group} {self.pattern.text}>"


class Subscriptions:
    """A table of handlers, filled by decorators and given to an `EventConsumer`.

    It is data: nothing runs, and it may be used by several consumers.
    """

    def __init__(self) -> None:
        self._all: list[Subscription] = []

    def __iter__(self) -> Iterator[Subscription]:
        return iter(tuple(self._all))

    def __len__(self) -> int:
        return len(self._all)

    @overload
    def on(
        self,
        pattern: str,
        *,
        group: str,
        tenants: AllTenants | Iterable[str] = ...,
        payload: Any = ...,
        batch: Literal[False] = ...,
        batch_size: int = ...,
        concurrency: int | None = ...,
        max_deliveries: int = ...,
        claim_after: float = ...,
        timeout: float | None = ...,
        backoff: Backoff | None = ...,
        ordering: Ordering = ...,
        start: Start = ...,
        dedup: bool = ...,
    ) -> Callable[[One], One]: ...
    @overload
    def on(
        self,
        pattern: str,
        *,
        group: str,
        batch: Literal[True],
        tenants: AllTenants | Iterable[str] = ...,
        payload: Any = ...,
        batch_size: int = ...,
        concurrency: int | None = ...,
        max_deliveries: int = ...,
        claim_after: float = ...,
        timeout: float | None = ...,
        backoff: Backoff | None = ...,
        ordering: Ordering = ...,
        start: Start = ...,
        dedup: bool = ...,
    ) -> Callable[[Many], Many]: ...
    def on(
        self,
        pattern: str,
        *,
        group: str,
        tenants: AllTenants | Iterable[str] = ALL_TENANTS,
        payload: Any = None,
        batch: bool = False,
        batch_size: int = 256,
        concurrency: int | None = None,
        max_deliveries: int = 5,
        claim_after: float = 30.0,
        timeout: float | None = 300.0,
        backoff: Backoff | None = None,
        ordering: Ordering = None,
        start: Start = "earliest",
        dedup: bool = False,
    ) -> Callable[[Any], Any]:
        """Declare the coroutine function below as the handler of some events.

        A handler that returns has handled its event. One that raises gets it again
        after a pause, up to `max_deliveries` times; then it is a dead letter. `Retry`
        and `Reject` say it more exactly. A batch handler takes a list; it may return
        a mapping of event ids to `Retry` or `Reject` for those it has not handled.

        Delivery is at least once: a process that dies before its acknowledgement is
        sent leaves its events to others.

        Args:
            pattern: Types: `tool.discovered`, `tool.*`, `tool.>` or `>`.
            group: Consumers of one group share its events; each group gets them all.
            tenants: Whose: ALL_TENANTS, or names.
            payload: What payloads are validated as; what does not fit is a dead
                letter. None: what the catalog says of the type, else anything.
            batch: The handler takes lists of events.
            batch_size: The longest list, 1 to 10,000.
            concurrency: Calls at the same time, 1 to 10,000; 32, or 2 of a batch
                handler, without one.
            max_deliveries: Deliveries of one event, crashes of its handler included.
            claim_after: Seconds without a sign of life after which the events of
                another process are taken over.
            timeout: Seconds that a call may take; it is then cancelled, and failed.
                None: no limit.
            backoff: Pauses between attempts; `Backoff()` without one. Its
                `max_attempts` does not count here.
            ordering: "key": events of one key one after the other, in their order, a
                failed one before the next. Across processes where the catalog gives
                the type partitions.
            start: Where a new group begins in streams that exist already.
            dedup: Remember what was handled, and skip what comes twice.

        Raises:
            InvalidEventTypeError: The pattern is not one.
            InvalidIdentifierError: The group's name is not one.
            InvalidTenantError: A tenant's name is not one.
            ConfigurationError: A number is out of range, or what is decorated is no
                coroutine function.
        """
        calls = concurrency if concurrency is not None else (2 if batch else 32)
        _require_counts(batch_size, max_deliveries, calls)
        _require_seconds("claim_after", claim_after, 0.1)
        _require_seconds("timeout", 1.0 if timeout is None else timeout, 0.001)
        _require_known(backoff, ordering, start, batch)
        make = partial(
            Subscription,
            pattern=Pattern(pattern),
            group=check_group(group),
            tenants=_tenants(tenants),
            payload=payload,
            batch_size=batch_size if batch else 0,
            concurrency=calls,
            max_deliveries=max_deliveries,
            claim_after=float(claim_after),
            timeout=timeout,
            backoff=backoff or Backoff(),
            ordering=ordering,
            start=start,
            dedup=dedup,
        )
        return partial(self._declare, make)

    def _declare(self, make: Callable[..., Subscription], handler: Any) -> Any:
        if not inspect.iscoroutinefunction(handler):
            raise ConfigurationError("a handler is a coroutine function: async def")
        self._all.append(make(handler=handler))
        return handler


def _tenants(tenants: AllTenants | Iterable[str]) -> frozenset[str] | AllTenants:
    if isinstance(tenants, AllTenants):
        return tenants
    if isinstance(tenants, str):
        raise ConfigurationError("tenants is ALL_TENANTS or a list of names")
    names = frozenset(tenants)
    for name in names:
        validate_tenant(name)
    if not names:
        raise ConfigurationError("tenants is empty: nobody would be served")
    return names


def _require_counts(batch_size: int, max_deliveries: int, concurrency: int) -> None:
    _require_integer("batch_size", batch_size, MAX_BATCH)
    _require_integer("max_deliveries", max_deliveries, MAX_DELIVERIES)
    _require_integer("concurrency", concurrency, MAX_CONCURRENCY)


def _require_integer(name: str, value: object, most: int) -> None:
    if type(value) is not int or not 1 <= value <= most:
        raise ConfigurationError(f"{name} is an integer from 1 to {most}")


def _require_seconds(name: str, value: float, least: float) -> None:
    is_number = type(value) in (int, float)
    if not is_number or not least <= value <= MAX_SECONDS:  # NaN is neither
        raise ConfigurationError(f"{name} is {least} to {MAX_SECONDS:.0f} seconds")


def _require_known(
    backoff: object, ordering: object, start: object, is_batch: object
) -> None:
    if backoff is not None and not isinstance(backoff, Backoff):
        raise ConfigurationError("backoff is a Backoff, or None for Backoff()")
    if ordering not in (None, "key") or start not in ("earliest", "latest"):
        raise ConfigurationError(
            'ordering is None or "key", start is "earliest" or "latest"'
        )
    if is_batch and ordering is not None:
        raise ConfigurationError("a batch handler cannot keep keys in order")
