"""How the bell gets its connection: dialled as the node's others, then its own."""

from __future__ import annotations

import asyncio
from typing import Any

from mcp_crew_redis._core.bell_line import (
    BellLine,
    LineEndedError,
    TrackingRefusedError,
)
from mcp_crew_redis._core.client import PipelinedRedis
from mcp_crew_redis._core.dialling import DialFailedError, explain
from mcp_crew_redis._core.seam import close_quietly, dialled, hand_over
from mcp_crew_redis._core.sentinel_connection import follow

__all__ = ["REFUSED", "BellDialler"]

REFUSED = "tracking refused"  # the cause of a failed dial


class BellDialler:
    """Makes the connections of one bell: address, TLS and login are the client's."""

    def __init__(self, client: PipelinedRedis) -> None:
        self._make: Any = client.connection_pool.make_connection
        self._settings = client.node.settings

    async def dial(self, line: BellLine, prefixes: frozenset[bytes]) -> None:
        """Connect `line` and have it track; a cancelled dial leaves nothing behind.

        Raises:
            TrackingRefusedError: Connected, and this server or user gets no tracking.
            Exception: No connection; see `failure`.
        """
        connection = self._make()
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                await dialled(connection)
                line.run_id = getattr(connection, "run_id", "")
                line.attach(lambda protocol: hand_over(connection, protocol))
                follow(connection, line)
                await line.track(prefixes)
        except BaseException:
            close_quietly(connection)
            line.end("dial failed")
            raise

    def failure(self, error: Exception) -> DialFailedError:
        """Return the short cause of a failed dial, and whether it will stay so."""
        if isinstance(error, TrackingRefusedError):
            return DialFailedError(REFUSED, lambda: error, is_final=True)
        if isinstance(error, LineEndedError):
            return DialFailedError(str(error), lambda: error)
        return explain(error, self._settings.connect_timeout)
