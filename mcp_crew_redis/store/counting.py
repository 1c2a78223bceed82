"""What an increment may be and what the server may answer to it: pure rules."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import IntEnum
from typing import Final, TypeVar

from mcp_crew_redis.errors import (
    ConflictError,
    ConnectionLostError,
    CrewRedisError,
    DataError,
    OperationTimeoutError,
    OutcomeUnknownError,
    UnavailableError,
)
from mcp_crew_redis.store.tally import (
    INT64_MAX,
    INT64_MIN,
    MAX_BATCH,
    Batch,
    Tally,
    shares,
)

__all__ = [
    "DONE",
    "Added",
    "check_amount",
    "check_writer",
    "fresh",
    "is_too_old",
    "may_have_happened",
    "no_counter",
    "refusal",
    "settle",
    "settle_all",
    "settle_failed",
]

E = TypeVar("E", bound=Exception)


class Added(IntEnum):
    """What `counter_add` did, as the script numbers it."""

    ADDED = 1
    REPEATED = 2
    OVERFLOW = 0
    OUT_OF_ORDER = -1
    NO_COUNTER = -2
    PURGED = -3


_WRITER: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
DONE: Final = (Added.ADDED, Added.REPEATED)


def check_amount(amount: int) -> None:
    """Refuse what is no signed 64-bit integer.

    Raises:
        DataError: It is not.
    """
    if isinstance(amount, bool) or not isinstance(amount, int):
        raise DataError(f"a counter adds an int, not {type(amount).__name__}")
    if not INT64_MIN <= amount <= INT64_MAX:
        raise DataError("a counter adds a signed 64-bit integer")


def check_writer(name: str) -> None:
    """Refuse what is no writer id.

    Raises:
        DataError: It is not.
    """
    if _WRITER.fullmatch(name) is None:
        raise DataError("a writer id has 1 to 64 of A-Z a-z 0-9 . _ -")


def may_have_happened(error: UnavailableError) -> bool:
    """Whether what was sent may have been executed."""
    return isinstance(error, OutcomeUnknownError) or (
        isinstance(error, OperationTimeoutError) and error.sent
    )


def is_too_old(batch: Batch | None, now: float) -> bool:
    """Whether to forget an uncertain batch that nobody waits for."""
    if batch is None or any(call.is_waiting for call in batch.calls):
        return False
    return now >= batch.expires_at


def refusal(status: Added) -> CrewRedisError:
    """Return the error for what the script refused; nothing was changed."""
    if status is Added.OVERFLOW:
        return DataError("the counter would leave the range of signed 64-bit integers")
    if status is Added.PURGED:
        return ConflictError("the tenant was purged while this increment was under way")
    if status is Added.OUT_OF_ORDER:
        return ConflictError("another writer counts under the same writer id")
    return no_counter()


def no_counter() -> DataError:
    """Return the error for a key that holds something else."""
    return DataError("the key holds something else than a counter")


def fresh(error: E) -> E:
    """Return a copy: raised by several, one error would mix up their tracebacks."""
    copy = type(error).__new__(type(error), *error.args)
    copy.args = error.args
    copy.__dict__.update(error.__dict__)
    copy.__cause__ = error.__cause__
    return copy


def settle(tally: Tally, batch: Batch, reply: Sequence[int | bytes]) -> None:
    """Give each caller of a batch what the script's answer means for it."""
    status = Added(int(reply[0]))
    if status in DONE:
        tally.limit = min(tally.limit * 2, MAX_BATCH)
        after = int(reply[1])
        for call, share in zip(batch.calls, shares(batch.calls, after), strict=True):
            call.settle(share)
    elif status is Added.OVERFLOW and len(batch.calls) > 1:
        tally.split(batch.calls)  # one of them is too much; the others are not
    else:
        settle_all(batch, refusal(status))


def settle_all(batch: Batch, error: Exception) -> None:
    """Give each caller of a batch an error of its own."""
    for call in batch.calls:
        call.settle(fresh(error))


def settle_failed(tally: Tally, batch: Batch, error: UnavailableError) -> None:
    """Tell everybody of a failure; nobody waits for a second timeout."""
    unsent = error
    if batch.is_uncertain:
        if not may_have_happened(error):
            unknown = OutcomeUnknownError("an increment was sent and not answered")
            unknown.__cause__ = error
            settle_all(batch, unknown)
        else:
            settle_all(batch, error)
            unsent = ConnectionLostError("Redis did not answer; nothing was sent")
            unsent.__cause__ = error
    else:
        tally.batch = None
        settle_all(batch, error)
    waiting, tally.waiting = tally.waiting, {}
    for call in waiting:
        call.settle(fresh(unsent))
