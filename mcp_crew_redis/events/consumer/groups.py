"""Consumer groups: made where a stream has none, gone with their stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mcp_crew_redis.errors import CrewRedisError
from mcp_crew_redis.events.consumer.table import StreamState
from mcp_crew_redis.events.hub import EventHub
from mcp_crew_redis.events.subscriptions import Subscription
from mcp_crew_redis.log import get_logger

__all__ = ["Groups", "is_missing"]

log = get_logger(__name__)

_MISSING: Final = ("NOGROUP", "UNBLOCKED")
_EXISTS: Final = "BUSYGROUP"
LAST: Final = 2**64 - 1  # the last place of a millisecond
_NO_STREAM: Final = "requires the key to exist"


def is_missing(error: CrewRedisError) -> bool:
    """Whether the group is not there, or neither is its stream."""
    text = str(error)
    return any(word in text for word in _MISSING)


class Groups:
    """Makes the group of one subscription where it is missing.

    Never with the stream: one that was removed with its tenant would come back.

    Args:
        hub: The parts.
        subscription: Its group, and where it begins.
    """

    def __init__(self, hub: EventHub, subscription: Subscription) -> None:
        self._port = hub.port
        self._group = subscription.group
        self._is_latest = subscription.start == "latest"
        self._stamps = hub.store.context.stamps
        self._monotonic = hub.clock.monotonic
        self._began = hub.clock.monotonic()
        self._refusals = 0

    async def make(self, states: Sequence[StreamState]) -> list[bool | None]:
        """Make the group of each stream.

        Returns:
            True where there is one now, False where there is no stream, None where
            it is refused for now.

        Raises:
            UnavailableError: Redis did not answer.
        """
        first = await self._first()
        replies = await self._port.send_many(
            [("XGROUP", "CREATE", state.key, self._group, first) for state in states]
        )
        return [self._is_there(reply) for reply in replies]

    async def _first(self) -> str:
        """Return where groups begin: at the beginning, or when this process began.

        By the server's clock, and not where a stream ends now: what was published
        between the two was published for us.
        """
        if not self._is_latest:
            return "0"
        if not self._stamps.is_ready:
            await self._stamps.ready()
        ago_us = round((self._monotonic() - self._began) * 1e6)
        began_ms = (self._stamps.hybrid.now_us() - ago_us) // 1_000
        return f"{began_ms - 1}-{LAST}"

    def _is_there(self, reply: object) -> bool | None:
        if not isinstance(reply, CrewRedisError):
            log.info("consumer.group_made", group=self._group)
            return True
        text = str(reply)
        if _EXISTS in text:
            return True
        if _NO_STREAM in text:
            return False
        self._refusals += 1
        count = self._refusals
        if count & (count - 1) == 0:  # the 1st, 2nd, 4th, ...: no flood of lines
            log.warning("consumer.group_refused", group=self._group, count=count)
        return None
