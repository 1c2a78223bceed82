"""What each component is handed: its own section, frozen, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import SecretStr

__all__ = [
    "BreakerSection",
    "EmbeddedSection",
    "Endpoint",
    "JournalSection",
    "LifecycleSection",
    "TlsSection",
    "TopologySection",
    "ValueSection",
    "WireSection",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSection:
    """How to speak TLS. Without a CA file the system's authorities are trusted."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    is_hostname_checked: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where the server is and who we are there.

    Attributes:
        unix_socket: If set, `host` and `port` mean nothing.
        tls: None speaks in the clear.
        source: The variables that say so, for messages.
    """

    host: str
    port: int
    db: int
    username: str | None = None
    password: SecretStr | None = None
    unix_socket: Path | None = None
    tls: TlsSection | None = None
    source: str = ""

    def __str__(self) -> str:
        if self.unix_socket is not None:
            return f"unix socket {self.unix_socket}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TopologySection:
    """What stands behind the address: a server, sentinels or a cluster."""

    sentinels: tuple[tuple[str, int], ...] = ()
    sentinel_master: str | None = None
    is_cluster: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WireSection:
    """Limits of the connections to one node. Durations are seconds."""

    pool_size: int
    command_timeout: float
    connect_timeout: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSection:
    """When the circuit opens, and the longest wait between two probes in seconds."""

    threshold: int
    timeout: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedSection:
    """A server of our own: whether, which binary, and where it keeps its data.

    Attributes:
        binary: None looks for one.
        data_dir: None keeps nothing beyond the process.
    """

    is_wanted: bool = False
    binary: Path | None = None
    data_dir: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalSection:
    """What survives an outage, and for how long. Durations are seconds."""

    directory: Path | None
    fsync: Literal["never", "interval", "always"]
    replay_window: float
    tombstone_ttl: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueSection:
    """How keys begin, how large values may be, which times to live are overridden."""

    prefix: str
    max_value_bytes: int
    ttl: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleSection:
    """How to start and how long an end may take. Durations are seconds.

    Attributes:
        start: "degraded" starts without Redis, "strict" refuses to.
        start_timeout: For each service to become ready, and for the first dial.
        drain_timeout: For each service to finish.
        shutdown_timeout: For all services together.
    """

    start: Literal["degraded", "strict"]
    start_timeout: float
    drain_timeout: float
    shutdown_timeout: float
