"""Make the parts of a crew from its settings, and ask them how they are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from anyio import move_on_after

from mcp_crew_redis._core.bell import Bell
from mcp_crew_redis._core.breaker import BreakerSettings, CircuitState
from mcp_crew_redis._core.client import PipelinedRedis
from mcp_crew_redis._core.embedded import EmbeddedServer
from mcp_crew_redis._core.topology import SentinelSettings
from mcp_crew_redis._core.wire_settings import WireSettings
from mcp_crew_redis.errors import (
    ConfigurationError,
    ConnectionLostError,
    UnavailableError,
)
from mcp_crew_redis.health import ComponentHealth, HealthReport
from mcp_crew_redis.lifecycle import ServiceState, ServiceStatus
from mcp_crew_redis.log import get_logger
from mcp_crew_redis.settings import (
    CrewSettings,
    Endpoint,
    TlsSection,
    TopologySection,
)

__all__ = [
    "close",
    "dial",
    "embedded_health",
    "loop_health",
    "make_client",
    "redis_health",
    "refuse_what_is_not_built",
    "service_health",
]

log = get_logger(__name__)

CLOSE_TIMEOUT = 5.0  # seconds for the client's connections to close
MAX_LOOP_LAG = 1.0  # seconds for one turn of a loop that still counts as alive


def refuse_what_is_not_built(settings: CrewSettings) -> None:
    """Refuse settings that would be ignored: this version does not have them.

    Raises:
        ConfigurationError: Names each of them.
    """
    topology, journal = settings.topology, settings.journal
    wanted = {
        "REDIS_CREW_CLUSTER": topology.is_cluster,
        "REDIS_CREW_JOURNAL_DIR": journal.directory is not None,
    }
    if names := [name for name, is_wanted in wanted.items() if is_wanted]:
        raise ConfigurationError(
            f"{', '.join(names)}: not in this version yet; unset to go on without"
        )


def make_client(
    settings: CrewSettings, server: EmbeddedServer | None
) -> PipelinedRedis:
    """Make the client, inert: for the embedded server, the sentinels or the address."""
    if server is not None:
        address: dict[str, Any] = {
            "unix_socket_path": server.unix_socket,
            "db": settings.endpoint.db,
        }
    else:
        address = _address(settings.endpoint, settings.topology)
    wire, breaker = settings.wire, settings.breaker
    return PipelinedRedis(
        wire=WireSettings(
            pool_size=wire.pool_size,
            command_timeout=wire.command_timeout,
            connect_timeout=wire.connect_timeout,
        ),
        breaker=BreakerSettings(threshold=breaker.threshold, timeout=breaker.timeout),
        **address,
    )


def _address(endpoint: Endpoint, topology: TopologySection) -> dict[str, Any]:
    password = endpoint.password
    options: dict[str, Any] = {
        "db": endpoint.db,
        "username": endpoint.username,
        "password": None if password is None else password.get_secret_value(),
    }
    if endpoint.unix_socket is not None:
        return options | {"unix_socket_path": str(endpoint.unix_socket)}
    if topology.sentinels:
        options["sentinels"] = SentinelSettings(
            places=topology.sentinels, master=topology.sentinel_master or ""
        )
    else:
        options |= {"host": endpoint.host, "port": endpoint.port}
    return options if endpoint.tls is None else options | _tls(endpoint.tls)


def _tls(tls: TlsSection) -> dict[str, Any]:
    files = {
        "ssl_ca_certs": tls.ca_file,
        "ssl_certfile": tls.cert_file,
        "ssl_keyfile": tls.key_file,
    }
    return {
        "ssl": True,
        "ssl_check_hostname": tls.is_hostname_checked,
        **{name: str(path) for name, path in files.items() if path is not None},
    }


async def dial(
    client: PipelinedRedis, settings: CrewSettings, *, is_strict: bool
) -> None:
    """Make the first connection; without Redis go on, unless `is_strict`.

    Raises:
        ConfigurationError: What answers cannot be used: password, version, protocol.
        ConnectionLostError: Nothing answers, and `is_strict`.
    """
    address, source = _where(settings)
    try:
        # A server that accepts and stays silent must not hold the start for ever.
        async with asyncio.timeout(settings.lifecycle.start_timeout):
            await client.connect()
    except (UnavailableError, TimeoutError) as error:
        if is_strict:
            raise ConnectionLostError(
                f"no Redis or Valkey answers at {address} ({source}): "
                f"{str(error) or 'timed out'}; start one there, correct the setting, "
                "or set REDIS_CREW_START=degraded to start without"
            ) from error
        cause = type(error).__name__
        log.warning("crew.started_degraded", address=address, cause=cause)


def _where(settings: CrewSettings) -> tuple[str, str]:
    """Return the address and the variables that say so."""
    topology, endpoint = settings.topology, settings.endpoint
    if topology.sentinels:
        return f"sentinel:{topology.sentinel_master}", "REDIS_CREW_SENTINELS"
    return str(endpoint), endpoint.source


async def close(client: PipelinedRedis) -> None:
    """Close the client's connections within a deadline; report if it is missed."""
    with move_on_after(CLOSE_TIMEOUT) as scope:
        await client.aclose()
    if scope.cancelled_caught:
        log.error("crew.close_timed_out", timeout=CLOSE_TIMEOUT)


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
    try:
        async with asyncio.timeout(patience):
            await client.ping()
    except (UnavailableError, ConfigurationError) as error:
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
    )


async def report(
    state: ServiceState,
    redis: ComponentHealth,
    *,
    embedded: EmbeddedServer | None,
    bell: Bell | None,
    statuses: Sequence[ServiceStatus],
) -> HealthReport:
    """Put the report together: live is the loop, ready is everything."""
    loop = await loop_health()
    components = [loop, redis]
    if embedded is not None:
        components.append(embedded_health(embedded))
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
        is_ready=is_running and all(each.is_well for each in components),
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
