"""Every error this layer raises, in one tree.

    CrewRedisError
    ├── ConfigurationError            a setting is wrong; says which one
    ├── InvalidTenantError            a tenant id outside the grammar
    ├── InvalidIdentifierError        an identifier that cannot be part of a key
    ├── InvalidEventTypeError         an event type or pattern outside the grammar
    ├── LifecycleError                used before start, after stop, or twice
    │   └── StartTimeoutError           a service was not ready in time
    ├── UnavailableError              Redis did not answer
    │   ├── CircuitOpenError            the circuit is open: nothing was sent
    │   ├── OperationTimeoutError       no answer within the operation timeout
    │   ├── ConnectionLostError         the connection went away; nothing was executed
    │   ├── OutcomeUnknownError         sent, not answered: may or may not have happened
    │   ├── OverloadedError             a limit of ours is reached: nothing was sent
    │   ├── RefusedError                Redis answered that it does not serve this now
    │   └── FallbackFullError           Redis is away and the local journal is full
    ├── DataError                     the data cannot be stored, read or merged
    │   ├── InvalidTtlError             a time to live out of range
    │   ├── CodecError                  cannot be encoded or decoded
    │   ├── ValueTooLargeError          over the size limit; nothing was sent
    │   └── ConflictError               somebody else's newer write stands
    ├── ReplicationError              stored, but not on as many replicas as asked for
    ├── TaskError                     a background task
    │   ├── UnknownTaskError            no such task is registered or stored
    │   ├── TaskFailedError             the task ended with an error
    │   ├── TaskTimeoutError            the task ran out of time
    │   └── TaskCancelledError          the task was cancelled
    ├── SessionError                  a session operation was refused
    └── RateLimitedError              over the limit; says when to come back

`except UnavailableError` means: Redis did not answer. Anything else is an answer.
Messages name limits and remedies; they never hold values, secrets or other tenants.
"""

from __future__ import annotations

__all__ = [
    "CircuitOpenError",
    "CodecError",
    "ConfigurationError",
    "ConflictError",
    "ConnectionLostError",
    "CrewRedisError",
    "DataError",
    "FallbackFullError",
    "InvalidEventTypeError",
    "InvalidIdentifierError",
    "InvalidTenantError",
    "InvalidTtlError",
    "LifecycleError",
    "OperationTimeoutError",
    "OutcomeUnknownError",
    "OverloadedError",
    "RateLimitedError",
    "RefusedError",
    "ReplicationError",
    "SessionError",
    "StartTimeoutError",
    "TaskCancelledError",
    "TaskError",
    "TaskFailedError",
    "TaskTimeoutError",
    "UnavailableError",
    "UnknownTaskError",
    "ValueTooLargeError",
]


class CrewRedisError(Exception):
    """The root of every error this layer raises."""


class ConfigurationError(CrewRedisError, ValueError):
    """A setting is missing, malformed or contradicts another.

    The message names the variable, the value (never a secret) and what is accepted.
    """


class InvalidTenantError(CrewRedisError, ValueError):
    """The tenant id does not match the grammar. Refused, never repaired."""


class InvalidIdentifierError(CrewRedisError, ValueError):
    """The identifier is empty, too long or cannot be encoded."""


class InvalidEventTypeError(CrewRedisError, ValueError):
    """The event type or pattern does not match the grammar. Refused, never repaired."""


class LifecycleError(CrewRedisError, RuntimeError):
    """The object is not running, already running, or belongs to another loop."""


class StartTimeoutError(LifecycleError, TimeoutError):
    """A service did not report ready within its start timeout."""


class UnavailableError(CrewRedisError):
    """Redis did not answer. The subclass says what is known about the outcome."""


class CircuitOpenError(UnavailableError):
    """The circuit to this node is open; nothing was sent.

    Attributes:
        retry_after: Seconds until the next probe at the earliest.
        cause: What opened the circuit, as a short word.
        since: Seconds that the circuit has been open.
    """

    def __init__(self, retry_after: float, *, cause: str, since: float) -> None:
        super().__init__(
            f"circuit open for {since:.3f} s ({cause}); retry in {retry_after:.3f} s"
        )
        self.retry_after = retry_after
        self.cause = cause
        self.since = since


class OperationTimeoutError(UnavailableError, TimeoutError):
    """No answer within the operation timeout.

    Attributes:
        timeout: The timeout in seconds.
        sent: Whether the command had left this process. A sent write may still be
            executed until its connection has been given up.
    """

    def __init__(self, timeout: float, *, sent: bool) -> None:
        known = "sent, outcome unknown" if sent else "not sent"
        super().__init__(f"no answer within {timeout:.3f} s ({known})")
        self.timeout = timeout
        self.sent = sent


class ConnectionLostError(UnavailableError):
    """No connection could be had, or it ended before the command was sent."""


class OutcomeUnknownError(UnavailableError):
    """The command was sent and its reply was lost: it may have been executed.

    Re-send it only if doing it twice is harmless.
    """


class OverloadedError(UnavailableError):
    """A limit of this process is reached; nothing was sent.

    Attributes:
        retry_after: Seconds after which trying again makes sense.
    """

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(f"{message}; retry in {retry_after:.3f} s")
        self.retry_after = retry_after


class RefusedError(UnavailableError):
    """Redis answered that it does not serve this now; nothing was executed.

    Attributes:
        code: The server's word: LOADING, READONLY, OOM, MISCONF, BUSY, ...
    """

    def __init__(self, code: str) -> None:
        super().__init__(f"Redis does not serve this now ({code})")
        self.code = code


class FallbackFullError(UnavailableError):
    """Redis is away and the journal has reached its bound; nothing was accepted."""


class DataError(CrewRedisError):
    """The data cannot be stored, read or merged as asked."""


class InvalidTtlError(DataError, ValueError):
    """A time to live that is zero, negative, not finite or centuries long."""


class CodecError(DataError):
    """The value cannot be encoded, or the bytes cannot be decoded as asked."""


class ValueTooLargeError(DataError):
    """The encoded value is over the limit; nothing was sent.

    Attributes:
        size: Size of the encoded value in bytes.
        limit: The limit in bytes.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"the encoded value has {size} bytes, the limit is {limit}; "
            "store it in parts or raise REDIS_CREW_MAX_VALUE_BYTES"
        )
        self.size = size
        self.limit = limit


class ConflictError(DataError):
    """A condition did not hold: somebody else's newer write stands."""


class ReplicationError(CrewRedisError):
    """It is stored, but was not acknowledged by as many replicas as were asked for.

    Attributes:
        acknowledged: Replicas that have it.
        wanted: Replicas that were to have it.
    """

    def __init__(self, acknowledged: int, wanted: int) -> None:
        super().__init__(
            f"stored, but {acknowledged} of {wanted} replicas acknowledged it in time"
        )
        self.acknowledged = acknowledged
        self.wanted = wanted


class TaskError(CrewRedisError):
    """A background task was refused or did not succeed."""


class UnknownTaskError(TaskError):
    """No such task is registered or stored."""


class TaskFailedError(TaskError):
    """The task ended with an error."""


class TaskTimeoutError(TaskError, TimeoutError):
    """The task ran out of its time."""


class TaskCancelledError(TaskError):
    """The task was cancelled before it finished."""


class SessionError(CrewRedisError):
    """A session operation was refused."""


class RateLimitedError(CrewRedisError):
    """Over the limit.

    Attributes:
        retry_after: Seconds until the call would be admitted.
    """

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(f"{message}; retry in {retry_after:.3f} s")
        self.retry_after = retry_after
