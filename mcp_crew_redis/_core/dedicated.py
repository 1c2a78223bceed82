"""Connections for what may not share one: blocking commands, transactions, pub/sub."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from redis import exceptions as redis_errors
from redis.asyncio.connection import AbstractConnection, BlockingConnectionPool

from mcp_crew_redis._core.dialling import explain
from mcp_crew_redis._core.node import Node
from mcp_crew_redis._core.seam import (
    close_quietly,
    crew_connection_class,
    dialled,
    is_stale,
    never_retry,
)
from mcp_crew_redis._core.sentinel_connection import following_class, make_sentinels
from mcp_crew_redis._core.sentinels import Sentinels
from mcp_crew_redis._core.topology import SentinelSettings
from mcp_crew_redis._core.wire_errors import WireOverloadedError, WireTimeoutError
from mcp_crew_redis._core.wire_settings import PATIENCE, WireSettings

__all__ = ["DedicatedPool"]


class DedicatedPool(BlockingConnectionPool):
    """redis-py's pool, bounded and behind the node's circuit.

    A connection that is not free within `command_timeout` is an OverloadedError. One
    that is closed while it owes a reply is reported to the node as a stray.

    Attributes:
        node: Set by whoever makes the pool, before the first connection.
        sentinels: Who say where each connection goes; None for a fixed address.
    """

    node: Node

    def __init__(
        self,
        settings: WireSettings,
        connection_class: type[AbstractConnection],
        connection_kwargs: dict[str, Any],
        *,
        sentinels: SentinelSettings | None = None,
    ) -> None:
        kwargs = dict(connection_kwargs)
        kwargs["retry"] = never_retry()
        kwargs.pop("max_connections", None)
        # redis-py leaves it at 5 s on a unix socket.
        kwargs.setdefault("socket_connect_timeout", settings.connect_timeout)
        kind = crew_connection_class(connection_class)
        self.sentinels: Sentinels | None = None
        if sentinels is not None:
            following = following_class(kind)
            self.sentinels = make_sentinels(sentinels, settings, kind, kwargs)
            kind = following
        super().__init__(
            max_connections=settings.max_dedicated,
            timeout=settings.command_timeout,
            connection_class=kind,
            **kwargs,
        )
        self._settings = settings

    def make_plain(self) -> Any:
        """Make a connection for a lane: it settles the strays itself."""
        connection: Any = super().make_connection()
        if self.sentinels is not None:
            connection.sentinels = self.sentinels
        return connection

    def make_connection(self) -> Any:
        """Make a connection that waits for strays, and is reported as one if it is."""
        connection = self.make_plain()
        connection.on_stray = self.node.give_up
        connection.before_send = self.node.admission.quiet
        return connection

    async def get_connection(
        self,
        command_name: object = None,  # noqa: ARG002 - redis-py's signature
        *keys: object,  # noqa: ARG002
        **options: object,  # noqa: ARG002
    ) -> AbstractConnection:
        """Take a connection, if the circuit admits.

        Raises:
            UnavailableError: As `Admission.acquire`; OverloadedError if none is free.
        """
        self.node.admission.admit()
        self.node.admission.settle_in()
        connection = await self._take()
        try:
            await self._refresh(connection)
        except BaseException:
            await self.put_back(connection)
            raise
        return cast(AbstractConnection, connection)

    async def _refresh(self, connection: Any) -> None:
        """Dial again what the server has closed while nobody used it."""
        for _ in range(2):  # the loop polls once in between, and tells of a close
            await asyncio.sleep(0)
        if not is_stale(connection):
            return
        close_quietly(connection)
        try:
            await dialled(connection)
        except Exception as error:
            raise self._failed(error) from error

    async def _take(self) -> Any:
        self.node.connector.check_pace(is_final=self._has_connected())
        patience = PATIENCE * self._settings.command_timeout
        try:
            async with asyncio.timeout(patience):
                return await super().get_connection()
        except TimeoutError as error:
            if isinstance(error, redis_errors.RedisError):
                raise self._failed(error) from error
            raise self._failed(WireTimeoutError(patience, sent=False)) from None
        except redis_errors.ConnectionError as error:
            if isinstance(error.__cause__, TimeoutError) and not self._has_free():
                raise WireOverloadedError(
                    f"all {self.max_connections} dedicated connections are in use "
                    "(REDIS_CREW_POOL_SIZE)",
                    retry_after=self._settings.command_timeout,
                ) from None
            raise self._failed(error) from error
        except (redis_errors.RedisError, OSError) as error:
            raise self._failed(error) from error

    def _has_connected(self) -> bool:
        """Whether a connection is free that needs no dial."""
        return any(one.is_connected for one in self._available_connections)

    def _has_free(self) -> bool:
        return bool(self.can_get_connection())

    def _failed(self, error: Exception) -> Exception:
        failure = explain(error, self._settings.connect_timeout)
        failure.__cause__ = error  # the node tells a full server by it
        self.node.connector.note(failure)
        return failure.make()

    async def put_back(self, connection: AbstractConnection) -> None:
        """Release, also under cancellation."""
        await asyncio.shield(self.release(connection))

    async def aclose(self) -> None:
        """Close every connection, and ask the sentinels no more."""
        try:
            await super().aclose()
        finally:
            if self.sentinels is not None:
                await self.sentinels.aclose()
