"""What a lane reports, said in the words of the caller's errors."""

from __future__ import annotations

from mcp_crew_redis._core.admission import misused
from mcp_crew_redis._core.wire_errors import (
    LaneLostError,
    WireConnectionLostError,
    WireOutcomeUnknownError,
)
from mcp_crew_redis.errors import LifecycleError, UnavailableError

__all__ = ["translate"]


def translate(error: Exception, *, was_sent: bool = False) -> Exception:
    """Return the caller's error for what a lane reported.

    With `was_sent` an earlier attempt may have been executed, whatever became of
    this one.
    """
    if was_sent and isinstance(error, (LaneLostError, UnavailableError)):
        return WireOutcomeUnknownError(
            "sent, and sent again in vain: the command may have been executed"
        )
    if isinstance(error, LaneLostError):
        if error.sent:
            return WireOutcomeUnknownError(
                f"the connection ended ({error.cause}) before the reply: the "
                "command may have been executed"
            )
        return WireConnectionLostError(
            f"the connection ended ({error.cause}); nothing was sent"
        )
    if isinstance(error, RuntimeError) and not isinstance(error, LifecycleError):
        return misused(error)
    return error
