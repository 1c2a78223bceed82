"""What waits to be added to one counter: pure bookkeeping, no await.

A process has at most one batch per counter under way. Callers that come meanwhile wait
for the next one. A batch is frozen when it is first sent: its sequence and its sum stay
the same in every re-send, so the server can tell that it has seen them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

__all__ = [
    "INT64_MAX",
    "INT64_MIN",
    "MAX_BATCH",
    "NOBODY",
    "SYNC",
    "Batch",
    "Call",
    "Tally",
    "shares",
]

INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)
MAX_BATCH = 1024
"""Callers in one batch: their futures are settled in one turn of the loop."""


class Call:
    """One caller's increment.

    Attributes:
        amount: What it adds.
        ttl_ms: The time to live that it asks for.
        outcome: Its own value or its own error; None while neither is known.
        wake: Done when the outcome is there or the caller has to send; None for a
            caller that sends without waiting.
        is_gone: The caller was cancelled.
        is_deferred: The outcome is what is believed: the journal holds the amount.
    """

    __slots__ = ("amount", "is_deferred", "is_gone", "outcome", "ttl_ms", "wake")

    def __init__(self, amount: int, ttl_ms: int) -> None:
        self.amount = amount
        self.ttl_ms = ttl_ms
        self.outcome: int | Exception | None = None
        self.wake: asyncio.Future[None] | None = None
        self.is_gone = self.is_deferred = False

    @property
    def is_waiting(self) -> bool:
        """Whether somebody still wants the outcome."""
        return self.outcome is None and not self.is_gone

    def settle(self, outcome: int | Exception) -> None:
        """Give the caller its outcome."""
        self.outcome = outcome
        self.rouse()

    def defer(self, estimate: int) -> None:
        """Tell the caller the value as believed: its amount waits for Redis."""
        self.is_deferred = True
        self.settle(estimate)

    def rouse(self) -> None:
        """Wake the caller, who looks at what has become of it."""
        if self.wake is not None and not self.wake.done():
            self.wake.set_result(None)


NOBODY: Final = Call(0, 1)
"""The driver of a counter between two batches."""
SYNC: Final = Call(0, 1)
"""The driver of a counter while what the journal holds of it is being sent."""


@dataclass(slots=True, eq=False, kw_only=True)
class Batch:
    """A frozen sum of increments.

    Attributes:
        sequence: Its number, never used for anything else.
        calls: Whose increments they are, in order of arrival.
        delta: The sum.
        ttl_ms: What the last of them asks for, as if they were sent one by one.
        made_us: When it was frozen, in microseconds since 1970.
        expires_at: Monotonic seconds after which the server may have forgotten it.
        is_uncertain: It was sent and its reply was not seen.
    """

    sequence: int
    calls: Sequence[Call]
    delta: int
    ttl_ms: int
    made_us: int
    expires_at: float
    is_uncertain: bool = False


@dataclass(slots=True, eq=False)
class Tally:
    """One counter of this process while it has work.

    Attributes:
        key: The counter's key.
        floor: The key of its tenant's floor.
        tenant_id: The tenant's name.
        waiting: Callers in no batch, in order of arrival.
        driver: The caller that sends, if any.
        batch: What is under way or uncertain.
        is_shared: The driver has served others with it.
        limit: Callers that the next batch may hold.
    """

    key: bytes
    floor: bytes
    tenant_id: str = ""
    waiting: dict[Call, None] = field(default_factory=dict)
    driver: Call | None = None
    batch: Batch | None = None
    is_shared: bool = False
    limit: int = MAX_BATCH

    def take(self) -> list[Call]:
        """Take the next callers, as many as their sum fits into 64 bits."""
        taken: list[Call] = []
        total = 0
        for call in self.waiting:
            total += call.amount
            if len(taken) == self.limit or not INT64_MIN <= total <= INT64_MAX:
                break
            taken.append(call)
        for call in taken:
            del self.waiting[call]
        return taken

    def put_back(self, calls: Sequence[Call]) -> None:
        """Put `calls` of a batch that added nothing back in front."""
        present = {call: None for call in calls if not call.is_gone}
        self.waiting = present | self.waiting

    def split(self, calls: Sequence[Call]) -> None:
        """Put `calls` back in front, to be tried in halves."""
        self.put_back(calls)
        self.limit = max(1, len(calls) // 2)

    def heir(self) -> Call | None:
        """Return who has to send when the driver leaves."""
        return next((call for call in self._pending() if call.is_waiting), None)

    def _pending(self) -> Iterator[Call]:
        return chain(self.batch.calls if self.batch else (), self.waiting)


def shares(calls: Sequence[Call], value: int) -> list[int]:
    """Return each caller's own value, given the counter's `value` after all of them.

    In order of arrival, as if each had been sent alone. Should that leave 64 bits on
    the way (large amounts of both signs), another order is taken: those of one sign
    while the sum is on the other side of zero, so it never does. The calls were under
    way together, so any order is a true one.
    """
    base = value - sum(call.amount for call in calls)
    partial, results = base, []
    for call in calls:
        partial += call.amount
        if not INT64_MIN <= partial <= INT64_MAX:
            return _alternating(calls, base)
        results.append(partial)
    return results


def _alternating(calls: Sequence[Call], base: int) -> list[int]:
    down = [at for at, call in enumerate(calls) if call.amount < 0]
    up = [at for at, call in enumerate(calls) if call.amount >= 0]
    results, partial = [0] * len(calls), base
    for _ in calls:
        side = down if (partial >= 0 and down) or not up else up
        at = side.pop(0)
        partial += calls[at].amount
        results[at] = partial
    return results
