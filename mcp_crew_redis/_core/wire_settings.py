"""What the wire may use and how long it may take."""

from __future__ import annotations

from dataclasses import dataclass

from mcp_crew_redis.errors import ConfigurationError

__all__ = ["PATIENCE", "WireSettings"]

PATIENCE = 1.5  # command timeouts that a caller waits at most, whatever goes wrong
KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class WireSettings:
    """Limits of the connections to one node.

    Attributes:
        pool_size: Lanes plus dedicated connections, together.
        command_timeout: Seconds a command may wait for its answer.
        dedicated_timeout: Seconds for an answer on a dedicated connection, on top of
            what a blocking command waits in the server.
        connect_timeout: Seconds a dial with its handshake may take.
        max_pending: Commands in flight on one lane.
        max_queued_bytes: Bytes that one lane holds unsent.
        bulk_bytes: Commands and replies over this size use the bulk lane.
        flush_commands: A lane writes at the end of the loop's tick, or as soon as
            this many commands are buffered. Measured at 100 callers: 48 lets the
            server work while the tick is still being packed, a third faster than one
            write per tick; below 16 the system calls cost more than that gains.
        burst: Waiting callers let through to a lane before one of them has sent.
        idle_ping: Seconds without a byte after which an idle lane sends a PING.
        large_for: Seconds that a large reply sends its kind to the bulk lane.
        auth_pause: Seconds between two attempts with refused credentials.

    Raises:
        ConfigurationError: A limit is outside its range.
    """

    pool_size: int = 10
    command_timeout: float = 1.0
    connect_timeout: float = 2.0
    dedicated_timeout: float = 5.0
    max_pending: int = 4096
    max_queued_bytes: int = 32 * MIB
    bulk_bytes: int = 64 * KIB
    flush_commands: int = 48
    burst: int = 8
    idle_ping: float = 5.0
    large_for: float = 60.0
    auth_pause: float = 5.0

    def __post_init__(self) -> None:
        _within("REDIS_CREW_POOL_SIZE", self.pool_size, 3, 10_000)
        _within("REDIS_CREW_COMMAND_TIMEOUT", self.command_timeout, 0.001, 3600.0)
        _within("REDIS_CREW_CONNECT_TIMEOUT", self.connect_timeout, 0.001, 3600.0)
        _within("max_pending", self.max_pending, 1, 1_000_000)
        _within("max_queued_bytes", self.max_queued_bytes, KIB, 4096 * MIB)
        _within("bulk_bytes", self.bulk_bytes, KIB, 512 * MIB)
        _within("flush_commands", self.flush_commands, 1, 4096)
        _within("idle_ping", self.idle_ping, 0.01, 3600.0)

    @property
    def max_dedicated(self) -> int:
        """Connections left for blocking commands, transactions and subscriptions."""
        return self.pool_size - 2


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigurationError(f"{name}={value}: accepted is {low} to {high}")
