"""What a service is, and where it may stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from anyio.abc import TaskStatus

from mcp_crew_redis.errors import StartTimeoutError

__all__ = [
    "PatientService",
    "Service",
    "ServiceState",
    "ServiceStatus",
    "StartTimeoutError",
]


class Service(Protocol):
    """A long-running loop that a `Lifecycle` starts and drains."""

    @property
    def name(self) -> str:
        """A name of its own, used in `needs`, logs and health."""
        ...

    @property
    def needs(self) -> Sequence[str]:
        """Names of the services that start before this one and outlive it."""
        ...

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Call `task_status.started()` once ready, then serve until drained.

        Cancelled only when a deadline has passed; an error ends the whole lifecycle.
        """
        ...

    def drain(self) -> None:
        """Ask `run` to finish what it holds and return. Must not block."""
        ...


@runtime_checkable
class PatientService(Protocol):
    """A service that knows better than the settings how long its drain may take."""

    @property
    def drain_timeout(self) -> float:
        """Seconds, instead of the lifecycle's own `drain_timeout`."""
        ...


class ServiceState(StrEnum):
    """Where a service, or the lifecycle as a whole, stands."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatus:
    """One service as health shows it.

    Attributes:
        name: The service's name.
        state: Where it stands.
        error: The class of the error that ended it; never its message.
    """

    name: str
    state: ServiceState
    error: str | None = None
