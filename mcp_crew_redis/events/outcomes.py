"""What a handler says when it has not handled an event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from mcp_crew_redis._wire.ttl import ttl_ms

__all__ = ["MAX_REASON", "BatchOutcome", "Reject", "Retry"]

MAX_REASON: Final = 500
"""Characters of a reason that are kept."""


class Retry(Exception):  # noqa: N818 - it reads `raise Retry(after=5)`
    """Raised by a handler: deliver this event again.

    It counts as an attempt: after `max_deliveries` the event is a dead letter.

    Args:
        reason: Kept with the dead letter, if it becomes one.
        after: Seconds until then; None takes the subscription's backoff.

    Raises:
        InvalidTtlError: `after` is neither 0 nor in the range of a time to live.
    """

    after: float | None = None  # also of a subclass that does not call __init__
    reason: str = ""

    def __init__(self, reason: str = "", *, after: float | None = None) -> None:
        super().__init__(reason)
        if after is not None and after != 0:
            ttl_ms(after)
        self.after = after
        self.reason = str(reason)[:MAX_REASON]


class Reject(Exception):  # noqa: N818 - it reads `raise Reject("why")`
    """Raised by a handler: this event will never be handled; a dead letter, at once.

    Args:
        reason: Kept with the dead letter.
    """

    reason: str = ""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = str(reason)[:MAX_REASON]


BatchOutcome: TypeAlias = Mapping[str, Retry | Reject] | None
"""What a batch handler returns: by event id, those that it has not handled."""
