"""The asyncio Redis layer for multi-agent (MCP) systems.

The public names load when they are first used: the pytest plugin of this package is
imported in every test run of its users, and must cost nothing there.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcp_crew_redis._core.backoff import Backoff as Backoff
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
    from mcp_crew_redis.errors import InvalidEventTypeError as InvalidEventTypeError
    from mcp_crew_redis.errors import InvalidIdentifierError as InvalidIdentifierError
    from mcp_crew_redis.errors import InvalidTenantError as InvalidTenantError
    from mcp_crew_redis.errors import InvalidTtlError as InvalidTtlError
    from mcp_crew_redis.errors import LifecycleError as LifecycleError
    from mcp_crew_redis.errors import OperationTimeoutError as OperationTimeoutError
    from mcp_crew_redis.errors import OutcomeUnknownError as OutcomeUnknownError
    from mcp_crew_redis.errors import OverloadedError as OverloadedError
    from mcp_crew_redis.errors import RateLimitedError as RateLimitedError
    from mcp_crew_redis.errors import RefusedError as RefusedError
    from mcp_crew_redis.errors import ReplicationError as ReplicationError
    from mcp_crew_redis.errors import SessionError as SessionError
    from mcp_crew_redis.errors import StartTimeoutError as StartTimeoutError
    from mcp_crew_redis.errors import TaskCancelledError as TaskCancelledError
    from mcp_crew_redis.errors import TaskError as TaskError
    from mcp_crew_redis.errors import TaskFailedError as TaskFailedError
    from mcp_crew_redis.errors import TaskTimeoutError as TaskTimeoutError
    from mcp_crew_redis.errors import UnavailableError as UnavailableError
    from mcp_crew_redis.errors import UnknownTaskError as UnknownTaskError
    from mcp_crew_redis.errors import ValueTooLargeError as ValueTooLargeError
    from mcp_crew_redis.events.bus import EventBus as EventBus
    from mcp_crew_redis.events.bus import TenantEvents as TenantEvents
    from mcp_crew_redis.events.cloudevents import from_cloudevent as from_cloudevent
    from mcp_crew_redis.events.cloudevents import to_cloudevent as to_cloudevent
    from mcp_crew_redis.events.consumer.counts import (
        ConsumerStatistics as ConsumerStatistics,
    )
    from mcp_crew_redis.events.dead_letters import DeadLetter as DeadLetter
    from mcp_crew_redis.events.dead_letters import DeadLetters as DeadLetters
    from mcp_crew_redis.events.event import Event as Event
    from mcp_crew_redis.events.event import EventReceipt as EventReceipt
    from mcp_crew_redis.events.kinds import EventPriority as EventPriority
    from mcp_crew_redis.events.kinds import EventType as EventType
    from mcp_crew_redis.events.many import PublishManyError as PublishManyError
    from mcp_crew_redis.events.outcomes import BatchOutcome as BatchOutcome
    from mcp_crew_redis.events.outcomes import Reject as Reject
    from mcp_crew_redis.events.outcomes import Retry as Retry
    from mcp_crew_redis.events.replaying import Replay as Replay
    from mcp_crew_redis.events.schemas import EventCatalog as EventCatalog
    from mcp_crew_redis.events.schemas import EventSchema as EventSchema
    from mcp_crew_redis.events.stats import GroupStats as GroupStats
    from mcp_crew_redis.events.subscriptions import ALL_TENANTS as ALL_TENANTS
    from mcp_crew_redis.events.subscriptions import Subscriptions as Subscriptions
    from mcp_crew_redis.events.tailing import Tail as Tail
    from mcp_crew_redis.events.transaction import Transaction as Transaction
    from mcp_crew_redis.events.transaction import TransactionResult as TransactionResult
    from mcp_crew_redis.health import ComponentHealth as ComponentHealth
    from mcp_crew_redis.health import HealthReport as HealthReport
    from mcp_crew_redis.lifecycle import Service as Service
    from mcp_crew_redis.services import EventConsumer as EventConsumer
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
    "_core.backoff": ("Backoff",),
    "_core.bell": ("Bell", "BellListener"),
    "_core.breaker": ("BreakerSettings", "CircuitState"),
    "_core.client": ("PipelinedRedis",),
    "_core.embedded": ("EmbeddedServer",),
    "_core.topology": ("SentinelSettings",),
    "_core.wire_settings": ("WireSettings",),
    "crew": ("CrewRedis", "ServiceSpec"),
    "crew.default": ("redis_manager",),
    "events.bus": ("EventBus", "TenantEvents"),
    "events.cloudevents": ("from_cloudevent", "to_cloudevent"),
    "events.consumer.counts": ("ConsumerStatistics",),
    "events.dead_letters": ("DeadLetter", "DeadLetters"),
    "events.event": ("Event", "EventReceipt"),
    "events.kinds": ("EventPriority", "EventType"),
    "events.many": ("PublishManyError",),
    "events.outcomes": ("BatchOutcome", "Reject", "Retry"),
    "events.replaying": ("Replay",),
    "events.schemas": ("EventCatalog", "EventSchema"),
    "events.stats": ("GroupStats",),
    "events.subscriptions": ("ALL_TENANTS", "Subscriptions"),
    "events.tailing": ("Tail",),
    "events.transaction": ("Transaction", "TransactionResult"),
    "health": ("ComponentHealth", "HealthReport"),
    "lifecycle": ("Service",),
    "services": ("EventConsumer",),
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
        "InvalidEventTypeError",
        "InvalidIdentifierError",
        "InvalidTenantError",
        "InvalidTtlError",
        "LifecycleError",
        "OperationTimeoutError",
        "OutcomeUnknownError",
        "OverloadedError",
        "RateLimitedError",
        "RefusedError",
        "ReplicationError",
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
    "ALL_TENANTS",
    "Backoff",
    "BatchOutcome",
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
    "ConsumerStatistics",
    "CrewRedis",
    "CrewRedisError",
    "CrewSettings",
    "DataError",
    "DataType",
    "DeadLetter",
    "DeadLetters",
    "DeleteOutcome",
    "EmbeddedServer",
    "EmbeddingType",
    "Entry",
    "Event",
    "EventBus",
    "EventCatalog",
    "EventConsumer",
    "EventPriority",
    "EventReceipt",
    "EventSchema",
    "EventType",
    "FallbackFullError",
    "GroupStats",
    "HealthReport",
    "Importance",
    "InvalidEventTypeError",
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
    "PublishManyError",
    "RateLimitedError",
    "RedisManager",
    "RefusedError",
    "Reject",
    "Replay",
    "ReplicationError",
    "Retry",
    "SentinelSettings",
    "Service",
    "ServiceSpec",
    "SessionError",
    "StartTimeoutError",
    "Subscriptions",
    "Tail",
    "TaskCancelledError",
    "TaskError",
    "TaskFailedError",
    "TaskTimeoutError",
    "Tenant",
    "TenantEvents",
    "Transaction",
    "TransactionResult",
    "UnavailableError",
    "UnknownTaskError",
    "Unresolved",
    "ValueTooLargeError",
    "WireSettings",
    "WriteOutcome",
    "from_cloudevent",
    "redis_manager",
    "to_cloudevent",
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
