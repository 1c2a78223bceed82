"""Keep something open in a task of its own for the length of an `async with`.

Cancelling the caller then asks for an orderly end and cannot tear it. No cancel scope
is held in the caller's task across the `yield`, so a test fixture may enter in one
task and leave in another.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager

from anyio import CancelScope, move_on_after

from mcp_crew_redis.errors import LifecycleError

__all__ = ["Caller", "held", "raise_together"]


class Caller:
    """The task inside an `async with`, as the task that serves it sees it."""

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._cancelling = self._task.cancelling() if self._task else 0
        self.settled = asyncio.Event()  # let in, or never will be
        self.is_welcome = False
        self.was_inside = False
        self._is_inside = False
        self._is_interrupted = False
        self._left = asyncio.Event()

    def let_in(self) -> None:
        """Everything has started: the body may run."""
        self.is_welcome = True
        self.settled.set()

    async def send_out(self, patience: float) -> None:
        """Interrupt the body and wait up to `patience` seconds until it has left."""
        self.is_welcome = False
        # A fixture's body has no task of its own: there is nobody to interrupt.
        if not self._is_inside or self._task is None or self._task.done():
            return
        self._is_interrupted = True
        self._task.cancel()
        with move_on_after(patience):
            await self._left.wait()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Mark the body's extent; what `send_out` cancelled is uncancelled after it."""
        self._is_inside = self.was_inside = True
        try:
            yield
        finally:
            self._is_inside = False
            self._left.set()
            if self._is_interrupted and self._task is not None:
                self._task.uncancel()

    def was_sent_out(self) -> bool:
        """Whether a cancellation that left the body was ours and nobody else's."""
        if not self._is_interrupted or self._task is None:
            return False
        return self._task.cancelling() <= self._cancelling


@asynccontextmanager
async def held(
    serve: Callable[[Caller], Coroutine[None, None, None]],
    *,
    stop: Callable[[], None],
    name: str,
) -> AsyncGenerator[None, None]:
    """Run `serve` in a task of its own for the length of the body.

    Args:
        serve: Opens, calls `caller.let_in()`, serves until `stop`, closes. It bounds
            its own shutdown, which is waited for however often the caller is cancelled.
        stop: Asks `serve` to end; may be called at any time and more than once.
        name: The task's name.

    Raises:
        Exception: The lone error of body or `serve`, bare; several as a group.
    """
    errors: list[Exception] = []
    is_forgotten = False
    caller = Caller()
    host = asyncio.get_running_loop().create_task(serve(caller), name=name)
    host.add_done_callback(lambda _: caller.settled.set())
    try:
        await caller.settled.wait()
        if caller.is_welcome and not host.done():
            with caller.inside():
                yield
    except GeneratorExit:
        is_forgotten = True  # never left, and the loop is gone: there is no waiting
        raise
    except asyncio.CancelledError:
        if not caller.was_sent_out():
            raise
    except Exception as error:  # noqa: BLE001 - raised below, with what came after it
        errors.append(error)
    finally:
        stop()
        if not is_forgotten:
            await _outlast(host)
    if ending := _ending(host):
        errors.append(ending)
    elif not caller.was_inside:
        errors.append(LifecycleError(f"{name} was stopped before it had started"))
    raise_together(f"{name} failed", errors)


async def _outlast(host: asyncio.Task[None]) -> None:
    """Wait for the host through any cancellation, then let that have its effect."""
    interruption: asyncio.CancelledError | None = None
    # The shield holds off anyio's cancellation, the loop holds off asyncio's own.
    with CancelScope(shield=True):
        while not host.done():
            try:
                await asyncio.wait({host})
            except asyncio.CancelledError as error:
                interruption = error
    if interruption is not None:
        raise interruption


def _ending(host: asyncio.Task[None]) -> Exception | None:
    if host.cancelled():
        return LifecycleError(f"{host.get_name()} was cancelled from outside")
    error = host.exception()
    return error if isinstance(error, Exception) else None


def raise_together(message: str, errors: list[Exception]) -> None:
    """Raise a lone error bare, so that `except MyError` works; several as a group."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ExceptionGroup(message, errors)
