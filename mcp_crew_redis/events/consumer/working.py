"""The calls of one subscription: tasks that take entries in turn and run the handler.

A task lives as long as the consumer and takes the next entry when its handler returns:
an event costs no task of its own, and a handler that never waits costs no switch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from math import inf
from typing import Any, Final, TypeVar

from mcp_crew_redis._wire.envelope import Fields
from mcp_crew_redis.events.consumer.counts import ConsumerCounts
from mcp_crew_redis.events.consumer.hand import Hand
from mcp_crew_redis.events.consumer.held import Held
from mcp_crew_redis.events.consumer.verdicts import Verdicts
from mcp_crew_redis.events.making import CURRENT
from mcp_crew_redis.events.outcomes import Reject, Retry
from mcp_crew_redis.events.subscriptions import Subscription
from mcp_crew_redis.log import get_logger

__all__ = ["Workers"]

log = get_logger(__name__)

T = TypeVar("T")

NOTHING: Final[Mapping[str, Retry | Reject]] = {}
EXPECTED: Final = (
    "a batch handler returns None, or Retry or Reject by the ids of its events"
)


class Worker:
    """One call at a time.

    Attributes:
        task: Where it runs.
        overdue_at: When the present call has taken too long, in monotonic seconds.
        is_overdue: It was cancelled for that.
        outcome: What the handler has returned.
        woken: Ends its rest.
    """

    __slots__ = ("is_overdue", "outcome", "overdue_at", "task", "woken")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.overdue_at = inf
        self.is_overdue = False
        self.outcome: object = None
        self.woken: asyncio.Future[None] | None = None


class Workers:
    """All calls of one subscription.

    Args:
        subscription: The handler, and how many calls at a time.
        hand: Where entries come from.
        verdicts: What the outcomes mean.
        counts: What has been done.
        monotonic: Local seconds.
    """

    def __init__(
        self,
        subscription: Subscription,
        hand: Hand,
        verdicts: Verdicts,
        counts: ConsumerCounts,
        monotonic: Callable[[], float],
    ) -> None:
        self._handler: Callable[[Any], Awaitable[Any]] = subscription.handler
        self._subscription = subscription
        self._hand = hand
        self._verdicts = verdicts
        self._counts = counts
        self._monotonic = monotonic
        self._timeout = inf if subscription.timeout is None else subscription.timeout
        self._group: asyncio.TaskGroup | None = None
        self._workers: list[Worker] = []
        self._idle: list[Worker] = []
        self._plain = 0  # calls taken up by what is not critical
        self._is_stirring = self._is_ending = self._is_aborting = False

    @property
    def busy(self) -> int:
        """Calls under way."""
        return len(self._workers) - len(self._idle)

    def start(self, group: asyncio.TaskGroup) -> None:
        """Work from now on, in tasks of that group."""
        self._group = group

    def stir(self) -> None:
        """Have somebody look: there is something to do, or all is to end."""
        if self._is_stirring:
            return  # whoever was woken wakes the next
        if self._idle:
            woken = self._idle.pop().woken
            if woken is not None and not woken.done():
                self._is_stirring = True
                woken.set_result(None)
        elif self._group is not None and (
            len(self._workers) < self._subscription.concurrency
        ):
            self._is_stirring = True
            worker = Worker()
            self._workers.append(worker)
            worker.task = self._group.create_task(self._work(worker))

    def finish(self) -> None:
        """Have every call end as soon as it has nothing to do."""
        self._is_ending = True
        idle, self._idle = self._idle, []
        for worker in idle:
            if worker.woken is not None and not worker.woken.done():
                worker.woken.set_result(None)

    def abort(self) -> None:
        """End every call now; what comes of it is cancelled, not failed."""
        self._is_aborting = self._is_ending = True
        for worker in self._workers:
            if worker.task is not None:
                worker.task.cancel()

    def check(self) -> None:
        """Cancel calls that have taken too long."""
        now = self._monotonic()
        for worker in self._workers:
            if worker.overdue_at <= now and worker.task is not None:
                worker.overdue_at = inf
                worker.is_overdue = True
                worker.task.cancel()

    # --- one call ---------------------------------------------------------------------

    async def _work(self, worker: Worker) -> None:
        """Take entries and handle them; rest while there are none."""
        hand = self._hand
        size = self._subscription.batch_size
        handle = self._handle_batch if size else self._handle
        self._is_stirring = False
        try:
            while True:
                held = hand.next(is_plain=self._plain < hand.plain_calls)
                if held is None:
                    if self._is_ending:
                        return
                    await self._rest(worker)
                    continue
                if held.is_suspect and not await self._begin(worker, held):
                    continue
                is_plain = held.stream.name.lane > 0
                self._plain += is_plain
                if not self._is_stirring and hand:
                    self.stir()
                try:
                    await handle(worker, held)
                finally:
                    self._plain -= is_plain
        finally:
            self._workers.remove(worker)

    async def _begin(self, worker: Worker, held: Held) -> bool:
        return await self._despite(worker, lambda: self._verdicts.begin(held))

    async def _rest(self, worker: Worker) -> None:
        worker.woken = asyncio.get_running_loop().create_future()
        self._idle.append(worker)
        try:
            await worker.woken
        except asyncio.CancelledError:
            if self._is_aborting:
                raise
            await self._shake_off(worker)  # of a handler that has long returned
        finally:
            worker.woken = None
            self._is_stirring = False
            if worker in self._idle:
                self._idle.remove(worker)

    async def _handle(self, worker: Worker, held: Held) -> None:
        failure = await self._call(worker, held.event.fields, held.event)
        if failure is None:
            self._counts.handled += 1
            self._verdicts.done(held)
        else:
            await self._failed(worker, held, failure)

    async def _handle_batch(self, worker: Worker, first: Held) -> None:
        batch = self._hand.more(first, self._subscription.batch_size)
        origin = first.event.fields if len(batch) == 1 else None
        failure = await self._call(worker, origin, [held.event for held in batch])
        if failure is None:
            await self._settle_batch(worker, batch, worker.outcome)
            return
        for held in batch:
            await self._failed(worker, held, failure)

    async def _call(
        self, worker: Worker, origin: Fields | None, argument: object
    ) -> Exception | None:
        """Call the handler; return what has gone wrong."""
        failure: Exception | None = None
        CURRENT.set(origin)
        worker.overdue_at = self._monotonic() + self._timeout
        try:
            worker.outcome = await self._handler(argument)
        except BaseException as error:  # noqa: BLE001 - told apart in `_failure`
            failure = self._failure(worker, error)
        worker.overdue_at = inf
        if worker.task is not None and worker.task.cancelling():
            await self._shake_off(worker)
        return failure

    async def _settle_batch(
        self, worker: Worker, batch: list[Held], outcome: object
    ) -> None:
        """Settle each event as the handler says; all have failed if it makes no sense.

        Before the first is acknowledged: a slip must not pass for "all handled".
        """
        verdicts = self._verdicts
        if outcome is None:
            outcome = NOTHING
        if not isinstance(outcome, Mapping) or not (
            outcome.keys() <= {held.event.id for held in batch}
        ):
            for held in batch:
                await self._failed(worker, held, TypeError(EXPECTED))
            return
        for held in batch:
            verdict = outcome.get(held.event.id) if outcome else None
            if verdict is None:
                self._counts.handled += 1
                verdicts.done(held)
            else:
                await self._failed(worker, held, _as_failure(verdict))

    async def _failed(self, worker: Worker, held: Held, failure: Exception) -> None:
        await self._despite(worker, lambda: self._verdicts.failed(held, failure))

    async def _despite(self, worker: Worker, work: Callable[[], Awaitable[T]]) -> T:
        """Do what may be done twice, whoever of the handler's cancels this task."""
        while True:
            try:
                return await work()
            except asyncio.CancelledError:
                if self._is_aborting:
                    raise
                await self._shake_off(worker)

    def _failure(self, worker: Worker, error: BaseException) -> Exception:
        """Return what has gone wrong; raise what is not the handler's."""
        if isinstance(error, Exception):
            return error
        if self._is_aborting or not isinstance(error, asyncio.CancelledError):
            raise error
        if worker.is_overdue:
            self._counts.timeouts += 1
            return TimeoutError(f"the handler took over {self._timeout} s")
        return RuntimeError("the handler was cancelled from within")

    async def _shake_off(self, worker: Worker) -> None:
        """Take back cancellations of this task that were for the handler alone.

        Its own timeout, or whatever the handler has called. One that has not been
        raised yet would be at the next wait.
        """
        worker.is_overdue = False
        assert worker.task is not None
        while worker.task.cancelling() and not self._is_aborting:
            worker.task.uncancel()
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            if self._is_aborting:
                raise


def _as_failure(verdict: object) -> Exception:
    if isinstance(verdict, Exception):
        return verdict
    return TypeError(EXPECTED)
