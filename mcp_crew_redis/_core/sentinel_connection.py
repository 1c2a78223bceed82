"""Connections that ask the sentinels where to go, each time they are dialled."""

from __future__ import annotations

from typing import Any

from redis import exceptions as redis_errors
from redis.asyncio.connection import AbstractConnection

from mcp_crew_redis._core.seam import (
    CrewConnection,
    CrewSSLConnection,
    never_retry,
    parse_info,
)
from mcp_crew_redis._core.sentinels import Follower, Sentinels
from mcp_crew_redis._core.topology import (
    MasterNotFoundError,
    Place,
    SentinelSettings,
)
from mcp_crew_redis._core.wire_settings import WireSettings
from mcp_crew_redis.errors import ConfigurationError

__all__ = ["follow", "following_class", "make_sentinels"]


class _Following:
    """Leads to the master: resolved at each dial, checked, and ended when it moves."""

    sentinels: Sentinels
    place: Place | None = None

    async def _connect(self) -> None:
        self.place = place = await self.sentinels.master()
        self.host, self.port = place
        await super()._connect()  # type: ignore[misc] # mixin

    async def on_connect_check_health(self, check_health: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's signature
        """Shake hands, then make sure that it is a master, and still the one."""
        await super().on_connect_check_health(check_health=check_health)  # type: ignore[misc] # mixin
        place = self.place
        if self._role() not in ("master", ""):
            raise MasterNotFoundError(
                "the server that the sentinels (REDIS_CREW_SENTINELS) name is a "
                "replica: a failover is under way"
            )
        if place is None or place != self.sentinels.current:
            raise MasterNotFoundError("the master moved while it was dialled")
        self.sentinels.follow(self, place)

    def _role(self) -> str:
        """Return "master", "slave", "replica", or nothing where it is not said."""
        introduction: list[Any] | None = getattr(self, "introduction", None)
        info = introduction[0] if introduction else None
        if isinstance(info, bytes):
            return parse_info(info).get("role", "")
        hello: dict[bytes, Any] = getattr(self, "hello", None) or {}
        role = hello.get(b"role", b"")
        return role.decode() if isinstance(role, bytes) else str(role)

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """Read one reply; a replica's refusal is the last this connection carries."""
        try:
            return await super().read_response(*args, **kwargs)  # type: ignore[misc] # mixin
        except redis_errors.ReadOnlyError:
            self.mark_for_reconnect()  # type: ignore[attr-defined] # mixin
            raise

    def end(self, cause: str) -> None:  # noqa: ARG002 - the follower's signature
        """Break the connection under whoever uses it.

        Not `_close`: redis-py would dial again in the middle of a transaction, without
        its WATCH. So the reader meets the end, and the pool finds it stale.
        """
        writer = getattr(self, "_writer", None)
        if writer is not None:
            writer.transport.abort()


class FollowingConnection(_Following, CrewConnection):
    """TCP."""


class FollowingSSLConnection(_Following, CrewSSLConnection):
    """TLS."""


_CLASSES: dict[type[AbstractConnection], type[AbstractConnection]] = {
    CrewConnection: FollowingConnection,
    CrewSSLConnection: FollowingSSLConnection,
}


def following_class(original: type[AbstractConnection]) -> type[AbstractConnection]:
    """Return the form of our connection class that asks the sentinels.

    Raises:
        ConfigurationError: A unix socket, or a class of the user's own.
    """
    try:
        return _CLASSES[original]
    except KeyError:
        raise ConfigurationError(
            "REDIS_CREW_SENTINELS name servers by host and port: no unix socket, and "
            "no connection class of your own, goes with them"
        ) from None


def follow(connection: object, follower: Follower) -> None:
    """Let what took over a connection end with its place; nothing without sentinels."""
    if isinstance(connection, _Following) and connection.place is not None:
        connection.sentinels.follow(follower, connection.place)


def make_sentinels(
    settings: SentinelSettings,
    wire: WireSettings,
    connection_class: type[AbstractConnection],
    kwargs: dict[str, Any],
) -> Sentinels:
    """Make the resolver. Sentinels are spoken to as the servers are: with TLS or not.

    Args:
        settings: Whom to ask for what.
        wire: Half of its `connect_timeout` is what a question may take.
        connection_class: Of ours, for the servers.
        kwargs: The servers' connection arguments; only what TLS needs is taken, never
            a user or a password.
    """
    patience = wire.connect_timeout / 2
    tls = {name: value for name, value in kwargs.items() if name.startswith("ssl_")}

    def make(place: Place) -> AbstractConnection:
        kind: Any = connection_class
        connection: AbstractConnection = kind(
            host=place.host,
            port=place.port,
            protocol=3,
            socket_timeout=patience,
            socket_connect_timeout=patience,
            retry=never_retry(),
            **tls,
        )
        return connection

    return Sentinels(settings, make, patience=patience)
