"""Start services in order, drain them in reverse, leave no task behind."""

from mcp_crew_redis.lifecycle.held import Caller, held
from mcp_crew_redis.lifecycle.lifecycle import Lifecycle
from mcp_crew_redis.lifecycle.service import (
    PatientService,
    Service,
    ServiceState,
    ServiceStatus,
    StartTimeoutError,
)
from mcp_crew_redis.lifecycle.signals import StopSignals

__all__ = [
    "Caller",
    "Lifecycle",
    "PatientService",
    "Service",
    "ServiceState",
    "ServiceStatus",
    "StartTimeoutError",
    "StopSignals",
    "held",
]
