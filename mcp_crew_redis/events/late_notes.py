"""Tells the registry of tenants and types that have something in Redis again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from random import Random
from typing import Final

from mcp_crew_redis._core.backoff import DecorrelatedJitter
from mcp_crew_redis._core.owner import TaskOwner
from mcp_crew_redis.errors import CrewRedisError
from mcp_crew_redis.events.hub import EventHub

__all__ = ["LateNotes"]

MAX_PAUSE: Final = 2.0
LAST_NOTES: Final = 1.0
"""Seconds at the end for what is left."""


class LateNotes:
    """Notes what landed from the journal, beside everything else.

    Args:
        hub: What the rooms of the events share.
    """

    def __init__(self, hub: EventHub) -> None:
        self._registry = hub.store.registry
        self._sleep = hub.clock.sleep
        self._due: dict[tuple[str, str], None] = {}  # at most what the journal held
        self._is_running = False
        self._owner = TaskOwner("notes")

    def add(self, tenant_id: str, event_types: Iterable[str]) -> None:
        """Have a tenant and its types noted."""
        self._due[tenant_id, ""] = None
        self._due.update({(tenant_id, each): None for each in event_types})
        if not self._is_running:
            self._is_running = True
            self._owner.start(self._run(), "note")

    async def _run(self) -> None:
        pauses = DecorrelatedJitter(Random(), cap=MAX_PAUSE)  # noqa: S311 - jitter
        try:
            while self._due:
                try:
                    await self._note(next(iter(self._due)))
                except CrewRedisError:
                    await self._sleep(next(pauses))
        finally:
            self._is_running = False

    async def _note(self, name: tuple[str, str]) -> None:
        tenant_id, event_type = name
        if event_type:
            await self._registry.note_type(tenant_id, event_type)
        else:
            await self._registry.note(tenant_id)
        self._due.pop(name, None)

    async def aclose(self) -> None:
        """Note what is left, if that is quickly done. Idempotent."""
        with suppress(TimeoutError, CrewRedisError):
            async with asyncio.timeout(LAST_NOTES):
                for name in list(self._due):
                    await self._note(name)
        await self._owner.aclose()
