"""Ordered writes: the newest stamp stands, whoever arrives last."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from mcp_crew_redis._core.scripts import NewerOutcome
from mcp_crew_redis._wire.header import MAX_STAMP
from mcp_crew_redis._wire.keys import MetaKey, TenantKeys
from mcp_crew_redis.errors import ConflictError
from mcp_crew_redis.store.context import StoreContext, TenantNotes

__all__ = ["ABSENT", "DUPLICATE", "FOREIGN", "MAX_TRIES", "REFUSED", "STORED", "Order"]

REFUSED: Final = frozenset({int(NewerOutcome.NEWER_STANDS), int(NewerOutcome.CONFLICT)})
"""Outcomes of a script that has written nothing, because of somebody else's stamp."""
STORED: Final = int(NewerOutcome.STORED)
DUPLICATE: Final = int(NewerOutcome.DUPLICATE)
ABSENT: Final = 4
"""expire_newer: there is no live value."""
FOREIGN: Final = 5
"""expire_newer: the key holds nothing of ours."""

MAX_TRIES: Final = 10
_MAX_NOTED: Final = 65_536  # tenants; about 8 MB

Answer = TypeVar("Answer")


class Order:
    """The stamps of one store's writes, and what must precede the first of them.

    Args:
        context: The store's parts.
        registry: Told of a tenant before the first write for it; None for nobody.

    Attributes:
        noted: Tenants that may be written for at once, each with the key of its floor:
            the clock is measured and the registry knows them.
    """

    __slots__ = ("_registry", "_stamps", "noted", "stamp")

    def __init__(self, context: StoreContext, registry: TenantNotes | None) -> None:
        self.noted: dict[str, bytes] = {}
        self.stamp = context.stamps.stamp
        self._stamps = context.stamps
        self._registry = registry
        # The registry wants to hear of a tenant now and then; it knows how often.
        context.stamps.on_refresh = self.noted.clear

    async def prepared(self, keys: TenantKeys) -> bytes:
        """Return the key of the tenant's floor, `prepare` done; raises as that."""
        return self.noted.get(keys.tenant_id) or await self.prepare(keys)

    async def prepare(self, keys: TenantKeys) -> bytes:
        """Do what must precede the first write for a tenant.

        Returns:
            The key of the tenant's floor, which every ordered write is given: what a
            purge has removed, it removed with its stamp, and only the floor still
            tells how old a write may be.

        Raises:
            UnavailableError: Redis did not answer; nothing was written.
        """
        if not self._stamps.is_ready:
            await self._stamps.ready()
        if self._registry is not None:
            await self._registry.note(keys.tenant_id)
        if len(self.noted) >= _MAX_NOTED:
            self.noted.clear()
        floor = self.noted[keys.tenant_id] = keys.meta(MetaKey.FLOOR)
        return floor

    async def insist(
        self, send: Callable[[int], Awaitable[tuple[int, int, Answer]]], stands: int
    ) -> Answer:
        """Write again above what stands, until it is stored.

        Not for a refusal that answers a repetition: see `Gate.write_again`.

        The caller is alive and has just been refused: its write is the later one. Each
        try reaches further above, four times as far, so that a writer whose clock is
        ahead and who never pauses cannot keep everybody else out.

        Args:
            send: Sends with the stamp it is given and returns whether that was refused
                (an outcome of `REFUSED`), the stamp that stands, and the answer.
            stands: The stamp that stood in the way.

        Raises:
            ConflictError: Refused time after time.
            UnavailableError: Redis did not answer.
        """
        for attempt in range(MAX_TRIES):
            if stands >= MAX_STAMP - 4**MAX_TRIES:
                break
            stamp = self._stamps.above(stands + 4**attempt - 1)
            outcome, stands, answer = await send(stamp)
            if outcome not in REFUSED:
                return answer
        raise ConflictError(
            f"somebody else's newer write stood in the way {MAX_TRIES} times"
        )
