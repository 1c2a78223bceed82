"""One service between its start and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from anyio import CancelScope

from mcp_crew_redis.errors import LifecycleError
from mcp_crew_redis.lifecycle.service import Service, ServiceState, ServiceStatus

__all__ = ["Member"]

_OnEnd: TypeAlias = "Callable[[Member, ServiceState], None]"


class Member:
    """One service between its start and its end; the status it reports to."""

    def __init__(self, service: Service, on_end: _OnEnd) -> None:
        self.service = service
        self.state = ServiceState.STOPPED
        self.error: Exception | None = None
        self.has_started = False
        self.settled = asyncio.Event()  # ready, or ended
        self.ended = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._scope: CancelScope | None = None
        self._on_end = on_end

    def started(self, value: None = None) -> None:  # noqa: ARG002 - TaskStatus
        """Note that the service is ready."""
        if self.state is ServiceState.STARTING:
            self.state = ServiceState.RUNNING
        self.has_started = True
        self.settled.set()

    def begin(self) -> None:
        """Start the service in a task of its own."""
        self.state = ServiceState.STARTING
        loop = asyncio.get_running_loop()
        # A scope, not task.cancel(): it respects a service's shielded clean-up.
        self._scope = CancelScope()
        name = f"service {self.service.name}"
        self._task = loop.create_task(self._live(self._scope), name=name)

    def cancel(self) -> None:
        """Cancel the service; it may take a moment over its clean-up."""
        if self._scope is not None:
            self._scope.cancel()

    async def _live(self, scope: CancelScope) -> None:
        try:
            with scope:
                await self.service.run(task_status=self)
        except asyncio.CancelledError:
            name = self.service.name
            self.error = LifecycleError(f"service {name!r} was cancelled from outside")
        except Exception as error:  # noqa: BLE001 - filed; the lifecycle raises it
            self.error = error
        finally:
            left = self.state
            self.state = ServiceState.FAILED if self.error else ServiceState.STOPPED
            self.settled.set()
            self.ended.set()
            self._on_end(self, left)

    def abandon(self, error: LifecycleError) -> None:
        """Give the service up: whatever it still does, it no longer counts."""
        self.state, self.error = ServiceState.FAILED, error
        self._on_end = lambda _member, _left: None

    def status(self) -> ServiceStatus:
        """Return what health shows of it."""
        error = type(self.error).__name__ if self.error else None
        return ServiceStatus(name=self.service.name, state=self.state, error=error)
