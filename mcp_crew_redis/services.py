"""What a crew runs beside its own parts, declared as data."""

from __future__ import annotations

from typing import Protocol

from mcp_crew_redis.events.bus import EventBus
from mcp_crew_redis.events.consumer.counts import ConsumerStatistics
from mcp_crew_redis.events.consumer.service import ConsumerService
from mcp_crew_redis.events.subscriptions import Subscriptions

__all__ = ["EventConsumer"]


class _Crew(Protocol):
    """What a consumer needs of its crew."""

    @property
    def events(self) -> EventBus: ...


class EventConsumer:
    """Handles events for as long as its crew runs: `CrewRedis(services=[...])`.

    Args:
        subscriptions: The handlers, and what they want.
        name: As a service; several consumers in one crew need different ones.
    """

    def __init__(self, subscriptions: Subscriptions, *, name: str = "consumer") -> None:
        self._subscriptions = subscriptions
        self._name = name
        self._service: ConsumerService | None = None

    def build(self, crew: _Crew, /) -> ConsumerService:
        """Return the service; called by the crew, for each run."""
        self._service = ConsumerService(
            crew.events.hub, self._subscriptions, name=self._name
        )
        return self._service

    def statistics(self) -> tuple[ConsumerStatistics, ...]:
        """Return the figures of the present or last run, one for each subscription."""
        return () if self._service is None else self._service.statistics()

    def __repr__(self) -> str:
        return f"<EventConsumer {self._name} {len(self._subscriptions)} subscriptions>"
