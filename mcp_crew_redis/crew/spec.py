"""A service declared as data: what a crew runs beside its own parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mcp_crew_redis.lifecycle import Service

if TYPE_CHECKING:
    from mcp_crew_redis.crew.crew import CrewRedis

__all__ = ["ServiceSpec"]


class ServiceSpec(Protocol):
    """A service declared as data, such as a worker; built anew for each run."""

    def build(self, crew: CrewRedis, /) -> Service:
        """Return the service. Called once `crew.redis` exists; must not block."""
        ...
