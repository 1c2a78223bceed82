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
    never_retry,
)
from mcp_crew_redis._core.wire_errors import WireOverloadedError
from mcp_crew_redis._core.wire_settings import WireSettings
from mcp_crew_redis.errors import UnavailableError

__all__ = ["DedicatedPool"]


class DedicatedPool(BlockingConnectionPool):
    """redis-py's pool, bounded and behind the node's circuit.

    A connection that is not free within `command_timeout` is an OverloadedError.
    """

    node: Node

    def __init__(
        self,
        settings: WireSettings,
        connection_class: type[AbstractConnection],
        connection_kwargs: dict[str, Any],
    ) -> None:
        kwargs = dict(connection_kwargs)
        kwargs["retry"] = never_retry()
        kwargs.pop("max_connections", None)
        super().__init__(
            max_connections=settings.max_dedicated,
            timeout=settings.command_timeout,
            connection_class=crew_connection_class(connection_class),
            **kwargs,
        )
        self._settings = settings

    async def get_connection(
        self,
        command_name: object = None,  # noqa: ARG002 - redis-py's signature
        *keys: object,  # noqa: ARG002
        **options: object,  # noqa: ARG002 - redis-py's signature
    ) -> AbstractConnection:
        """Take a connection; admitted by the circuit, and after strays are settled.

        Raises:
            UnavailableError: As `Node.acquire`; OverloadedError if none is free.
        """
        await self.node.settled()
        try:
            connection: Any = await super().get_connection()
        except redis_errors.ConnectionError as error:
            if isinstance(error, UnavailableError):
                raise
            if isinstance(error.__cause__, TimeoutError) and self._is_full():
                raise WireOverloadedError(
                    f"all {self.max_connections} dedicated connections are in use "
                    "(REDIS_CREW_POOL_SIZE)",
                    retry_after=self._settings.command_timeout,
                ) from None
            raise self._dial_failed(error) from error
        except (redis_errors.RedisError, OSError) as error:
            raise self._dial_failed(error) from error
        greeting = self.node.greeting
        connection.crew_run_id = "" if greeting is None else greeting.run_id
        return cast(AbstractConnection, connection)

    def _is_full(self) -> bool:
        return not self.can_get_connection()

    def _dial_failed(self, error: Exception) -> Exception:
        failure = explain(error, self._settings.connect_timeout)
        if not failure.is_final:
            breaker = self.node.breaker
            breaker.record_failure(breaker.generation, failure.cause)
        return failure.make()

    def give_up(self, connection: AbstractConnection) -> None:
        """Close a connection whose command is unanswered, and see that it is dead."""
        self.node.give_up(
            getattr(connection, "client_id", None),
            getattr(connection, "crew_run_id", ""),
        )
        close_quietly(connection)

    async def put_back(self, connection: AbstractConnection) -> None:
        """Release, also under cancellation."""
        await asyncio.shield(self.release(connection))
