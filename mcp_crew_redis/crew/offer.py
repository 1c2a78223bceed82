"""What a running crew offers to its user, and what it says when it is not running."""

from __future__ import annotations

from mcp_crew_redis._core.bell import Bell
from mcp_crew_redis._wire.keys import KeySpace
from mcp_crew_redis.crew.state import TenantState
from mcp_crew_redis.errors import LifecycleError
from mcp_crew_redis.events.bus import EventBus
from mcp_crew_redis.store.journal_view import JournalView
from mcp_crew_redis.store.manager import RedisManager
from mcp_crew_redis.tenant import Tenant

__all__ = ["OUTSIDE", "CrewOffer"]

OUTSIDE = "the crew is not running: use it inside `async with crew:`"


class CrewOffer:
    """The parts of a crew that exist between its start and its end."""

    _state: TenantState | None = None

    @property
    def manager(self) -> RedisManager:
        """The state of all tenants, by `tenant_id`; LifecycleError as for `redis`."""
        return self._offer.manager

    @property
    def events(self) -> EventBus:
        """The events of all tenants, by `tenant_id`; LifecycleError as for `redis`."""
        return self._offer.events

    @property
    def bell(self) -> Bell:
        """Tells listeners which keys have changed; LifecycleError as for `redis`."""
        return self._offer.bell

    @property
    def keys(self) -> KeySpace:
        """Builds and parses the keys that the bell names; as for `redis`."""
        return self._offer.keys

    @property
    def journal(self) -> JournalView:
        """What waits for Redis, and what became of it; as for `redis`."""
        return self._offer.journal

    def tenant(self, tenant_id: str) -> Tenant:
        """Return one tenant, with state and events; cheap, without I/O.

        Raises:
            InvalidTenantError: The name is not one.
            LifecycleError: Before the start or after the end.
        """
        return self._offer.tenant(tenant_id)

    @property
    def _offer(self) -> TenantState:
        if self._state is None:
            raise LifecycleError(OUTSIDE)
        return self._state
