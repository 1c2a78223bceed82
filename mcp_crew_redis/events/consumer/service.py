"""All subscriptions of one consumer, as a service of the crew."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from anyio.abc import TaskStatus

from mcp_crew_redis.errors import LifecycleError
from mcp_crew_redis.events.consumer.counts import ConsumerStatistics
from mcp_crew_redis.events.consumer.discovery import Discovery
from mcp_crew_redis.events.consumer.runner import Runner
from mcp_crew_redis.events.hub import EventHub
from mcp_crew_redis.events.subscriptions import Subscription

__all__ = ["ConsumerService"]


class ConsumerService:
    """Runs the handlers of events until drained. A `Service`.

    Args:
        hub: The parts.
        subscriptions: What it serves.
        name: As a service.
    """

    def __init__(
        self,
        hub: EventHub,
        subscriptions: Iterable[Subscription],
        *,
        name: str = "consumer",
    ) -> None:
        self.name = name
        self.needs: Sequence[str] = ("bell",)
        self._hub = hub
        self._runners = [Runner(hub, one) for one in subscriptions]
        self._discovery = Discovery(hub, self._runners)
        self._is_running = False

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Serve until drained. Ready at once: with Redis away it waits for it.

        Cancelled, calls under way are cancelled too; what they held is delivered
        again, here or elsewhere.

        Raises:
            LifecycleError: It has been run before.
        """
        if self._is_running:
            raise LifecycleError("a consumer service is run once; build another")
        self._is_running = True
        self._hub.used()
        self._discovery.start()
        task_status.started()
        try:
            async with asyncio.TaskGroup() as group:
                survey = group.create_task(self._discovery.run())
                async with asyncio.TaskGroup() as runners:
                    for runner in self._runners:
                        runners.create_task(runner.run())
                survey.cancel()
        finally:
            self._discovery.stop()

    def drain(self) -> None:
        """Fetch nothing more; end when the calls under way have ended."""
        for runner in self._runners:
            runner.finish()

    def statistics(self) -> tuple[ConsumerStatistics, ...]:
        """Return the figures of this moment, one for each subscription."""
        return tuple(runner.statistics() for runner in self._runners)

    def __repr__(self) -> str:
        return f"<ConsumerService {self.name} {self._runners!r}>"
