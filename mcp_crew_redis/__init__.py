"""The asyncio Redis layer for multi-agent (MCP) systems.

The public names load when they are first used: the pytest plugin of this package is
imported in every test run of its users, and must cost nothing there.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcp_crew_redis._core.bell import Bell as Bell
    from mcp_crew_redis._core.bell import BellListener as BellListener
    from mcp_crew_redis._core.breaker import BreakerSettings as BreakerSettings
    from mcp_crew_redis._core.breaker import CircuitState as CircuitState
    from mcp_crew_redis._core.client import PipelinedRedis as PipelinedRedis
    from mcp_crew_redis._core.embedded import EmbeddedServer as EmbeddedServer
    from mcp_crew_redis._core.topology import SentinelSettings as SentinelSettings
    from mcp_crew_redis._core.wire_settings import WireSettings as WireSettings
    from mcp_crew_redis.crew import CrewRedis as CrewRedis
    from mcp_crew_redis.crew import ServiceSpec as ServiceSpec
    from mcp_crew_redis.crew.default import redis_manager as redis_manager
    from mcp_crew_redis.errors import CircuitOpenError as CircuitOpenError
    from mcp_crew_redis.errors import CodecError as CodecError
    from mcp_crew_redis.errors import ConfigurationError as ConfigurationError
    from mcp_crew_redis.errors import ConflictError as ConflictError
    from mcp_crew_redis.errors import ConnectionLostError as ConnectionLostError
    from mcp_crew_redis.errors import CrewRedisError as CrewRedisError
    from mcp_crew_redis.errors import DataError as DataError
    from mcp_crew_redis.errors import FallbackFullError as FallbackFullError
    from mcp_crew_redis.errors import InvalidIdentifierError as InvalidIdentifierError
    from mcp_crew_redis.errors import InvalidTenantError as InvalidTenantError
    from mcp_crew_redis.errors import InvalidTtlError as InvalidTtlError
    from mcp_crew_redis.errors import LifecycleError as LifecycleError
    from mcp_crew_redis.errors import OperationTimeoutError as OperationTimeoutError
    from mcp_crew_redis.errors import OutcomeUnknownError as OutcomeUnknownError
    from mcp_crew_redis.errors import OverloadedError as OverloadedError
    from mcp_crew_redis.errors import RateLimitedError as RateLimitedError
    from mcp_crew_redis.errors import RefusedError as RefusedError
    from mcp_crew_redis.errors import SessionError as SessionError
    from mcp_crew_redis.errors import StartTimeoutError as StartTimeoutError
    from mcp_crew_redis.errors import TaskCancelledError as TaskCancelledError
    from mcp_crew_redis.errors import TaskError as TaskError
    from mcp_crew_redis.errors import TaskFailedError as TaskFailedError
    from mcp_crew_redis.errors import TaskTimeoutError as TaskTimeoutError
    from mcp_crew_redis.errors import UnavailableError as UnavailableError
    from mcp_crew_redis.errors import UnknownTaskError as UnknownTaskError
    from mcp_crew_redis.errors import ValueTooLargeError as ValueTooLargeError
    from mcp_crew_redis.health import ComponentHealth as ComponentHealth
    from mcp_crew_redis.health import HealthReport as HealthReport
    from mcp_crew_redis.lifecycle import Service as Service
    from mcp_crew_redis.settings import CrewSettings as CrewSettings
    from mcp_crew_redis.store.conflicts import Conflict as Conflict
    from mcp_crew_redis.store.conflicts import Merged as Merged
    from mcp_crew_redis.store.entry import Entry as Entry
    from mcp_crew_redis.store.journal_view import JournalStatistics as JournalStatistics
    from mcp_crew_redis.store.journal_view import JournalView as JournalView
    from mcp_crew_redis.store.journal_view import Unresolved as Unresolved
    from mcp_crew_redis.store.manager import RedisManager as RedisManager
    from mcp_crew_redis.tenant import Tenant as Tenant
    from mcp_crew_redis.types import DataType as DataType
    from mcp_crew_redis.types import DeleteOutcome as DeleteOutcome
    from mcp_crew_redis.types import EmbeddingType as EmbeddingType
    from mcp_crew_redis.types import Importance as Importance
    from mcp_crew_redis.types import KnowledgeType as KnowledgeType
    from mcp_crew_redis.types import WriteOutcome as WriteOutcome

_HOMES = {
    "_core.bell": ("Bell", "BellListener"),
    "_core.breaker": ("BreakerSettings", "CircuitState"),
    "_core.client": ("PipelinedRedis",),
    "_core.embedded": ("EmbeddedServer",),
    "_core.topology": ("SentinelSettings",),
    "_core.wire_settings": ("WireSettings",),
    "crew": ("CrewRedis", "ServiceSpec"),
    "crew.default": ("redis_manager",),
    "health": ("ComponentHealth", "HealthReport"),
    "lifecycle": ("Service",),
    "settings": ("CrewSettings",),
    "store.conflicts": ("Conflict", "Merged"),
    "store.entry": ("Entry",),
    "store.journal_view": ("JournalStatistics", "JournalView", "Unresolved"),
    "store.manager": ("RedisManager",),
    "tenant": ("Tenant",),
    "types": (
        "DataType",
        "DeleteOutcome",
        "EmbeddingType",
        "Importance",
        "KnowledgeType",
        "WriteOutcome",
    ),
    "errors": (
        "CircuitOpenError",
        "CodecError",
        "ConfigurationError",
        "ConflictError",
        "ConnectionLostError",
        "CrewRedisError",
        "DataError",
        "FallbackFullError",
        "InvalidIdentifierError",
        "InvalidTenantError",
        "InvalidTtlError",
        "LifecycleError",
        "OperationTimeoutError",
        "OutcomeUnknownError",
        "OverloadedError",
        "RateLimitedError",
        "RefusedError",
        "SessionError",
        "StartTimeoutError",
        "TaskCancelledError",
        "TaskError",
        "TaskFailedError",
        "TaskTimeoutError",
        "UnavailableError",
        "UnknownTaskError",
        "ValueTooLargeError",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Bell",
    "BellListener",
    "BreakerSettings",
    "CircuitOpenError",
    "CircuitState",
    "CodecError",
    "ComponentHealth",
    "ConfigurationError",
    "Conflict",
    "ConflictError",
    "ConnectionLostError",
    "CrewRedis",
    "CrewRedisError",
    "CrewSettings",
    "DataError",
    "DataType",
    "DeleteOutcome",
    "EmbeddedServer",
    "EmbeddingType",
    "Entry",
    "FallbackFullError",
    "HealthReport",
    "Importance",
    "InvalidIdentifierError",
    "InvalidTenantError",
    "InvalidTtlError",
    "JournalStatistics",
    "JournalView",
    "KnowledgeType",
    "LifecycleError",
    "Merged",
    "OperationTimeoutError",
    "OutcomeUnknownError",
    "OverloadedError",
    "PipelinedRedis",
    "RateLimitedError",
    "RedisManager",
    "RefusedError",
    "SentinelSettings",
    "Service",
    "ServiceSpec",
    "SessionError",
    "StartTimeoutError",
    "TaskCancelledError",
    "TaskError",
    "TaskFailedError",
    "TaskTimeoutError",
    "Tenant",
    "UnavailableError",
    "UnknownTaskError",
    "Unresolved",
    "ValueTooLargeError",
    "WireSettings",
    "WriteOutcome",
    "redis_manager",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
