"""What becomes of an entry whose handler has not handled it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mcp_crew_redis.events.consumer.counts import ConsumerCounts
from mcp_crew_redis.events.consumer.held import Held
from mcp_crew_redis.events.consumer.settling import Settling
from mcp_crew_redis.events.hub import EventHub
from mcp_crew_redis.events.outcomes import MAX_REASON, Reject, Retry
from mcp_crew_redis.events.subscriptions import Subscription
from mcp_crew_redis.log import get_logger

__all__ = ["Verdicts"]

log = get_logger(__name__)

MAX_PAUSE: Final = 86_400.0


class Verdicts:
    """Decides between another attempt and a dead letter.

    Args:
        hub: The parts.
        subscription: How often, and after which pauses.
        settling: Sends what is decided.
        counts: What has been done.
        keep: Takes an entry and the seconds after which it is tried again here, where
            the order of keys does not let it go.
    """

    def __init__(
        self,
        hub: EventHub,
        subscription: Subscription,
        settling: Settling,
        counts: ConsumerCounts,
        keep: Callable[[Held, float], None],
    ) -> None:
        self._random = hub.random
        self._subscription = subscription
        self._settling = settling
        self._counts = counts
        self._keep = keep
        self.done = settling.done
        self.begin = settling.begin

    async def failed(self, held: Held, error: Exception) -> None:
        """Have it tried again, or make a dead letter of it."""
        subscription = self._subscription
        self._counts.failed += 1
        reason = reason_of(error)
        if isinstance(error, Reject) or held.count >= subscription.max_deliveries:
            await self._settling.bury(held, reason)
            return
        count = self._counts.failed
        if count & (count - 1) == 0:  # the 1st, 2nd, 4th, ...: no flood of lines
            log.warning(
                "consumer.handler_failed",
                group=subscription.group,
                event_type=held.event.type,
                error=type(error).__name__,
                delivery=held.count,
                count=count,
            )
        after = self._pause(held, error)
        if subscription.ordering and held.event.key is not None:
            self._keep(held, after)
        else:
            await self._settling.park(held, after)

    def _pause(self, held: Held, error: Exception) -> float:
        if isinstance(error, Retry):
            after = error.after  # perhaps of a class of the user's own
            if isinstance(after, int | float) and after >= 0:
                return min(after, MAX_PAUSE)
        return self._subscription.backoff.delay(held.count, self._random)


def reason_of(error: Exception) -> str:
    """Return why, for the tenant's own dead letters; never for a log."""
    if isinstance(error, (Retry, Reject)) and error.reason:
        return _clean(str(error.reason))
    name = type(error).__name__
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - the user's own code
        return name
    return _clean(f"{name}: {text}" if text else name)


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()[:MAX_REASON]
