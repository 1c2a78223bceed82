"""`CrewSettings`: every setting, its variable, its range and its default."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from mcp_crew_redis.settings.contradictions import contradictions
from mcp_crew_redis.settings.endpoint import endpoint_of
from mcp_crew_redis.settings.kinds import (
    Directory,
    Executable,
    ReadableFile,
    Seconds,
    Secret,
    SecretUrl,
    Sentinels,
    SocketPath,
    Ttls,
)
from mcp_crew_redis.settings.problems import as_configuration_error, explain
from mcp_crew_redis.settings.sections import (
    BreakerSection,
    EmbeddedSection,
    Endpoint,
    JournalSection,
    LifecycleSection,
    TopologySection,
    ValueSection,
    WireSection,
)

__all__ = ["CrewSettings"]

_MIB = 1024 * 1024
_SWITCH = "true or false"
_FILE = "the path of a readable file"
_SECONDS = "seconds from 0.001 to 3600"


class CrewSettings(BaseSettings):
    """The settings of one `CrewRedis`, from arguments and then the environment.

    A field's variable is `REDIS_CREW_` and its name in capitals, except for the two of
    the circuit breaker. No file is read. Each field's description says what it accepts.

    Raises:
        ConfigurationError: Names every bad variable, its value (never a secret) and
            what is accepted.
    """

    model_config = SettingsConfigDict(
        env_prefix="REDIS_CREW_",
        env_file=None,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
    )

    # --- the server ---------------------------------------------------------------
    url: SecretUrl | None = Field(
        None,
        description="redis://, rediss:// (TLS) or unix:// as in "
        "redis://user:password@host:port/db or unix:///path?db=0",
    )
    host: str = Field(
        "localhost",
        pattern=r"^[^\s/@?#]+$",
        description="a host name or an address, without a scheme or a port",
    )
    port: int = Field(6380, ge=1, le=65_535, description="a port from 1 to 65535")
    db: int = Field(0, ge=0, le=65_535, description="a database from 0 to 65535")
    username: str | None = Field(
        None, min_length=1, description="the name of an ACL user; unset for none"
    )
    password: Secret | None = Field(
        None, description="a password of at least one character; unset for none"
    )
    unix_socket: SocketPath | None = Field(
        None, description="the path of a unix socket, at most 107 bytes"
    )
    tls: bool = Field(default=False, description=_SWITCH)
    tls_ca_file: ReadableFile | None = Field(None, description=_FILE)
    tls_cert_file: ReadableFile | None = Field(None, description=_FILE)
    tls_key_file: ReadableFile | None = Field(None, description=_FILE)
    tls_check_hostname: bool = Field(default=True, description=_SWITCH)
    sentinels: Sentinels = Field((), description="host:port,host:port,...")
    sentinel_master: str | None = Field(
        None, min_length=1, description="the name the sentinels know the master by"
    )
    cluster: bool = Field(default=False, description=_SWITCH)
    embedded: bool = Field(default=False, description=_SWITCH)
    embedded_binary: Executable | None = Field(
        None, description="the path of an executable Valkey or Redis server"
    )
    data_dir: Directory | None = Field(
        None, description="a folder, made if it does not exist"
    )

    # --- the wire -----------------------------------------------------------------
    pool_size: int = Field(
        10, ge=3, le=10_000, description="a number of connections from 3 to 10000"
    )
    command_timeout: Seconds = Field(1.0, ge=0.001, le=3600, description=_SECONDS)
    connect_timeout: Seconds = Field(2.0, ge=0.001, le=3600, description=_SECONDS)
    circuit_breaker_threshold: int = Field(
        5,
        ge=1,
        le=1_000_000,
        validation_alias="REDIS_CIRCUIT_BREAKER_THRESHOLD",
        description="a number of failures in a row from 1 to 1000000",
    )
    circuit_breaker_timeout: Seconds = Field(
        60.0,
        ge=0.001,
        le=86_400,
        validation_alias="REDIS_CIRCUIT_BREAKER_TIMEOUT",
        description="seconds from 0.001 to 86400",
    )

    # --- the data -----------------------------------------------------------------
    prefix: str = Field(
        "mcp-crew:",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:-]{0,62}:$",
        description="up to 64 of A-Z a-z 0-9 . _ / : - that begin with a letter or "
        "digit and end with a colon",
    )
    max_value_bytes: int = Field(
        8 * _MIB, ge=1, le=512 * _MIB, description="bytes from 1 to 536870912"
    )
    ttl: Ttls = Field(
        {},
        description='a JSON object of seconds above 0, as in {"tools.mongodb": 3600}',
    )
    journal_dir: Directory | None = Field(
        None, description="a folder, made if it does not exist; unset for memory"
    )
    journal_fsync: Literal["never", "interval", "always"] = Field(
        "never", description="never, interval or always"
    )
    replay_window: Seconds = Field(
        3.0, ge=0, le=60, description="seconds from 0 (none) to 60"
    )
    tombstone_ttl: Seconds = Field(
        86_400.0, ge=60, le=31_536_000, description="seconds from 60 to 31536000"
    )

    # --- the lifecycle ------------------------------------------------------------
    start: Literal["degraded", "strict"] = Field(
        "degraded", description="degraded (start without Redis) or strict (refuse to)"
    )
    start_timeout: Seconds = Field(10.0, ge=0.001, le=3600, description=_SECONDS)
    drain_timeout: Seconds = Field(10.0, ge=0, le=3600, description="seconds to 3600")
    shutdown_timeout: Seconds = Field(
        25.0, ge=0, le=3600, description="seconds from 0 to 3600"
    )

    def __init__(self, **values: Any) -> None:
        lines: list[str] = []
        try:
            super().__init__(**values)
        except ValidationError as error:
            lines = explain(error, type(self).model_fields)
        # Raised outside: pydantic's error holds the values, secrets included.
        lines = lines or contradictions(self)
        if lines:
            raise as_configuration_error(lines)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments and then the environment; never a file."""
        return init_settings, env_settings

    # --- one section for each component ---------------------------------------------
    @property
    def endpoint(self) -> Endpoint:
        """Where the server is: the URL, completed by the single settings."""
        return endpoint_of(self)

    @property
    def topology(self) -> TopologySection:
        """What stands behind the address."""
        return TopologySection(
            sentinels=self.sentinels,
            sentinel_master=self.sentinel_master,
            is_cluster=self.cluster,
        )

    @property
    def wire(self) -> WireSection:
        """Limits of the connections."""
        return WireSection(
            pool_size=self.pool_size,
            command_timeout=self.command_timeout,
            connect_timeout=self.connect_timeout,
        )

    @property
    def breaker(self) -> BreakerSection:
        """When the circuit opens."""
        return BreakerSection(
            threshold=self.circuit_breaker_threshold,
            timeout=self.circuit_breaker_timeout,
        )

    @property
    def embedded_server(self) -> EmbeddedSection:
        """Whether to run a server of our own, and how."""
        return EmbeddedSection(
            is_wanted=self.embedded,
            binary=self.embedded_binary,
            data_dir=self.data_dir,
        )

    @property
    def journal(self) -> JournalSection:
        """What survives an outage."""
        return JournalSection(
            directory=self.journal_dir,
            fsync=self.journal_fsync,
            replay_window=self.replay_window,
            tombstone_ttl=self.tombstone_ttl,
        )

    @property
    def values(self) -> ValueSection:
        """How keys begin and what values may be."""
        return ValueSection(
            prefix=self.prefix,
            max_value_bytes=self.max_value_bytes,
            ttl=dict(self.ttl),
        )

    @property
    def lifecycle(self) -> LifecycleSection:
        """How to start and to end."""
        return LifecycleSection(
            start=self.start,
            start_timeout=self.start_timeout,
            drain_timeout=self.drain_timeout,
            shutdown_timeout=self.shutdown_timeout,
        )
