"""Our errors as redis-py's: each is caught by either name.

A library that was handed our client catches `redis.exceptions.ConnectionError`; the
crew's own code catches `UnavailableError`. Both must be right about the same event.
"""

from __future__ import annotations

from redis import exceptions as redis_errors

from mcp_crew_redis.errors import (
    CircuitOpenError,
    ConfigurationError,
    ConnectionLostError,
    OperationTimeoutError,
    OutcomeUnknownError,
    OverloadedError,
)

__all__ = [
    "LaneLostError",
    "TurnedAwayError",
    "WireCircuitOpenError",
    "WireConfigurationError",
    "WireConnectionLostError",
    "WireCredentialsError",
    "WireOutcomeUnknownError",
    "WireOverloadedError",
    "WireTimeoutError",
    "refusal_code",
    "serves_nobody",
]

# Answers given instead of an execution: sending the command again is always safe.
REFUSALS = frozenset(
    {
        "LOADING",
        "READONLY",
        "MASTERDOWN",
        "CLUSTERDOWN",
        "TRYAGAIN",
        "BUSY",
        "MISCONF",
    }
)

# Of these, what says of the whole server that it does not serve what its address
# promised. A failing disk (MISCONF) stops writes and PING, TRYAGAIN one command: the
# rest goes on.
NOT_SERVING = REFUSALS - {"MISCONF", "TRYAGAIN"}


class _Network:
    """What redis-py's metrics read; its constructor would set it after ours."""

    error_type = redis_errors.ExceptionType.NETWORK
    status_code: str | None = None


class WireTimeoutError(_Network, OperationTimeoutError, redis_errors.TimeoutError):
    """No answer in time."""


class WireConnectionLostError(
    _Network, ConnectionLostError, redis_errors.ConnectionError
):
    """No connection; nothing was sent."""


class WireOutcomeUnknownError(
    _Network, OutcomeUnknownError, redis_errors.ConnectionError
):
    """Sent, and the connection ended before the reply."""


class WireOverloadedError(_Network, OverloadedError, redis_errors.ConnectionError):
    """A limit of this client is reached; nothing was sent."""


class WireConfigurationError(
    _Network, ConfigurationError, redis_errors.ConnectionError
):
    """The other side cannot be what is configured: not Redis, too old, wrong db."""


class WireCredentialsError(
    _Network, ConfigurationError, redis_errors.AuthenticationError
):
    """The server refused the credentials."""


class WireCircuitOpenError(_Network, CircuitOpenError, redis_errors.ConnectionError):
    """The circuit is open; nothing was sent."""


class TurnedAwayError(redis_errors.ConnectionError):
    """Inside the wire only: accepted, and closed before the handshake was over.

    A full server (`maxclients`) does so. Its reason is often lost: the close overtakes
    it on a unix socket.
    """


class LaneLostError(Exception):
    """Inside the wire only: a lane ended under a command.

    Attributes:
        cause: Why the lane ended, as a short word.
        sent: Whether the command had been handed to the transport.
    """

    def __init__(self, cause: str, *, sent: bool) -> None:
        super().__init__(cause)
        self.cause = cause
        self.sent = sent


def refusal_code(error: BaseException) -> str | None:
    """Return the code of a reply that says 'not executed', otherwise None."""
    code = getattr(error, "status_code", None)
    if code is None:
        # redis-py keeps the code in the text for the classes that it does not know.
        code = str(error).partition(" ")[0]
    return code if code in REFUSALS else None


def serves_nobody(error: BaseException) -> bool:
    """Whether a reply says that the server as a whole does not serve now."""
    return refusal_code(error) in NOT_SERVING
