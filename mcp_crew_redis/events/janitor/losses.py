"""What was lost is said: in the log, and as an event to whom it belonged."""

from __future__ import annotations

from typing import Final

from mcp_crew_redis.errors import CrewRedisError
from mcp_crew_redis.events.bus import EventBus
from mcp_crew_redis.events.janitor.rounds import Wake, now
from mcp_crew_redis.events.kinds import EventType
from mcp_crew_redis.log import get_logger

__all__ = ["Losses"]

log = get_logger(__name__)

MAX_ROWS: Final = 10_000
"""Tenant, type and group of losses not told yet; what is beyond is told in one sum."""

_Row = tuple[str, str, str]
_REST: Final[_Row] = ("", "", "")


class Losses:
    """Collects losses and reports them: each tenant, type and group in one line.

    The tallies in Redis count them anyway; this is what wakes somebody.

    Args:
        bus: Publishes what was lost to whom it belonged.
        pause: Seconds between two reports.
    """

    def __init__(self, bus: EventBus, pause: float) -> None:
        self._bus = bus
        self._pause = pause
        self._rows: dict[_Row, int] = {}
        self._wake = Wake()
        self._is_stopped = False

    def add(self, tenant_id: str, event_type: str, group: str, count: int) -> None:
        """Take note of events that are gone before this group had handled them."""
        row = (tenant_id, event_type, group)
        if row not in self._rows and len(self._rows) >= MAX_ROWS:
            row = _REST
        self._rows[row] = self._rows.get(row, 0) + count
        self._wake.set()

    def stop(self) -> None:
        """End `run` once everything is told."""
        self._is_stopped = True
        self._wake.set()

    async def run(self) -> None:
        """Report until stopped: the first loss at once, what follows in sums."""
        while not self._is_stopped or self._rows:
            if not self._rows:
                await self._wake.wait()
                continue
            await self._report()
            until = now() + self._pause
            while not self._is_stopped and (left := until - now()) > 0:
                await self._wake.wait(left)

    async def _report(self) -> None:
        rows, self._rows = self._rows, {}
        for (tenant_id, event_type, group), count in rows.items():
            log.warning(
                "janitor.events_lost",
                count=count,
                tenant=tenant_id,
                type=event_type,
                group=group,
            )
            if tenant_id and event_type != EventType.EVENTS_LOST:
                await self._publish(tenant_id, event_type, group, count)

    async def _publish(
        self, tenant_id: str, event_type: str, group: str, count: int
    ) -> None:
        payload = {"event_type": event_type, "group": group, "count": count}
        try:
            await self._bus.of(tenant_id).publish(EventType.EVENTS_LOST, payload)
        except CrewRedisError as error:
            log.warning("janitor.report_failed", cause=type(error).__name__)
