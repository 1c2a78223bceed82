"""What a tenant has: its identifiers, its size, its removal.

All of it walks through the whole database: the cost grows with the database, not with
the tenant. Each page is one bounded step for the server.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from mcp_crew_redis._wire.keys import MetaKey, TenantKeys, hash_tag
from mcp_crew_redis.log import get_logger
from mcp_crew_redis.store.context import StoreContext
from mcp_crew_redis.store.registry import TenantRegistry
from mcp_crew_redis.store.usage import TenantUsage, UsageTally
from mcp_crew_redis.store.walking import (
    Found,
    OnProgress,
    Progress,
    Recent,
    Walk,
    batches,
    is_floor,
    is_tombstone,
    may_be_tombstone,
)
from mcp_crew_redis.types import DataType

__all__ = ["OnProgress", "Progress", "TenantUsage", "Upkeep"]

log = get_logger(__name__)

MAX_PASSES: Final = 3
"""How often a purge walks, for what was written beside its first walk."""


@dataclass(slots=True)
class _Purge:
    """A purge as it goes on."""

    floor: int
    pages: int = 0
    seen: int = 0
    removed: int = 0
    kept: int = 0  # in the present pass

    def progress(self, cursor: int) -> Progress:
        return Progress(
            cursor=cursor,
            pages=self.pages,
            seen=self.seen,
            removed=self.removed,
            floor=self.floor,
        )


class Upkeep:
    """Scan, measure and purge tenants.

    Args:
        context: The store's parts.
        registry: The one in which this process notes its tenants; a purge takes the
            tenant off it. Without it, one on the same context.
        on_floor: Called with a tenant and its floor when a purge has raised that.
    """

    def __init__(
        self,
        context: StoreContext,
        registry: TenantRegistry | None = None,
        *,
        on_floor: Callable[[str, int], None] | None = None,
    ) -> None:
        self._on_floor = on_floor
        self._context = context
        self._port = context.port
        self._registry = registry or TenantRegistry(context)

    # --- scan -------------------------------------------------------------------------

    async def scan(
        self, keys: TenantKeys, data_type: DataType, match: str = "*"
    ) -> AsyncIterator[str]:
        """Give the identifiers of one data type, in no order.

        What is there from beginning to end is given; what comes or goes meanwhile may
        be. Each is given once, up to 100,000 of them: of more, the server may repeat
        some while its table grows. A deleted value is not given.

        Args:
            keys: The tenant's.
            data_type: Whose identifiers.
            match: A glob over identifiers; see `TenantKeys.pattern`.

        Raises:
            UnavailableError: Redis did not answer.
            InvalidIdentifierError: `match` is empty, too long or not valid Unicode.
        """
        walk = Walk(self._context, keys, keys.pattern(data_type, match))
        recent = Recent()
        while (page := await walk.next()) is not None:
            for some in batches(page):
                for key, parsed in await self._present(data_type, some):
                    if recent.is_new(key):
                        yield parsed.identifier

    async def _present(
        self, data_type: DataType, found: Sequence[Found]
    ) -> Sequence[Found]:
        if not may_be_tombstone(data_type):
            return found
        heads = await self._heads(found)
        return [
            one
            for one, head in zip(found, heads, strict=True)
            # Nothing: expired in between. An error: of another type, but there.
            if head != b"" and not is_tombstone(head)
        ]

    async def _heads(self, found: Sequence[Found]) -> list[object]:
        return await self._port.send_many([("GETRANGE", key, 0, 1) for key, _ in found])

    # --- usage ------------------------------------------------------------------------

    async def usage(
        self,
        tenant_id: str,
        on_progress: OnProgress | None = None,
        *,
        within: float | None = None,
    ) -> TenantUsage:
        """Count the tenant's keys and the bytes they take in Redis.

        Args:
            tenant_id: Whose.
            on_progress: Called after each page.
            within: Seconds after which to return what was counted so far, with
                `is_complete` False; looked at after each page.

        Raises:
            UnavailableError: Redis did not answer.
            InvalidTenantError: The id is none.
        """
        clock, tally, recent = self._context.clock, UsageTally(), Recent()
        deadline = clock.monotonic() + (float("inf") if within is None else within)
        walk = Walk(self._context, self._context.keys.tenant(tenant_id))
        report = on_progress or (lambda _: None)
        while (page := await walk.next()) is not None:
            for some in batches([one for one in page if recent.is_new(one[0])]):
                await self._measure(some, tally)
            seen = tally.key_count
            report(Progress(cursor=walk.cursor or 0, pages=walk.pages, seen=seen))
            if clock.monotonic() >= deadline:
                break
        return tally.total(tenant_id, is_complete=walk.is_over)

    async def _measure(self, found: Sequence[Found], tally: UsageTally) -> None:
        heads = await self._heads(found)
        sizes = await self._sizes(found, tally)
        for (_, parsed), size, head in zip(found, sizes, heads, strict=True):
            if size is not None:  # not expired in between
                tally.add(parsed.namespace, size, is_tombstone=is_tombstone(head))

    async def _sizes(
        self, found: Sequence[Found], tally: UsageTally
    ) -> list[int | None]:
        if not tally.is_estimate:
            sizes = await self._port.send_many(
                [("MEMORY USAGE", key) for key, _ in found]
            )
            tally.is_estimate = any(isinstance(size, Exception) for size in sizes)
            if not tally.is_estimate:
                return sizes
        lengths = await self._port.send_many([("STRLEN", key) for key, _ in found])
        return [
            len(key) + (length if isinstance(length, int) else 0)
            for (key, _), length in zip(found, lengths, strict=True)
        ]

    # --- purge ------------------------------------------------------------------------

    async def purge(self, tenant_id: str, on_progress: OnProgress | None = None) -> int:
        """Remove everything of a tenant and return how many keys that were.

        First the floor is raised to the server's time: from then on no journal and no
        repetition brings back what is older. Then the keys go, in small batches.
        Values written meanwhile, with stamps above the floor, stay. When nothing is
        left the tenant is taken off the registry. Another tenant's keys are never
        touched; those of task queues are the queues' and stay.

        Resumable: after an error or a cancellation call it again.

        Args:
            tenant_id: Whose.
            on_progress: Called when the floor stands, then after each page.

        Raises:
            UnavailableError: Redis did not answer; the rest is still there.
            InvalidTenantError: The id is none.
        """
        keys = self._context.keys.tenant(tenant_id)
        report = on_progress or (lambda _: None)
        purge = _Purge(await self._raise_floor(keys))
        if self._on_floor is not None:
            self._on_floor(tenant_id, purge.floor)
        report(purge.progress(0))
        # Writes from here on note the tenant, and its types, again.
        self._registry.forget(tenant_id)
        is_empty = False
        for _ in range(MAX_PASSES):
            before, purge.kept = purge.removed, 0
            await self._pass(keys, purge, report)
            if is_empty := purge.removed == before:
                break
        is_in_use = self._registry.is_noted(tenant_id)
        self._registry.forget(tenant_id)  # types noted meanwhile went with the rest
        if is_empty and not purge.kept and not is_in_use:
            await self._registry.remove(tenant_id)
        log.info("tenant.purged", key_count=purge.removed, kept_count=purge.kept)
        return purge.removed

    async def sweep(self, tenant_id: str, floor: int) -> int:
        """Remove what a purge had removed and the server has again; return how much.

        Raises:
            UnavailableError: Redis did not answer; the rest is still there.
        """
        purge = _Purge(floor)
        await self._pass(self._context.keys.tenant(tenant_id), purge, lambda _: None)
        if not purge.kept and not self._registry.is_noted(tenant_id):
            await self._registry.remove(tenant_id)
        return purge.removed

    async def _raise_floor(self, keys: TenantKeys) -> int:
        stamps = self._context.stamps
        if not stamps.is_ready:
            await stamps.ready()  # or this machine's clock would say how far it goes
        args = (stamps.hybrid.last,)
        floor = int(
            await self._port.run(
                "purge_floor", (keys.meta(MetaKey.FLOOR),), args, is_repeatable=True
            )
        )
        stamps.follow(floor)  # what this process writes from now on is newer
        return floor

    async def _pass(self, keys: TenantKeys, purge: _Purge, report: OnProgress) -> None:
        walk = Walk(self._context, keys)
        while (page := await walk.next()) is not None:
            by_slot: dict[bytes, list[bytes]] = defaultdict(list)
            for key, parsed in page:
                if not is_floor(parsed):
                    by_slot[hash_tag(key)].append(key)
            for doomed in by_slot.values():
                await self._remove(doomed, purge)
            purge.pages += 1
            report(purge.progress(walk.cursor or 0))

    async def _remove(self, doomed: Sequence[bytes], purge: _Purge) -> None:
        for some in batches(doomed):
            removed, kept = await self._port.run(
                "purge_keys", some, (purge.floor,), is_repeatable=True
            )
            purge.seen += len(some)
            purge.removed += removed
            purge.kept += kept
