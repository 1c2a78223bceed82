"""Consumer groups: made where a stream has none, gone with their stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mcp_crew_redis._core.port import Port
from mcp_crew_redis.errors import ConfigurationError, CrewRedisError, UnavailableError
from mcp_crew_redis.events.consumer.table import StreamState
from mcp_crew_redis.events.subscriptions import Subscription
from mcp_crew_redis.log import get_logger

__all__ = ["Groups", "is_missing"]

log = get_logger(__name__)

_MISSING: Final = ("NOGROUP", "UNBLOCKED")
_EXISTS: Final = "BUSYGROUP"
_NO_STREAM: Final = "requires the key to exist"


def is_missing(error: CrewRedisError) -> bool:
    """Whether the group is not there, or neither is its stream."""
    text = str(error)
    return any(word in text for word in _MISSING)


class Groups:
    """Makes the group of one subscription where it is missing.

    Never with the stream: one that was removed with its tenant would come back.

    Args:
        port: Where they are made.
        subscription: Its group, and where it begins.
    """

    def __init__(self, port: Port, subscription: Subscription) -> None:
        self._port = port
        self._group = subscription.group
        self._is_latest = subscription.start == "latest"

    async def make(self, states: Sequence[StreamState]) -> list[bool]:
        """Make the group of each stream; False where there is no stream.

        Raises:
            UnavailableError: Redis did not answer, or has no memory left.
            ConfigurationError: The ACL user may not.
        """
        replies = await self._port.send_many(
            [
                ("XGROUP", "CREATE", state.key, self._group, self._first(state))
                for state in states
            ]
        )
        return [self._is_there(reply) for reply in replies]

    def _first(self, state: StreamState) -> str:
        """Return where a group begins.

        What was there when this process started may be past; a stream that comes
        later, or comes back, was written for us.
        """
        return "$" if self._is_latest and state.is_old else "0"

    def _is_there(self, reply: object) -> bool:
        if not isinstance(reply, CrewRedisError):
            log.info("consumer.group_made", group=self._group)
            return True
        text = str(reply)
        if _EXISTS in text:
            return True
        if _NO_STREAM in text:
            return False
        if isinstance(reply, (UnavailableError, ConfigurationError)):
            raise reply
        log.warning("consumer.group_refused", group=self._group)
        return False
