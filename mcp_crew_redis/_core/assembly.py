"""Putting a client together: redis-py's pool in, ours with its node out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from redis.asyncio.connection import ConnectionPool

from mcp_crew_redis._core.breaker import BreakerSettings
from mcp_crew_redis._core.dedicated import DedicatedPool
from mcp_crew_redis._core.node import Node
from mcp_crew_redis._core.seam import Encoder
from mcp_crew_redis._core.topology import SentinelSettings
from mcp_crew_redis._core.wire_settings import WireSettings
from mcp_crew_redis.clock import Clock

__all__ = ["address_of", "make_pool"]


def make_pool(
    pool: ConnectionPool,
    *,
    settings: WireSettings,
    breaker: BreakerSettings,
    clock: Clock,
    random: Random,
    sentinels: SentinelSettings | None,
    on_push: Callable[[list[Any]], None] | None,
) -> DedicatedPool:
    """Make the pool of dedicated connections, and the node that shares its dialling.

    Args:
        pool: Tells the kind of connection and its arguments; never used otherwise.
        settings: Limits and timeouts.
        breaker: When the circuit opens and how it closes.
        clock: Time.
        random: Jitter.
        sentinels: Who name the server; None for the address in the arguments.
        on_push: Called with every RESP3 push that arrives on a lane.

    Raises:
        ConfigurationError: Sentinels, and a connection that is not over TCP.
    """
    dedicated = DedicatedPool(
        settings, pool.connection_class, pool.connection_kwargs, sentinels=sentinels
    )
    found = dedicated.sentinels
    dedicated.node = Node(
        dedicated.make_plain,
        address=address_of(pool.connection_kwargs) if found is None else found.address,
        settings=settings,
        breaker=breaker,
        clock=clock,
        random=random,
        decoding=_decoding(dedicated.get_encoder()),
        on_push=on_push,
    )
    return dedicated


def address_of(kwargs: Mapping[str, Any]) -> str:
    """Return how logs and reports name the node; never a credential."""
    if "path" in kwargs:
        return str(kwargs["path"])
    return f"{kwargs.get('host', 'localhost')}:{kwargs.get('port', 6379)}"


def _decoding(encoder: Encoder) -> tuple[str, str] | None:
    if not encoder.decode_responses:
        return None
    return (encoder.encoding, encoder.encoding_errors)
