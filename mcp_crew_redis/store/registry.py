"""Which tenants there are, and which event types each has.

The bell tells what changes, not what exists already. So a process writes down each
tenant before its first write for it; listeners read that when they start. Afterwards
it is a look-up in a table of this process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from mcp_crew_redis._wire.identifiers import decode_identifier, encode_identifier
from mcp_crew_redis._wire.keys import MetaKey
from mcp_crew_redis.errors import InvalidIdentifierError, InvalidTenantError
from mcp_crew_redis.store.context import StoreContext
from mcp_crew_redis.store.counting import fresh
from mcp_crew_redis.store.walking import Recent

__all__ = ["TenantRegistry"]

DAY: Final = 86_400
MAX_NOTED: Final = 100_000
"""Tenants and types that are remembered as noted; the oldest goes first."""
REFRESH: Final = 60.0
"""Seconds after which a tenant is noted again. A day would do for the day's score; but
where another process purges a tenant that this one still serves, or a server forgets,
the tenant is missing from the registry until then."""
PAGE: Final = 512

Name = tuple[str, str]  # tenant and event type; "" for the tenant itself


class _Flight:
    """One write of a note, for all that wait for it."""

    def __init__(self) -> None:
        self.done = asyncio.Event()
        self.error: Exception | None = None


class TenantRegistry:
    """Notes tenants and their event types, and lists them.

    One per node and event loop.

    Args:
        context: The store's parts.
    """

    def __init__(self, context: StoreContext) -> None:
        self._port = context.port
        self._keys = context.keys
        self._clock = context.clock
        self._monotonic = context.clock.monotonic
        self._node = context.port.client.node
        self._greeting: object = None  # of the connection by which it was noted
        self._noted: dict[Name, float] = {}
        self._flights: dict[Name, _Flight] = {}

    def __repr__(self) -> str:
        return f"<TenantRegistry {len(self._noted)} noted, {len(self._flights)} going>"

    # --- notes ------------------------------------------------------------------------

    def is_noted(self, tenant_id: str) -> bool:
        """Whether `note` would return at once: the look-up of the hot path."""
        if self._node.greeting is not self._greeting:
            self._begin_anew()
        until = self._noted.get((tenant_id, ""))
        return until is not None and until > self._monotonic()

    def _begin_anew(self) -> None:
        """Note everything again: a new connection may lead to a server without it."""
        self._greeting = self._node.greeting
        self._noted.clear()

    async def note(self, tenant_id: str) -> None:
        """Write down that this tenant is used today; once a minute, else a look-up.

        Callers of the same tenant share one write. Cancelling one of them leaves it to
        the next.

        Raises:
            UnavailableError: Redis did not answer.
            InvalidTenantError: The id is none.
        """
        if self.is_noted(tenant_id):
            return
        self._keys.tenant(tenant_id)

        async def write() -> None:
            # GT: a process whose clock is behind does not take a day back.
            await self._port.send(
                *("ZADD", self._keys.tenants, "GT", self._today(), tenant_id),
                is_repeatable=True,
            )

        await self._once((tenant_id, ""), write)

    async def note_type(self, tenant_id: str, event_type: str) -> None:
        """Write down that this tenant has events of this type; as `note`.

        Raises:
            UnavailableError: Redis did not answer.
            InvalidTenantError: The id is none.
            InvalidIdentifierError: The type is empty, too long or not valid Unicode.
        """
        name = (tenant_id, event_type)
        if self._node.greeting is not self._greeting:
            self._begin_anew()
        if (until := self._noted.get(name)) is not None and until > self._monotonic():
            return
        key = self._keys.tenant(tenant_id).meta(MetaKey.TYPES)
        member = encode_identifier(event_type)
        await self.note(tenant_id)

        async def write() -> None:
            await self._port.send("SADD", key, member, is_repeatable=True)

        await self._once(name, write)

    async def _once(self, name: Name, write: Callable[[], Awaitable[None]]) -> None:
        """Run `write` unless somebody does; take over if they are cancelled."""
        while (flight := self._flights.get(name)) is not None:
            await flight.done.wait()
            if flight.error is not None:
                raise fresh(flight.error)
            if name in self._noted:
                return
        flight = self._flights[name] = _Flight()
        until = self._until()  # the day of the write, not that of its answer
        try:
            await write()
            self._remember(name, until)
        except Exception as error:
            flight.error = fresh(error)  # without the traceback, that holds this frame
            raise
        finally:
            del self._flights[name]
            flight.done.set()

    def _today(self) -> int:
        return int(self._clock.wall() // DAY)

    def _until(self) -> float:
        """Return when a note made now is old: with the day, or in a minute."""
        left = DAY - self._clock.wall() % DAY
        return self._monotonic() + min(left, REFRESH)

    def _remember(self, name: Name, until: float) -> None:
        if not self._noted:
            self._greeting = self._node.greeting  # the first note has connected
        self._noted.pop(name, None)  # to the end: the oldest note is the first
        if len(self._noted) >= MAX_NOTED:
            del self._noted[next(iter(self._noted))]
        self._noted[name] = until

    # --- lists ------------------------------------------------------------------------

    async def tenants(self, since_days: int | None = None) -> AsyncIterator[str]:
        """Give the tenants, in no order, page by page; none twice among 100,000.

        Args:
            since_days: Only those noted today or that many days before.

        Raises:
            UnavailableError: Redis did not answer.
        """
        first_day = 0 if since_days is None else self._today() - since_days
        recent, cursor = Recent(), 0
        while True:
            reply = await self._port.send(
                "ZSCAN", self._keys.tenants, cursor, "COUNT", PAGE
            )
            cursor, pairs = int(reply[0]), reply[1]
            for member, day in zip(pairs[::2], pairs[1::2], strict=True):
                is_wanted = float(day) >= first_day and recent.is_new(member)
                if is_wanted and (tenant := self._tenant_of(member)) is not None:
                    yield tenant
            if cursor == 0:
                return

    def _tenant_of(self, member: bytes) -> str | None:
        try:
            return self._keys.tenant(member.decode("ascii")).tenant_id
        except (UnicodeDecodeError, InvalidTenantError):
            return None  # nobody of ours wrote that

    async def types(self, tenant_id: str) -> frozenset[str]:
        """Return the event types of a tenant.

        Raises:
            UnavailableError: Redis did not answer.
            InvalidTenantError: The id is none.
        """
        key = self._keys.tenant(tenant_id).meta(MetaKey.TYPES)
        found: set[str] = set()
        cursor = 0
        while True:
            reply = await self._port.send("SSCAN", key, cursor, "COUNT", PAGE)
            cursor = int(reply[0])
            for member in reply[1]:
                try:
                    found.add(decode_identifier(member))
                except InvalidIdentifierError:
                    continue  # nobody of ours wrote that
            if cursor == 0:
                return frozenset(found)

    # --- removal ----------------------------------------------------------------------

    async def remove(self, tenant_id: str) -> None:
        """Take a tenant off the list, and forget here that it was noted.

        Raises:
            UnavailableError: Redis did not answer.
        """
        self.forget(tenant_id)
        await self._port.send("ZREM", self._keys.tenants, tenant_id, is_repeatable=True)
        self.forget(tenant_id)  # what was noted while that was under way

    def forget_all(self) -> None:
        """Note every tenant and type again: the server was emptied."""
        self._noted.clear()

    def forget(self, tenant_id: str) -> None:
        """Note the tenant and its types again before their next writes."""
        for name in [name for name in self._noted if name[0] == tenant_id]:
            del self._noted[name]
