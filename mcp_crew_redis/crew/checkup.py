"""Ask the parts of a crew how they are.

Live is the loop. Ready is whoever serves: a crew whose Redis is away goes on with its
journal, so it is degraded and still ready, until the journal is nearly full.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from mcp_crew_redis._core.bell import Bell
from mcp_crew_redis._core.breaker import CircuitState
from mcp_crew_redis._core.client import PipelinedRedis
from mcp_crew_redis._core.embedded import EmbeddedServer
from mcp_crew_redis.crew.state import TenantState
from mcp_crew_redis.errors import ConfigurationError, UnavailableError
from mcp_crew_redis.health import ComponentHealth, HealthReport
from mcp_crew_redis.lifecycle import ServiceState, ServiceStatus
from mcp_crew_redis.store.journal_view import JournalView

__all__ = [
    "embedded_health",
    "journal_health",
    "loop_health",
    "redis_health",
    "report",
    "service_health",
]

MAX_LOOP_LAG = 1.0  # seconds for one turn of a loop that still counts as alive
MAX_SHARE = 0.8  # of the journal, above which work is better sent elsewhere


async def loop_health() -> ComponentHealth:
    """Measure one turn of the event loop."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.sleep(0)
    lag = loop.time() - began
    is_alive = lag < MAX_LOOP_LAG
    return ComponentHealth(
        name="loop",
        state="running" if is_alive else "lagging",
        detail={"lag_ms": round(lag * 1000, 3)},
        reason=None if is_alive else "something blocks the event loop",
    )


async def redis_health(
    client: PipelinedRedis | None, patience: float
) -> ComponentHealth:
    """Ask Redis for a PONG, for at most `patience` seconds.

    With an open circuit the answer is there at once.
    """
    if client is None:
        return ComponentHealth(name="redis", state="stopped", reason="not connected")
    loop = asyncio.get_running_loop()
    began, reason = loop.time(), None
    is_bearable = True  # what the journal bridges
    try:
        async with asyncio.timeout(patience):
            await client.ping()
    except ConfigurationError as error:
        reason, is_bearable = str(error), False
    except UnavailableError as error:
        reason = str(error)
    except TimeoutError:
        reason = f"no answer to PING within {patience} s"
    except Exception as error:  # noqa: BLE001 - a health report never raises
        reason = f"PING was answered with {type(error).__name__}"
    figures = client.statistics()
    is_closed = client.circuit_state is CircuitState.CLOSED
    return ComponentHealth(
        name="redis",
        state=client.circuit_state.value,
        detail={
            "address": figures.address,
            "server": figures.server,
            "ping_ms": round((loop.time() - began) * 1000, 3),
            "stray_count": figures.strays,
            "is_kill_refused": figures.kill_refused,
        },
        reason=reason or (None if is_closed else "the circuit is not closed"),
        is_bearable=is_bearable,
    )


def journal_health(journal: JournalView) -> ComponentHealth:
    """Say what waits for Redis, and what is in its way."""
    told = journal.statistics()
    reasons = [
        told.disk_trouble,
        told.sync_trouble if told.depth > told.unresolved else None,
        f"{told.unresolved} entries wait for a decision" if told.unresolved else None,
        f"{told.not_restored} acknowledged writes could not be put back"
        if told.not_restored
        else None,
        "nearly full" if told.share_used >= MAX_SHARE else None,
    ]
    detail = {
        "depth": told.depth,
        "bytes": told.bytes,
        "share_used": round(told.share_used, 4),
        "oldest_age_s": round(told.oldest_age, 3),
        "unresolved_count": told.unresolved,
        "conflict_count": told.conflicts,
        "is_durable": told.is_durable,
        "window_bytes": told.window_bytes,
    }
    return ComponentHealth(
        name="journal",
        state="waiting" if told.depth else "empty",
        detail=detail,
        reason="; ".join(reason for reason in reasons if reason) or None,
        is_bearable=told.share_used < MAX_SHARE,
    )


async def report(
    state: ServiceState,
    redis: ComponentHealth,
    *,
    embedded: EmbeddedServer | None,
    offer: TenantState | None,
    statuses: Sequence[ServiceStatus],
) -> HealthReport:
    """Put the report together."""
    loop = await loop_health()
    components = [loop, redis]
    if embedded is not None:
        components.append(embedded_health(embedded))
    bell = None if offer is None else offer.bell
    if offer is not None:
        components.append(journal_health(offer.journal))
    components += [
        bell_health(bell, status)
        if bell is not None and status.name == bell.name
        else service_health(status)
        for status in statuses
    ]
    is_dead = state in (ServiceState.STOPPED, ServiceState.FAILED)
    is_running = state is ServiceState.RUNNING
    return HealthReport(
        is_live=loop.is_well and not is_dead,
        is_ready=is_running and all(each.is_serving for each in components),
        components=tuple(components),
    )


def bell_health(bell: Bell, status: ServiceStatus) -> ComponentHealth:
    """Report the bell as a service, with what its listeners have to know."""
    figures, service = bell.statistics(), service_health(status)
    detail = {
        **service.detail,
        "mode": figures.mode.value,
        "listener_count": figures.listeners,
        "loss_count": figures.losses,
        "is_healthy": figures.is_healthy,
    }
    return replace(service, detail=detail)


def embedded_health(server: EmbeddedServer) -> ComponentHealth:
    """Say whether our own server is up."""
    is_up = server.is_running and server.pid is not None
    return ComponentHealth(
        name="embedded",
        state="running" if is_up else "stopped",
        detail={"pid": server.pid},
        reason=None if is_up else "the embedded server is not running",
    )


def service_health(status: ServiceStatus) -> ComponentHealth:
    """Say how a service is."""
    is_running = status.state is ServiceState.RUNNING
    return ComponentHealth(
        name=status.name,
        state=status.state.value,
        reason=None if is_running else status.error or f"it is {status.state.value}",
    )
