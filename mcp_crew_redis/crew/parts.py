"""Make the parts of a crew from its settings."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from anyio import move_on_after

from mcp_crew_redis._core.breaker import BreakerSettings
from mcp_crew_redis._core.client import PipelinedRedis
from mcp_crew_redis._core.embedded import EmbeddedServer
from mcp_crew_redis._core.topology import SentinelSettings
from mcp_crew_redis._core.wire_settings import WireSettings
from mcp_crew_redis._wire.ttl import TtlPolicy
from mcp_crew_redis.errors import (
    ConfigurationError,
    ConnectionLostError,
    UnavailableError,
)
from mcp_crew_redis.log import get_logger
from mcp_crew_redis.settings import (
    CrewSettings,
    Endpoint,
    TlsSection,
    TopologySection,
)

__all__ = [
    "check",
    "close",
    "dial",
    "make_client",
    "refuse_what_is_not_built",
    "where",
]

log = get_logger(__name__)

CLOSE_TIMEOUT = 5.0  # seconds for the client's connections to close


def check(settings: CrewSettings) -> None:
    """Refuse settings that cannot be used, before anything is made of them.

    Raises:
        ConfigurationError: Names each variable.
    """
    refuse_what_is_not_built(settings)
    TtlPolicy(settings.values.ttl, random=Random())  # noqa: S311 - nothing is drawn


def refuse_what_is_not_built(settings: CrewSettings) -> None:
    """Refuse settings that would be ignored: this version does not have them.

    Raises:
        ConfigurationError: Names each of them.
    """
    if settings.topology.is_cluster:
        raise ConfigurationError(
            "REDIS_CREW_CLUSTER: not in this version yet; unset to go on without"
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
    address, source = where(settings)
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


def where(settings: CrewSettings) -> tuple[str, str]:
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
