"""The settings: the only reader of the environment."""

from mcp_crew_redis.settings.model import CrewSettings
from mcp_crew_redis.settings.sections import (
    BreakerSection,
    EmbeddedSection,
    Endpoint,
    JournalSection,
    LifecycleSection,
    TlsSection,
    TopologySection,
    ValueSection,
    WireSection,
)

__all__ = [
    "BreakerSection",
    "CrewSettings",
    "EmbeddedSection",
    "Endpoint",
    "JournalSection",
    "LifecycleSection",
    "TlsSection",
    "TopologySection",
    "ValueSection",
    "WireSection",
]
