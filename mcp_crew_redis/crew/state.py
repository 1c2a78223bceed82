"""The state of tenants on one client: the store, its manager, tenants and events."""

from __future__ import annotations

from contextlib import AsyncExitStack
from random import Random
from typing import Final

from mcp_crew_redis._core.bell import Bell
from mcp_crew_redis._core.client import PipelinedRedis
from mcp_crew_redis._core.port import Port
from mcp_crew_redis._core.scripts import ScriptLoader
from mcp_crew_redis._wire.codec import MsgpackCodec
from mcp_crew_redis._wire.keys import KeySpace
from mcp_crew_redis._wire.ttl import TtlPolicy
from mcp_crew_redis.clock import SystemClock
from mcp_crew_redis.events.bus import EventBus
from mcp_crew_redis.events.hub import EventHub
from mcp_crew_redis.events.schemas import EventCatalog
from mcp_crew_redis.settings import CrewSettings
from mcp_crew_redis.store.conflicts import MergeConflict
from mcp_crew_redis.store.context import StoreContext
from mcp_crew_redis.store.journal.files import JournalFiles
from mcp_crew_redis.store.journal.journal import Journal
from mcp_crew_redis.store.journal_view import JournalView
from mcp_crew_redis.store.manager import RedisManager
from mcp_crew_redis.store.stamps import StampSource
from mcp_crew_redis.store.store import Store
from mcp_crew_redis.tenant import Tenant

__all__ = ["TenantState", "make_store", "open_state"]

MAX_TENANTS_KEPT: Final = 4_096


def make_store(
    settings: CrewSettings,
    client: PipelinedRedis,
    *,
    journal: Journal | None = None,
    merge: MergeConflict | None = None,
) -> Store:
    """Make the store on a client; inert."""
    port, clock, values = Port(client, ScriptLoader()), SystemClock(), settings.values
    return Store(
        StoreContext(
            port=port,
            keys=KeySpace(values.prefix),
            codec=MsgpackCodec(max_bytes=values.max_value_bytes),
            ttl=TtlPolicy(values.ttl, random=Random()),  # noqa: S311 - jitter
            clock=clock,
            stamps=StampSource(port, clock),
            max_value_bytes=values.max_value_bytes,
            tombstone_ttl=settings.journal.tombstone_ttl,
        ),
        journal=journal,
        replay_window=settings.journal.replay_window,
        merge=merge,
    )


async def open_state(
    settings: CrewSettings,
    client: PipelinedRedis,
    stack: AsyncExitStack,
    *,
    merge: MergeConflict | None = None,
    catalog: EventCatalog | None = None,
) -> TenantState:
    """Make the store, with all that processes before this one have left behind.

    The stack closes it: what waits is synchronised if that is quickly done.

    Raises:
        ConfigurationError: REDIS_CREW_JOURNAL_DIR cannot be used.
    """
    journal, section = Journal(), settings.journal
    if section.directory is None:
        store = make_store(settings, client, journal=journal, merge=merge)
    else:
        files = JournalFiles(
            section.directory,
            target=f"{settings.values.prefix} {client.node.address}"
            f" {settings.endpoint.db}",
            fsync=section.fsync,
            live=journal.live,
            clock=SystemClock(),
        )
        files.open()
        stack.callback(files.close)
        journal.keeper = files
        store = make_store(settings, client, journal=journal, merge=merge)
        store.sync.adopt = lambda: files.adopt(journal.adopt).taken_count
        store.sync.adopt()
    state = TenantState(store, client, EventCatalog() if catalog is None else catalog)
    stack.push_async_callback(state.events.aclose)  # last: what lands is noted
    stack.push_async_callback(store.aclose)
    store.sync.kick()
    return state


class TenantState:
    """What a running crew offers of the store.

    Attributes:
        store: The rooms.
        manager: Their operations, by `tenant_id`.
        keys: Builds and parses their keys.
        bell: Tells which of them have changed.
        events: What is published and consumed, by `tenant_id`.
        journal: What waits for Redis.
    """

    def __init__(
        self, store: Store, client: PipelinedRedis, catalog: EventCatalog
    ) -> None:
        self.store = store
        self.keys = store.context.keys
        self.bell = Bell(client)
        self.events = EventBus(EventHub(store, self.bell, catalog))
        self.manager = RedisManager(store)
        self.journal = JournalView(store)
        self._tenants: dict[str, Tenant] = {}

    def tenant(self, tenant_id: str) -> Tenant:
        """Return one tenant, the same object while it is remembered.

        Raises:
            InvalidTenantError: The name is not one.
        """
        try:
            return self._tenants[tenant_id]
        except (KeyError, TypeError):
            tenant = Tenant.of(self.store, tenant_id, self.events)
        if len(self._tenants) >= MAX_TENANTS_KEPT:
            del self._tenants[next(iter(self._tenants))]  # the oldest; made again soon
        self._tenants[tenant_id] = tenant
        return tenant
